"""Two sites and the streams between them, by a seeded clock: unequal rates, stalls, breaks and words that are late."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from proxyfab.link.receiving import Receiver
from proxyfab.link.sending import Segment, Sender

PIECE = 16 << 10
"""Bytes that arrive at once."""
_ONE_MORE = bytes([*range(1, 256), 255])


class Pipe:
    """One stream: what it carries arrives in order, later; what is in it when it breaks does not."""

    def __init__(self, number: int, rate: float) -> None:
        self.number = number
        self.rate = rate
        self.free = 0.0
        """When its last byte will have left."""
        self.unsent = 0
        self.alive = True


class World:
    """A sender, a receiver, and what lies between.

    Args:
        seed: Decides everything that happens.
        sizes: Bytes of each object.
        streams: How many there are; one that breaks is replaced.
        breaks: How many break, at random times.
        latency: Seconds each way.
    """

    def __init__(
        self,
        seed: int,
        sizes: list[int],
        *,
        streams: int = 4,
        breaks: int = 0,
        latency: float = 0.025,
        segment: int = 64 << 10,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.latency = latency
        self.sender, self.receiver = Sender(segment), Receiver(segment)
        self.here = [bytearray(size) for size in sizes]
        """One byte for each byte that arrived: how often."""
        self.lost = 0
        self.carried: dict[int, int] = dict.fromkeys(range(streams + breaks + 1), 0)
        self.complete: dict[int, float] = {}
        self._turn = itertools.count()
        self._events: list[tuple[float, int, Callable[..., None], Any]] = []
        self._numbers = itertools.count()
        self._pipes: dict[int, Pipe] = {}
        self._confirmed: dict[int, int] = {}
        for transfer, size in enumerate(sizes):
            if self.receiver.expect(transfer, size):
                self.complete[transfer] = 0.0
            self.sender.offer(transfer, self.receiver.missing(transfer))
        for _ in range(streams):
            self._open()
        for _ in range(breaks):
            self._at(self.random.uniform(0, 0.5), self._break_one)

    def _at(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._turn), action, args))

    def run(self, limit: float = 600.0) -> None:
        """Until nothing happens any more, or the clock passes `limit`."""
        while self._events and self.now < limit:
            self.now, _, action, args = heapq.heappop(self._events)
            action(*args)

    def _open(self) -> None:
        number = next(self._numbers)
        pipe = self._pipes[number] = Pipe(number, 10 ** self.random.uniform(5.5, 7.5))
        self.sender.join(number)
        self.receiver.join(number)
        self.carried.setdefault(number, 0)
        self._fill(pipe)

    def _fill(self, pipe: Pipe) -> None:
        """Take while there is room, as a thread does that the kernel lets go on at the low-water mark."""
        while pipe.alive and pipe.unsent < 32 << 10:
            segment = self.sender.take(pipe.number)
            if segment is None:
                return
            self.carried[pipe.number] += segment.length
            for offset in range(0, segment.length, PIECE):
                piece = Segment(segment.transfer, segment.offset + offset, min(PIECE, segment.length - offset))
                pipe.unsent += piece.length
                stall = self.random.expovariate(5.0) if self.random.random() < 0.01 else 0.0
                pipe.free = max(pipe.free, self.now) + piece.length / pipe.rate + stall
                self._at(pipe.free - self.now, self._left, pipe, piece)

    def _left(self, pipe: Pipe, piece: Segment) -> None:
        pipe.unsent -= piece.length
        self._at(self.latency, self._arrive, pipe, piece)
        self._fill(pipe)

    def _arrive(self, pipe: Pipe, piece: Segment) -> None:
        if not pipe.alive:
            self.lost += piece.length
            return
        if self.receiver.check(piece):
            part = slice(piece.offset, piece.offset + piece.length)
            self.here[piece.transfer][part] = self.here[piece.transfer][part].translate(_ONE_MORE)
        if self.receiver.landed(pipe.number, piece).complete:
            self.complete[piece.transfer] = self.now
        if self.random.random() < 0.3:  # a word on how far it came, which overtakes others and may come after the end
            self._at(
                self.latency * self.random.uniform(1, 3),
                self._confirm,
                pipe.number,
                self.receiver.received(pipe.number),
            )

    def _confirm(self, number: int, received: int) -> None:
        if received >= self._confirmed.get(number, 0):
            self._confirmed[number] = received
            self.sender.confirm(number, received)

    def _break_one(self) -> None:
        living = [pipe for pipe in self._pipes.values() if pipe.alive]
        if not living or not self._events:
            return
        pipe = self.random.choice(living)
        pipe.alive = False
        self._at(self.latency * 2, self._tell_end, pipe.number, self.receiver.leave(pipe.number))
        self._at(self.random.uniform(0, 0.3), self._open)

    def _tell_end(self, number: int, received: int) -> None:
        self.sender.leave(number, received)
        for pipe in self._pipes.values():
            self._fill(pipe)
