"""What is little, and many small things: few bytes to ask for, and each stream carries what it can send at once."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import deque
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError
from proxyfab.link import streams
from proxyfab.link.frames import heading_of_letter
from proxyfab.link.sending import Item, Letter, Segment, Sender
from proxyfab.link.session import Asked, Session
from proxyfab.link.streams import Stream
from proxyfab.osio import sockets
from proxyfab.testing.processes import until
from tests.link.test_line import connected

_CLOSED = 7
"""TCP_CLOSE: what the kernel says of a connection that was reset."""


def letters(session: Session) -> list[bytes]:
    found = []
    while isinstance(item := session.take(0), Letter):
        found.append(item.text)
    return found


def sides() -> tuple[Session, Session]:
    both = Session(), Session()
    for each in both:
        each.join(0)
    return both


def test_a_thousand_keys_are_asked_for_in_few_bytes_and_small_letters() -> None:
    here, there = sides()
    home = ["get", "aps", "~wp3p7iiafozqaaaafoorqaaaa", "4f1c9ad3f1b34be1a1f7d5f3f1b34be1"]
    keys = [[*home, os.urandom(16).hex(), ["alcf"]] for _ in range(1000)]
    here.ask(keys)
    texts = letters(here)
    assert sum(map(len, texts)) < 40_000
    assert max(map(len, texts)) < 8_000
    events = [event for text in texts for event in there.read(0, text)]
    assert all(isinstance(event, Asked) for event in events)
    assert [want.key for event in events for want in event.wants] == keys  # type: ignore[union-attr]  # as asserted
    assert [want.transfer for event in events for want in event.wants] == list(range(1000))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "keys",
    [
        ["text", "text"],
        [["a"], ["a"]],
        [["a", "b"], ["a", "b"]],
        [["a", 1, "c"], ["a", True, "c"], ["a", 1.0, "d"]],
        [["a", "b"], ["a", "b", "c"]],
        [["a", "b"], "ab"],
        [["a", []], ["b", []]],
        [["x", {"n": 1}, 2], ["y", {"n": 1}, 2]],
        [list(range(20))] * 3,
        [[], []],
    ],
    ids=str,
)
def test_keys_of_any_form_come_as_they_were(keys: list[Any]) -> None:
    here, there = sides()
    here.ask(keys)
    (event,) = (event for text in letters(here) for event in there.read(0, text))
    assert isinstance(event, Asked)
    assert [want.key for want in event.wants] == keys
    assert [repr(want.key) for want in event.wants] == [repr(key) for key in keys]


@pytest.mark.parametrize(
    "fields",
    [
        {"t": 0, "keys": ["a"], "head": [], "tail": []},
        {"t": 0, "keys": [["a"]], "head": []},
        {"t": 0, "keys": [["a"]], "head": list(range(17)), "tail": []},
        {"t": 0, "keys": [["a"]] * 251, "head": [], "tail": []},
        {"t": 0, "keys": [["a"]], "head": "ab", "tail": []},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_letters_that_ask_nonsense(fields: dict[str, Any]) -> None:
    here, there = sides()
    here._tell("ask", fields)
    with pytest.raises(IntegrityError):
        there.read(0, letters(here)[0])


def test_a_stream_that_asks_for_little_gets_little() -> None:
    sender = Sender()
    for stream in (3, 4):
        sender.join(stream)
    sender.offer(0, [(0, 200_000)])
    assert sender.take(3, 4096) == Segment(0, 0, 4096)
    assert sender.take(4) == Segment(0, 4096, 61440)  # to the end of one of the usual segments, as there are two
    assert sender.take(3, 4096) == Segment(0, 65536, 4096)


class Giver:
    """Has letters to send, for whichever stream takes them."""

    def __init__(self, many: int, nbytes: int) -> None:
        self.left = deque(Letter(bytes(nbytes)) for _ in range(many))
        self.taken: list[int] = []
        self.much = False

    def next(self, stream: int, most: int) -> Item | None:
        try:
            item = self.left.popleft()
        except IndexError:
            return None
        self.taken.append(stream)
        return item

    def ample(self) -> bool:
        return self.much

    def source(self, segment: Segment) -> tuple[Frames, int] | None: ...
    def target(self, segment: Segment, size: int) -> memoryview | None: ...
    def landed(self, stream: int, segment: Segment) -> None: ...
    def letter(self, stream: int, text: memoryview) -> None: ...
    def over(self, stream: int, why: str) -> None: ...


def narrow() -> tuple[socket.socket, socket.socket]:
    """A connection whose window is full soon, as nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        here = socket.create_connection(listener.getsockname())
        return here, listener.accept()[0]


@pytest.mark.parametrize("much", [False, True])
def test_a_stream_whose_window_is_full_leaves_to_others_what_is_little(
    much: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_PAUSE", 60_000.0)
    giver = Giver(20, 20_000)
    giver.much = much
    full, wide = narrow(), connected()
    slow, fast = Stream(0, full[0], giver), Stream(1, wide[0], giver)
    unsent = sockets.unsent
    monkeypatch.setattr(sockets, "unsent", lambda end: 0 if end is wide[0] else unsent(end))
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: wide[1].recv(1 << 20), b"")])
    reader.start()
    slow.start()
    try:
        assert until(lambda: slow._pauses or (much and not giver.left))
        assert (len(giver.taken) <= 2) is not much
        fast.start()
        assert until(lambda: not giver.left)
        assert giver.taken.count(1) >= 18 or much
    finally:
        slow.close()
        slow.join(10)
        if fast._thread.ident is None:
            wide[0].close()
        fast.close()
        if fast._thread.ident is not None:
            fast.join(10)
        reader.join(10)
        for each in (full[1], wide[1]):
            each.close()


class Talker(Giver):
    """Has something to send, and counts what comes."""

    def __init__(self) -> None:
        super().__init__(1, 1000)
        self.heard = 0
        self.why = ""
        self.ended = threading.Event()

    def letter(self, stream: int, text: memoryview) -> None:
        assert not self.why
        self.heard += 1

    def over(self, stream: int, why: str) -> None:
        self.why = why
        self.ended.set()


@pytest.mark.parametrize("how", ["reset", "given up"])
def test_what_came_before_the_end_is_read(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending fails, or the end was told over another stream, and letters lie here: they count as arrived."""
    monkeypatch.setattr(streams, "_TURN", 1)
    talker = Talker()
    here, there = connected()
    stream = Stream(0, here, talker)
    there.sendall(100 * (heading_of_letter(500) + bytes(500)))
    if how == "reset":
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()
        assert until(lambda: here.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSED)
    else:
        stream.close("the other side gave it up")
    monkeypatch.setattr(streams, "_REST", 1000)
    stream.start()
    assert talker.ended.wait(30)
    stream.join(30)
    assert talker.heard == 100
    there.close()


def test_who_goes_on_sending_does_not_keep_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_TURN", 1)
    talker = Talker()
    here, there = connected()
    stream = Stream(0, here, talker)
    there.sendall(100 * (heading_of_letter(500) + bytes(500)))
    stream.close()
    stream.start()
    assert talker.ended.wait(30)
    stream.join(30)
    assert talker.heard < streams._REST
    there.close()
