"""The sealing layer passes the suite of any connector, over memory and over files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.layers.sealed import SealedConnector
from proxyfab.seal import Seal
from proxyfab.testing import ConnectorTests

KEYS = {
    "PROXYFAB_KEY_TEST": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "PROXYFAB_SIGN_TEST": "YWJjZGVmZ2hpamFiY2RlZmdoaWphYmNkZWZnaGlqMDE=",
}


class SealedMemory(SealedConnector):
    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Any:
        return cls(MemoryConnector.from_url(url, name=name), Seal("encrypt", "test"))


class SealedFile(SealedConnector):
    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Any:
        return cls(FileConnector.from_url(url, name=name), Seal("sign", "test"))


class _Sealed(ConnectorTests):
    around = True
    reads_neighbours = False  # an object is bound to its namespace

    @pytest.fixture(autouse=True)
    def keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)


class TestSealedMemory(_Sealed):
    connector = SealedMemory
    crosses_processes = False
    reclaims = False
    on_disk = False
    test_more_than_four_gib = None  # plain, encrypted and stored at once: 13 GB; the signed file below copies nothing

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return "memory://"


class TestSealedFile(_Sealed):
    connector = SealedFile

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"file://{directory}"
