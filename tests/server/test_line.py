"""Whose connection ends when there is no room for what it is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from select import select

import pytest
import zmq

from proxyfab.server.line import Line
from proxyfab.server.options import Options
from proxyfab.server.poll import Poll
from proxyfab.testing.processes import until
from proxyfab.wire.flow import ANSWERS
from proxyfab.wire.messages import NOBODY

LARGE = [memoryview(bytes(2**20))]


@pytest.fixture(params=["tcp", "ipc"])
def line(request, tmp_path) -> Iterator[Line]:
    bind = "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{tmp_path}/line"
    line = Line(Options(bind=[bind]))
    line.open()
    yield line
    line.close()


def dealer(context: zmq.Context) -> zmq.Socket:
    """Somebody who does not read, and never comes back."""
    one = context.socket(zmq.DEALER)
    one.linger, one.rcvhwm, one.reconnect_ivl, one.rcvtimeo = 0, 1, -1, 30_000
    return one


def heard(line: Line, other_than: bytes = b"") -> tuple[bytes, int]:
    """Who was heard, over which descriptor."""
    found: list[tuple[bytes, int]] = []

    def come() -> bool:
        received = line.receive()
        if received is not None and received[0] != other_than:
            found.append(received[:2])
        return bool(found)

    assert until(come)
    return found[0]


def test_what_is_heard_late_of_a_connection_ends_no_other_one(line, context):
    """Its queue is full still, and its descriptor is another's by then."""
    with dealer(context) as first, dealer(context) as other:
        first.connect(line.endpoints[0])
        for _ in range(5):
            first.send(b"something")
        who, descriptor = heard(line)
        list(line.gone())
        line.meet(who, descriptor)
        sent = 0
        while line.send(who, "ok", NOBODY, {}, LARGE):
            sent += 1
        assert sent >= ANSWERS
        assert until(lambda: descriptor in line.gone())
        line.part(who)
        other.connect(line.endpoints[0])
        other.send(b"something")
        innocent, place = heard(line, who)
        list(line.gone())
        line.meet(innocent, place)
        line.meet(who, place)
        assert not line.send(who, "ok", NOBODY, {}, LARGE)
        assert line.send(innocent, "ok", NOBODY, {}, LARGE)
        assert len(other.recv_multipart()) == 2


def test_what_the_router_notices_while_it_sends_is_heard_although_its_descriptor_is_quiet(line, context):
    with contextlib.closing(Poll()) as poll, dealer(context) as one:
        line.watch(poll)
        one.connect(line.endpoints[0])
        one.send(b"first")
        who, _ = heard(line)
        for number in range(20):
            while line.rung:
                assert line.receive() is None
                poll.wait(0)
            one.send(b"another")
            assert select([line.router.get(zmq.FD)], [], [], 30)[0]
            assert line.reaches(who)
            line.settle()
            poll.wait(0)
            assert line.rung, f"message {number} is not heard before something else happens"
            assert line.receive() is not None
