"""Two sites and the streams between them, by a seeded clock: unequal rates, stalls, breaks and words that are late."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from proxyfab.link.sending import Letter, Segment
from proxyfab.link.session import Asked, Broken, Dropped, Event, Has, Hasnt, Session, Small, Want

PIECE = 16 << 10
"""Bytes that arrive at once."""
SEGMENT = 64 << 10
DIGEST_OF_ALL = bytes(16)
SMALL = 4 << 10
_ONE_MORE = bytes([*range(1, 256), 255])


class Side:
    """A site: its objects, in bytes by key (less than none: it cannot be read), and what it asked the other for."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.objects: dict[str, int] = {}
        self.asked: dict[int, str] = {}
        self.here: dict[int, bytearray] = {}
        """For each transfer, how often each byte of it came."""
        self.outcomes: dict[int, tuple[str, float]] = {}
        """How each transfer ended, and when."""
        self.dropped: list[int] = []
        self.carried: dict[int, int] = {}
        """Bytes of segments that each stream brought."""

    def end(self, transfer: int, how: str, when: float) -> None:
        """A transfer has ended, which it does once."""
        assert transfer not in self.outcomes
        self.outcomes[transfer] = (how, when)


class End:
    """One end of a stream: what it sends arrives at the other in order, later, unless the stream broke by then."""

    def __init__(self, number: int, rate: float, side: Side) -> None:
        self.number, self.rate, self.side = number, rate, side
        self.other: End = self
        self.open = self.ready = False
        """Known to its side, and heard of from the other."""
        self.cut = False
        self.free = 0.0
        """When its last byte will have left."""
        self.unsent = 0


class World:
    """Two sites that ask each other, and what lies between.

    Args:
        seed: Decides everything that happens.
        streams: How many there are; one that breaks is replaced.
        breaks: How many break, at random times.
        latency: Seconds each way.
    """

    def __init__(self, seed: int, *, streams: int = 4, breaks: int = 0, latency: float = 0.025) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.latency = latency
        self.near, self.far = Side(Session(SEGMENT)), Side(Session(SEGMENT))
        self.lost = 0
        """Bytes of segments that were under way when their stream broke."""
        self.cuts = 0
        self.ends: list[End] = []
        self._turn = itertools.count()
        self._events: list[tuple[float, int, Callable[..., None], Any]] = []
        self._numbers = itertools.count()
        for _ in range(streams):
            self._dial()
        for _ in range(breaks):
            self.at(self.random.uniform(0, 0.5), self._break_one)

    def at(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + delay, next(self._turn), action, args))

    def run(self, limit: float = 600.0) -> None:
        """Until nothing happens any more, or the clock passes `limit`."""
        while self._events and self.now < limit:
            self.now, _, action, args = heapq.heappop(self._events)
            action(*args)

    def ask(self, side: Side, keys: list[str]) -> range:
        """Ask the other side for objects."""
        numbers = side.session.ask(keys)
        side.asked |= dict(zip(numbers, keys, strict=True))
        self._wake(side)
        return numbers

    def _wake(self, side: Side) -> None:
        for end in self.ends:
            if end.side is side:
                self._fill(end)

    def _dial(self) -> None:
        number = next(self._numbers)
        rate = 10 ** self.random.uniform(5.5, 7.5)
        here, there = End(number, rate, self.near), End(number, rate, self.far)
        here.other, there.other = there, here
        self.ends += [here, there]
        self.near.session.join(number)
        here.open = True
        self.at(self.random.uniform(1, 3) * self.latency, self._accept, there)

    def _accept(self, end: End) -> None:
        if self.random.random() < 0.1:  # it never gets there
            self._cut(end)
        elif end.side.session.join(end.number):
            end.open = True
            self._greeted(end)
            self.at(self.latency, self._greeted, end.other)
            if end.cut:
                self.at(self.random.uniform(0, 0.3), self._notice, end)

    def _greeted(self, end: End) -> None:
        end.ready = True
        self._fill(end)

    def _cut(self, end: End) -> None:
        """Nothing arrives any more on a stream; each side finds out in its own time, and writes on until then."""
        self.cuts += 1
        for each in (end, end.other):
            each.cut = True
            self.at(self.random.uniform(0, 0.3), self._notice, each)

    def _notice(self, end: End) -> None:
        if not end.open:
            return
        end.open = False
        if not end.cut:
            self._cut(end)
        end.side.session.leave(end.number)
        if end.side is self.near:
            self.at(self.random.uniform(0, 0.3), self._dial)
        self._wake(end.side)

    def _break_one(self) -> None:
        living = [end for end in self.ends if end.open and not end.cut]
        if living and self._events:
            self._cut(self.random.choice(living))

    def _fill(self, end: End) -> None:
        """Take while there is room, as a thread does that the kernel lets go on at the low-water mark."""
        while end.open and end.ready and end.unsent < 32 << 10:
            item = end.side.session.take(end.number)
            if item is None:
                return
            for piece in _pieces(item):
                end.unsent += piece.length
                stall = self.random.expovariate(5.0) if self.random.random() < 0.01 else 0.0
                end.free = max(end.free, self.now) + (piece.length + 32) / end.rate + stall
                self.at(end.free - self.now, self._left, end, piece)

    def _left(self, end: End, piece: Letter | Segment) -> None:
        end.unsent -= piece.length
        self.at(self.latency, self._arrive, end.other, piece)
        self._fill(end)

    def _arrive(self, end: End, piece: Letter | Segment) -> None:
        if end.cut or not end.open:
            self.lost += 0 if isinstance(piece, Letter) else piece.length
        elif isinstance(piece, Letter):
            for event in end.side.session.read(end.number, piece.text):
                self._heed(end, event)
        else:
            self._write(end, piece)
        self._wake(end.side)

    def _write(self, end: End, piece: Segment) -> None:
        side = end.side
        self._begin(side, piece.transfer)
        side.carried[end.number] = side.carried.get(end.number, 0) + piece.length
        if side.session.receiver.check(piece):
            part = slice(piece.offset, piece.offset + piece.length)
            side.here[piece.transfer][part] = side.here[piece.transfer][part].translate(_ONE_MORE)
        if side.session.arrived(end.number, piece):
            side.end(piece.transfer, "here", self.now)
            side.session.stop([piece.transfer])

    def _begin(self, side: Side, transfer: int) -> None:
        """By the letter or by the first segment, whichever is sooner."""
        if transfer not in side.here:
            other = self.near if side is self.far else self.far
            side.here[transfer] = bytearray(other.objects[side.asked[transfer]])
            side.session.receiver.expect(transfer, len(side.here[transfer]))

    def _heed(self, end: End, event: Event) -> None:
        side = end.side
        match event:
            case Asked(wants):
                self._answer(side, wants)
            case Has(transfer, _, _, None):
                self._begin(side, transfer)
            case Has(transfer, size, _, value):
                side.here[transfer] = bytearray(b"\x01" * value.nbytes)
                assert len(side.here[transfer]) == size
                side.end(transfer, "here", self.now)
            case Hasnt(transfer, why):
                side.end(transfer, why or "none", self.now)
            case Dropped(transfers):
                side.dropped += transfers
            case Broken(stream):
                for each in self.ends:
                    if each.number == stream and each.side is side:
                        self._notice(each)

    def _answer(self, side: Side, wants: list[Want]) -> None:
        small: list[Small] = []
        for want in wants:
            size = side.objects.get(want.key)
            if size is None:
                side.session.none(want)
            elif size < 0:
                side.session.fail(want, "broken")
            elif size <= SMALL:
                small.append(Small(want.transfer, DIGEST_OF_ALL, size, [memoryview(bytes(size))]))
            else:
                side.session.have(want, size, DIGEST_OF_ALL)
        side.session.some(small)


def _pieces(item: Letter | Segment) -> list[Letter | Segment]:
    if isinstance(item, Letter):
        return [item]
    starts = range(0, item.length, PIECE)
    return [Segment(item.transfer, item.offset + start, min(PIECE, item.length - start)) for start in starts]
