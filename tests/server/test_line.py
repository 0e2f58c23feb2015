"""Whose connection ends when there is no room for what it is sent."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from select import select

import pytest
import zmq

from proxyfab.server import floods
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


def test_a_name_that_two_say_is_the_first_ones_and_leaves_no_descriptor(line, context):
    """What else libzmq does of the one whose name was taken over, and who goes on to send: 59 of 60 stayed open."""

    def quiet() -> int:
        while line.receive() is not None:
            pass
        line.gone()
        return len(os.listdir("/proc/self/fd"))

    with dealer(context):  # what the context itself needs is open from now on
        before = quiet()
    for number in range(5):
        with dealer(context) as first, dealer(context) as second:
            second.immediate = True  # its first message goes when the connection stands
            for one in (first, second):
                one.setsockopt(zmq.ROUTING_ID, b"same%d" % number)
                one.connect(line.endpoints[0])
                one.send(b"something")
            for _ in range(10):
                first.send(b"more")
                assert until(lambda: line.receive() is not None)
            second.send(b"more")
            quiet()
    assert until(lambda: quiet() <= before)


def test_who_comes_again_under_a_name_that_is_taken_and_says_nothing_is_found_in_the_end(line, context, monkeypatch):
    monkeypatch.setattr(floods, "_MUTE", 0.05)
    with dealer(context) as former, dealer(context) as again:
        again.reconnect_ivl = 20
        for one in (former, again):
            one.setsockopt(zmq.ROUTING_ID, b"process")
            one.connect(line.endpoints[0])
            assert until(lambda: line.reaches(b"process"))
        assert until(lambda: line.gone() == [] and len(line.floods._mute) == 2)
        former.close()
        assert until(lambda: line.gone() != [])
        assert until(lambda: line.receive() is None and line.gone() is not None and line.reaches(b"process"))


def test_a_unix_socket_takes_its_own_user_only(context, tmp_path, monkeypatch):
    line = Line(Options(bind=[f"ipc://{tmp_path}/line"]))
    line.open()
    with contextlib.closing(line), dealer(context) as one:
        assert stat.S_IMODE(os.stat(tmp_path / "line").st_mode) == 0o600
        monkeypatch.setattr(floods, "user_of", lambda _: os.geteuid() + 1)
        one.connect(line.endpoints[0])
        one.send(b"something")
        heard: list[object] = []
        assert until(lambda: heard.append(line.receive()) or line.gone() != [])
        assert not any(heard)
        assert line.floods.ended == 1


def test_nobody_is_heard_who_says_a_name_of_the_side_channel(line, context):
    with dealer(context) as one:
        one.setsockopt(zmq.ROUTING_ID, b"\0side" + (1).to_bytes(8, "big"))
        one.connect(line.endpoints[0])
        one.send(b"something")
        heard: list[object] = []
        assert until(lambda: heard.append(line.receive()) or line.dropped == 1)
        assert not any(heard)
