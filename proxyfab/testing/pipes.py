"""A connection that goes wrong on demand, and each of its directions: reads here, holds back, spoils, writes there.

Promises: bytes come out in order, and nothing is held without bound. Leaves sockets' lives and waiting to `cable`.
"""

from __future__ import annotations

import random
import selectors
import socket
from collections import deque
from dataclasses import dataclass, field

ROOM = 4 << 20
"""Bytes that a pipe holds back at most; then it reads no more, as a network would."""
_CHUNK = 256 * 1024
_SMOOTH = 0.01
"""Seconds' worth of bytes that a limited pipe passes on at once."""


class Severed(Exception):
    """The byte has come after which the connection was to be cut."""


@dataclass(slots=True)
class Conditions:
    """What happens to the bytes that go one way, in all connections of a cable.

    Attributes:
        paused: Nothing moves; it backs up, and nothing is lost.
        swallowing: What comes is dropped.
        delay: Seconds that each byte takes longer, and up to `jitter` more, drawn anew for each piece.
        rate: Bytes a second, for all connections together; None without a limit.
        piece: Bytes that are written at once; None for as many as there are.
        cuts: After how many bytes, counted like `carried`, the connection that carries them is reset.
        flips: (byte, bit): which bits arrive inverted; bytes are counted like `carried`.
        carried: Bytes passed on so far.
        dropped: Bytes swallowed so far.
        flipped: Bits inverted so far.
        free: When the limited rate allows the next byte.
    """

    paused: bool = False
    swallowing: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    piece: int | None = None
    cuts: list[int] = field(default_factory=list)
    flips: list[tuple[int, int]] = field(default_factory=list)
    carried: int = 0
    dropped: int = 0
    flipped: int = 0
    free: float = 0.0

    def heal(self) -> None:
        """Everything as it should be, from the next byte on."""
        self.paused = self.swallowing = False
        self.delay = self.jitter = self.free = 0.0
        self.rate = self.piece = None
        self.cuts.clear()
        self.flips.clear()

    def portion(self, view: memoryview) -> memoryview:
        """The part of `view` that is to be written at once, spoiled if so wanted.

        Raises:
            Severed: Not one byte more.
        """
        size = len(view)
        if self.cuts:
            size = min(size, min(self.cuts) - self.carried)
        if size <= 0:
            self.cuts.remove(min(self.cuts))
            raise Severed
        if self.piece is not None:
            size = min(size, self.piece)
        if self.rate is not None:
            size = min(size, max(1, int(self.rate * _SMOOTH)))
        return self._spoiled(view[:size])

    def _spoiled(self, view: memoryview) -> memoryview:
        here = [(byte - self.carried, bit) for byte, bit in self.flips if 0 <= byte - self.carried < len(view)]
        if not here:
            return view
        data = bytearray(view)  # a copy: only what arrives is to be wrong
        for byte, bit in here:
            data[byte] ^= 1 << bit
        return memoryview(data)

    def passed(self, nbytes: int, now: float) -> None:
        """Count what was written; raises Severed when no more is to be."""
        self.carried += nbytes
        done = [flip for flip in self.flips if flip[0] < self.carried]
        self.flipped += len(done)
        for flip in done:
            self.flips.remove(flip)
        if self.rate is not None:
            self.free = max(self.free, now) + nbytes / self.rate
        if self.cuts and self.carried >= min(self.cuts):
            self.cuts.remove(min(self.cuts))
            raise Severed


class Pipe:
    """From `source` to `sink`, both non-blocking sockets, under `conditions`."""

    def __init__(self, source: socket.socket, sink: socket.socket, conditions: Conditions, dice: random.Random) -> None:
        self.source = source
        self.sink = sink
        self.conditions = conditions
        self.dice = dice
        self.ended = False
        """Nothing more will be read."""
        self.shut = False
        """The sink was told so."""
        self.stuck = False
        """The sink takes nothing more for now."""
        self.lossy = False
        """Bytes are missing, so that the connection can never be right again."""
        self._held: deque[tuple[float, memoryview]] = deque()
        self._nbytes = 0
        self._last = 0.0

    @property
    def hungry(self) -> bool:
        """Whether it would read."""
        return not self.ended and not self.conditions.paused and self._nbytes < ROOM

    def pull(self, now: float) -> None:
        """Read once; raises OSError when the connection broke."""
        try:
            data = self.source.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self.ended = True
        elif self.conditions.swallowing or self.lossy:
            self.conditions.dropped += len(data)
            self.lossy = True
        else:
            wait = self.conditions.delay + self.dice.uniform(0, self.conditions.jitter)
            self._last = max(self._last, now + wait)  # a stream never overtakes itself
            self._held.append((self._last, memoryview(data)))
            self._nbytes += len(data)

    def push(self, now: float) -> float | None:
        """Write what is due; the time at which more will be, None when something must happen first.

        Raises:
            Severed: The connection is to be cut here.
            OSError: It broke.
        """
        self.stuck = False
        while self._held and not self.conditions.paused:
            due = max(self._held[0][0], self.conditions.free if self.conditions.rate else 0.0)
            if due > now:
                return due
            if not self._write(now):
                return None
        if self.ended and not self._held and not self.shut and not self.lossy:
            self.shut = True
            self.sink.shutdown(socket.SHUT_WR)
        return None

    def _write(self, now: float) -> bool:
        """Write a portion; whether the sink took any of it."""
        due, view = self._held[0]
        try:
            sent = self.sink.send(self.conditions.portion(view))
        except (BlockingIOError, InterruptedError):
            self.stuck = True
            return False
        self.conditions.passed(sent, now)
        self._nbytes -= sent
        if sent == len(view):
            self._held.popleft()
        else:
            self._held[0] = due, view[sent:]
        return True

    def drop(self) -> None:
        """Forget what is held back."""
        self.lossy = self.lossy or bool(self._held)
        self.conditions.dropped += self._nbytes
        self._held.clear()
        self._nbytes = 0


class Line:
    """One connection: the client's socket, the server's, and a pipe each way."""

    def __init__(
        self, client: socket.socket, server: socket.socket, up: Conditions, down: Conditions, dice: random.Random
    ) -> None:
        self.client = client
        self.server = server
        self.up = Pipe(client, server, up, dice)
        self.down = Pipe(server, client, down, dice)
        self.silent = False
        """Carries nothing any more, and does not say so."""

    @property
    def done(self) -> bool:
        """Whether both ends have said all."""
        return self.up.shut and self.down.shut

    def wishes(self, end: socket.socket) -> int:
        """Which events of an end matter now."""
        reading, writing = (self.up, self.down) if end is self.client else (self.down, self.up)
        if self.silent or end.fileno() < 0:
            return 0
        return selectors.EVENT_READ * reading.hungry | selectors.EVENT_WRITE * writing.stuck

    def turn(self, ready: set[socket.socket], now: float) -> float | None:
        """Move what can be moved; when more can be, without an event."""
        if self.silent:
            return None
        for pipe in (self.up, self.down):
            if pipe.source in ready:
                pipe.pull(now)
        dues = [due for pipe in (self.up, self.down) if (due := pipe.push(now)) is not None]
        return min(dues, default=None)
