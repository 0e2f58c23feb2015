"""zmq:// against a real node server: over shared memory, and over each way that bytes can take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.testing import ConnectorTests
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.conformance.threads import ThreadTests
from proxyfab.testing.conformance.waiting import WaitTests
from proxyfab.testing.nodes import NodeServer


@pytest.fixture(scope="module")
def server() -> Iterator[NodeServer]:
    with NodeServer() as server:
        yield server


class Served(Suite):
    """By one server for all tests."""

    connector = ZMQConnector
    on_disk = False
    interruptible = False
    options = ""

    @pytest.fixture(autouse=True)
    def _served(self, server: NodeServer) -> None:
        self.server = server

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"{self.server.url}{self.options}"


class TestShared(Served, ConnectorTests):
    """On the server's own machine: beside ZeroMQ, and large objects through shared memory."""


@pytest.mark.slow
class TestSharedOverZeroMQ(Served, ObjectTests, BatchTests, PayloadTests, ThreadTests, WaitTests):
    """Shared memory, and nothing beside ZeroMQ: each of both has a whole suite."""

    options = "?side=0"


class TestUnix(Served, ConnectorTests):
    """All bytes through a Unix socket."""

    options = "?shared=0"


class TestTCP(Served, ObjectTests, PayloadTests, ThreadTests):
    """All bytes through TCP: what is not of the Unix socket's suite."""

    options = "?shared=0&side=tcp"


class TestWire(Served, ConnectorTests):
    """As from another machine: all bytes through ZeroMQ."""

    around = True  # the same server; the Unix socket's suite has it all
    options = "?shared=0&side=0"
