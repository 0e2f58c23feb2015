"""memory:// passes the suite; it lives in one process, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyfab.connectors.memory import MemoryConnector
from proxyfab.testing import ConnectorTests


class TestMemory(ConnectorTests):
    connector = MemoryConnector
    crosses_processes = False
    reclaims = False
    on_disk = False
    reads_neighbours = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return "memory://"
