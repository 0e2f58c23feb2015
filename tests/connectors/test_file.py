"""file:// passes the suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyfab.connectors.file import FileConnector
from proxyfab.keys import Key
from proxyfab.osio.objects import fan_of, name_of
from proxyfab.testing import ConnectorTests


def file_of(connector: Any, key: Key) -> Path:
    """Where an object's bytes lie."""
    namespace = key.where.partition("/")[2]
    return Path(connector.path, namespace, fan_of(key.id), name_of(key.id))


class TestFile(ConnectorTests):
    connector = FileConnector
    can_damage = True

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"file://{directory}"

    def damage(self, connector: Any, key: Key, edit: Callable[[bytes], bytes]) -> None:
        path = file_of(connector, key)
        content = edit(path.read_bytes())
        path.unlink()
        path.write_bytes(content)
