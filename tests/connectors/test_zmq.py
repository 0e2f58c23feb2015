"""zmq:// against a real node server: over shared memory, and over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.testing import ConnectorTests
from proxyfab.testing.nodes import NodeServer


@pytest.fixture(scope="module")
def server() -> Iterator[NodeServer]:
    with NodeServer() as server:
        yield server


class TestShared(ConnectorTests):
    """On the server's own machine: large objects go through shared memory."""

    connector = ZMQConnector
    on_disk = False
    interruptible = False
    options = ""

    @pytest.fixture(autouse=True)
    def _served(self, server: NodeServer) -> None:
        self.server = server

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"{self.server.url}{self.options}"


class TestWire(TestShared):
    """As from another machine."""

    options = "?shared=0"
