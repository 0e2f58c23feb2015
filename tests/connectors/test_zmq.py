"""zmq:// against a real node server: over shared memory, and over each way that bytes can take."""

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
    """On the server's own machine: beside ZeroMQ, and large objects through shared memory."""

    connector = ZMQConnector
    on_disk = False
    interruptible = False
    options = ""

    @pytest.fixture(autouse=True)
    def _served(self, server: NodeServer) -> None:
        self.server = server

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"{self.server.url}{self.options}"


class TestSharedOverZeroMQ(TestShared):
    """Shared memory, and nothing beside ZeroMQ."""

    options = "?side=0"


class TestUnix(TestShared):
    """All bytes through a Unix socket."""

    options = "?shared=0"


class TestTCP(TestShared):
    """All bytes through TCP."""

    options = "?shared=0&side=tcp"


class TestWire(TestShared):
    """As from another machine: all bytes through ZeroMQ."""

    options = "?shared=0&side=0"
