"""Whose connection ends when there is no room for what it is sent."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from select import select

import pytest
import zmq

from proxyfab.server import connections
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
                assert one is second or until(lambda: line.receive() is not None)  # so the name is the first one's
            for _ in range(10):
                first.send(b"more")
                assert until(lambda: line.receive() is not None)
            second.send(b"more")
            quiet()
    assert until(lambda: quiet() <= before)


def test_who_comes_again_under_a_name_that_is_taken_and_says_nothing_is_found_in_the_end(line, context, monkeypatch):
    monkeypatch.setattr(connections, "_MUTE", 0.05)
    with dealer(context) as former, dealer(context) as again:
        again.reconnect_ivl = 20
        for one in (former, again):
            one.setsockopt(zmq.ROUTING_ID, b"process")
            one.connect(line.endpoints[0])
            assert until(lambda: line.reaches(b"process"))
        assert until(lambda: line.gone() == [] and len(line.connections._here) == 2)
        former.close()
        assert until(lambda: line.gone() != [])
        assert until(lambda: line.receive() is None and line.gone() is not None and line.reaches(b"process"))


def test_who_has_been_there_for_long_is_not_sent_away_because_another_one_is_missed(line, context, monkeypatch):
    for name, seconds in {"_MUTE": 0.0, "_BEFORE": 0.01, "_AFTER": 0.0}.items():
        monkeypatch.setattr(connections, name, seconds)
    with dealer(context) as there, dealer(context) as other:
        for one, name in ((there, b"there"), (other, b"other")):
            one.setsockopt(zmq.ROUTING_ID, name)
            one.connect(line.endpoints[0])
            came = len(line.connections._here)
            assert until(lambda: line.gone() == [] and len(line.connections._here) > came)  # noqa: B023  # called at once
            assert until(lambda: line.reaches(name))  # noqa: B023
            since = time.monotonic()
            assert until(lambda: time.monotonic() - since > 0.01)  # noqa: B023
        other.close()
        assert until(lambda: line.gone() != [])
        assert until(lambda: not line.reaches(b"other"))
        assert len(line.connections._here) == 1


def test_that_somebody_has_gone_is_not_forgotten_where_nobody_asked(line, context):
    with dealer(context) as one, dealer(context) as stranger:
        one.connect(line.endpoints[0])
        one.send(b"something")
        _, descriptor = heard(line)
        line.gone()
        one.close()
        assert line.monitor.poll(30_000)
        stranger.setsockopt(zmq.ROUTING_ID, b"\0side" + (1).to_bytes(8, "big"))
        stranger.connect(line.endpoints[0])
        stranger.send(b"something")
        assert until(lambda: line.receive() is None and line.dropped == 1)
        assert line.tolled
        assert descriptor in line.gone()
        assert not line.tolled


def test_a_unix_socket_takes_its_own_user_only(context, tmp_path, monkeypatch):
    line = Line(Options(bind=[f"ipc://{tmp_path}/line"]))
    line.open()
    with contextlib.closing(line), dealer(context) as one:
        assert stat.S_IMODE(os.stat(tmp_path / "line").st_mode) == 0o600
        monkeypatch.setattr(connections, "user_of", lambda _: os.geteuid() + 1)
        one.connect(line.endpoints[0])
        one.send(b"something")
        heard: list[object] = []
        assert line.router.poll(30_000)
        assert until(lambda: line.gone() != [])  # and what he said is there still
        assert until(lambda: heard.append(line.receive()) or line.dropped == 1)
        assert not any(heard)
        assert line.connections.ended == 1


def test_of_another_user_not_even_a_connection_is_seen_on_a_unix_socket(context, tmp_path, monkeypatch):
    monkeypatch.setattr("proxyfab.server.line.users", lambda: (os.geteuid() + 1, os.geteuid() + 2))
    line = Line(Options(bind=[f"ipc://{tmp_path}/line"]))
    line.open()
    with contextlib.closing(line), dealer(context) as one:
        monitor = one.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        one.connect(line.endpoints[0])
        one.send(b"something")
        assert monitor.poll(30_000)
        assert line.receive() is None
        line.gone()
        assert not line.connections._here
        one.disable_monitor()
        monitor.close(0)


def test_nobody_is_heard_who_says_a_name_of_the_side_channel(line, context):
    with dealer(context) as one:
        one.setsockopt(zmq.ROUTING_ID, b"\0side" + (1).to_bytes(8, "big"))
        one.connect(line.endpoints[0])
        one.send(b"something")
        heard: list[object] = []
        assert until(lambda: heard.append(line.receive()) or line.dropped == 1)
        assert not any(heard)
