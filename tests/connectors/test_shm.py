"""shm:// passes the suite, and what is special about shared memory: leases, recycled segments, full memory, forks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.keys import Key
from proxyfab.testing import ConnectorTests


class TestSharedMemory(ConnectorTests):
    connector = SharedMemoryConnector
    can_damage = True

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory))
        return "shm://"

    def damage(self, connector: Any, key: Key, edit: Callable[[bytes], bytes]) -> None:
        path = Path(os.environ["PROXYFAB_SHM_DIR"], key.where or connector.namespace, key.id)
        path.write_bytes(edit(path.read_bytes()))
