"""zmq:// against a real node server: over shared memory, and over each way that bytes can take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.abc import Swap
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.keys import Key
from proxyfab.testing import ConnectorTests
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.conformance.swapping import SwapTests
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


class TestUnix(Served, ObjectTests, BatchTests, PayloadTests, ThreadTests, WaitTests, SwapTests):
    """All bytes through a Unix socket: what is not of the suite above, where it carries what is small."""

    options = "?shared=0"


@pytest.mark.slow
class TestUnixAll(Served, ConnectorTests):
    """Everything, though what it is made of has shown it."""

    options = "?shared=0"


class TestTCP(Served, ObjectTests, PayloadTests, ThreadTests):
    """All bytes through TCP: what is not of the Unix socket's suite."""

    options = "?shared=0&side=tcp"


class TestWire(Served, ConnectorTests):
    """As from another machine: all bytes through ZeroMQ."""

    around = True  # the same server; the first suite has it all
    options = "?shared=0&side=0"


def test_no_answer_to_many_requests_is_lost_however_many_came_before(server: NodeServer) -> None:
    """A server's queue counts answers that have left for a while as if they had not."""
    value = Frames([b"value"])
    with ZMQConnector.from_url(f"{server.url}?shared=0&side=0&timeout=5") as one:
        keys = one.put_many([value] * 64)
        for _ in range(33):
            assert one.exists(keys[0])
            assert one.compare_and_set_many([Swap(key, value, value) for key in keys]) == [True] * 64
        names = [Key(f"{number}") for number in range(40_000)]
        begun = time.monotonic()
        assert one.wait_any(names, 0.1) == []
        assert time.monotonic() - begun < 5, "what is not there is no answer that is waited for"
        one.put(value, key=names[-1])
        assert one.wait_any(names, 5) == [names[-1]]
