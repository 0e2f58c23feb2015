"""Links over real sockets: what is asked for comes whole, whatever becomes of the streams."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError, ProxyfabError, ResolveTimeout
from proxyfab.link.line import Line
from proxyfab.link.question import Outcome, Question
from proxyfab.link.room import Room
from proxyfab.link.sending import Segment
from proxyfab.link.streams import Stream
from proxyfab.osio import sockets
from proxyfab.testing.processes import until

MB = 1_000_000


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        return here, listener.accept()[0]


class Pair:
    """Two sites in one process, with TCP streams between them that may be cut, and come again."""

    def __init__(self, objects: dict[str, bytes], streams: int = 4, room: Room | None = None) -> None:
        self.objects = objects
        self.numbers = itertools.count()
        self.again = True
        self.dials: list[threading.Thread] = []
        self.near = Line("far", self._none, ended=self._redial, room=room)
        self.far = Line("near", self._find)
        for _ in range(streams):
            self.dial()

    def _none(self, key: Any) -> Frames | None:
        return None

    def _find(self, key: str) -> Frames | None:
        if key == "broken":
            raise ProxyfabError("The disk is on fire; call somebody.")
        found = self.objects.get(key)
        return None if found is None else Frames([found[: len(found) // 3], found[len(found) // 3 :]])

    def dial(self) -> None:
        number = next(self.numbers)
        here, there = connected()
        for line, connection in ((self.near, here), (self.far, there)):
            if not line.join(number, partial(Stream, number, connection)):  # it was closed, or gave the stream up
                connection.close()

    def _redial(self, number: int, why: str) -> None:
        if self.again:
            dial = threading.Thread(target=self.dial, daemon=True)
            dial.start()
            self.dials.append(dial)

    def cut_one(self, choice: random.Random) -> None:
        """Break a stream as a network does: what is under way is lost."""
        side = choice.choice([self.near, self.far])
        streams = list(side._streams.values())
        if streams:
            with contextlib.suppress(OSError):  # it broke already
                choice.choice(streams)._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.again = False
        self.near.close()
        for dial in self.dials:
            dial.join(10)
        self.far.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair({"empty": b"", "one": b"1", "small": os.urandom(60_000), "large": os.urandom(5 * MB + 1)})
    yield pair
    pair.close()


def test_objects_of_all_sizes_and_what_is_not_there(pair: Pair) -> None:
    keys = ["empty", "one", "small", "large", "absent", "broken", "large"]
    found = pair.near.get_many(keys, 30)
    for key, outcome in zip(keys, found, strict=True):
        if key in pair.objects:
            assert outcome.frames is not None
            assert outcome.frames.tobytes() == pair.objects[key]
    assert found[4] == Outcome(None)
    assert found[5] == Outcome(None, "The disk is on fire; call somebody.", "ProxyfabError")
    assert until(lambda: not pair.far._desk._leaving)  # nothing is kept for what arrived
    assert not pair.near._arrivals
    assert not pair.near._open


def test_both_sides_ask_at_once_from_many_threads(pair: Pair) -> None:
    pair.near._source = pair._find
    answers: list[list[Outcome]] = []

    def ask(line: Line) -> None:
        answers.append(line.get_many(["large", "one"], 30))

    threads = [threading.Thread(target=ask, args=(line,)) for line in (pair.near, pair.far) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 8
    for large, one in answers:
        assert large.frames is not None
        assert large.frames.tobytes() == pair.objects["large"]
        assert one.frames == Frames([b"1"])


@pytest.mark.parametrize("seed", range(3))
def test_streams_that_break_lose_nothing(seed: int) -> None:
    choice = random.Random(seed)
    pair = Pair({str(number): os.urandom(choice.randrange(4 * MB)) for number in range(12)}, streams=3)
    cuts = 0
    done = threading.Event()

    def break_streams() -> None:
        nonlocal cuts
        while not done.wait(choice.uniform(0, 0.01)):
            pair.cut_one(choice)
            cuts += 1

    breaker = threading.Thread(target=break_streams)
    breaker.start()
    try:
        for _ in range(3):
            keys = list(pair.objects)
            for key, outcome in zip(keys, pair.near.get_many(keys, 60), strict=True):
                assert outcome.frames is not None, outcome.why
                assert outcome.frames.tobytes() == pair.objects[key]
    finally:
        done.set()
        breaker.join()
        pair.close()
    assert cuts > 3
    assert pair.near.figures["doubled"] == 0
    sent, again = pair.far.figures["sent"], pair.far.figures["again"]
    assert sent - again == 3 * sum(len(each) for each in pair.objects.values() if len(each) > 64 << 10)


def test_no_stream_no_answer_but_a_deadline() -> None:
    pair = Pair({"one": b"1"}, streams=0)
    begun = time.monotonic()
    with pytest.raises(ResolveTimeout, match=r"of site far, and not all came within 0\.2 s: no stream to it is open"):
        pair.near.get_many(["one"], 0.2)
    assert time.monotonic() - begun < 2
    pair.dial()
    assert pair.near.get_many(["one"], 30)[0].frames == Frames([b"1"])
    pair.close()
    with pytest.raises(ConnectorError, match="the link to it was closed"):
        pair.near.get_many(["one"], 30)


def test_a_slow_stream_takes_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what is asked for next would wait for it, long after who asked first has gone."""
    monkeypatch.setattr(sockets, "rate", lambda _: 40_000.0)
    pair = Pair({"large": os.urandom(MB)}, streams=2)
    taken: list[int] = []
    source = pair.far.source

    def noted(segment: Segment) -> tuple[Frames, int] | None:
        taken.append(segment.length)
        return source(segment)

    monkeypatch.setattr(pair.far, "source", noted)
    try:
        (outcome,) = pair.near.get_many(["large"], 30)
        assert outcome.frames is not None
        assert outcome.frames.tobytes() == pair.objects["large"]
        assert sum(taken) == MB
        assert max(taken) == 8192  # of which there are five in a second
        lows = [each._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) for each in streams_of(pair)]
        assert min(lows) == 8192
    finally:
        pair.close()


def streams_of(pair: Pair) -> list[Stream]:
    return [each for line in (pair.near, pair.far) for each in line._streams.values()]


class Stalling(socket.socket):
    """A connection that stands still amid an object until `go`, and then brings bytes of another one."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(fileno=connection.detach())
        self.stands, self.go = threading.Event(), threading.Event()

    def recv_into(self, buffer: Any, *args: Any) -> int:
        into = memoryview(buffer)
        if self.stands.is_set() or into.nbytes < 10_000:  # a heading, or a letter
            return super().recv_into(buffer, *args)
        self.stands.set()
        assert self.go.wait(60)
        into[:] = b"?" * into.nbytes
        return into.nbytes


def test_a_stream_that_does_not_end_writes_into_nothing_that_was_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyfab.link.line._FAREWELL", 0.01)
    pair = Pair({"large": os.urandom(200_000)}, streams=0)
    here, there = connected()
    stalling = Stalling(here)
    pair.again = False
    assert pair.near.join(7, partial(Stream, 7, stalling))
    assert pair.far.join(7, partial(Stream, 7, there))
    ended = threading.Event()
    stalled = pair.near._streams[7]
    question = Question("large", lambda _: ended.set())
    pair.near.ask([question])
    try:
        assert stalling.stands.wait(30)
        open_ones = pair.near.close()
        assert open_ones == [question]
        pair.near, pair.far = Line("far"), Line("near", pair._find)
        pair.dial()
        pair.near.ask(open_ones)
        assert ended.wait(30)
        stalling.go.set()
        assert stalled.join(30)
        assert question.outcome is not None
        assert question.outcome.frames is not None
        assert question.outcome.frames.tobytes() == pair.objects["large"]
    finally:
        stalling.go.set()
        stalled.join(30)
        pair.close()


def test_what_is_too_large_is_refused_and_the_link_lives() -> None:
    pair = Pair({"large": bytes(2 * MB), "one": b"1"}, room=Room(MB))
    try:
        (refused,) = pair.near.get_many(["large"], 30)
        assert refused == Outcome(
            None, "An object of site far has 2000000 bytes, and 750000 of 1000000 are left for it.", "CapacityError"
        )
        assert pair.near.get_many(["one"], 30)[0].frames == Frames([b"1"])
        assert pair.near.streams == 4
    finally:
        pair.close()


def test_a_side_that_talks_nonsense_loses_its_stream_and_no_more() -> None:
    pair = Pair({"one": b"1"})
    mouth, ear = connected()
    try:
        ended = []
        pair.far._ended = lambda number, why: ended.append((number, why))
        assert pair.far.join(99, partial(Stream, 99, ear))
        mouth.sendall(b"GET / HTTP/1.1\r\nHost: proxyfab.example\r\n\r\n")
        assert until(lambda: ended)
        assert ended[0][0] == 99
        assert "does not keep to the protocol" in ended[0][1]
        assert pair.near.get_many(["one"], 30)[0].frames == Frames([b"1"])
    finally:
        pair.close()
        mouth.close()
