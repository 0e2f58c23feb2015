"""Peers: what a server knows of each connection, and what it holds for it. All of it goes when the connection does.

Rules:
1. Bytes that wait for a slow peer are bounded: each object that is sent has a window, and a peer a number of them.
2. Bytes of uploads are bounded over all peers: each starts when it fits as a whole, so that none waits for another.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from proxyfab.keys import Key
from proxyfab.osio.memory import allocate
from proxyfab.server.index import Name
from proxyfab.server.storage import Steps
from proxyfab.wire.flow import WINDOW, Receiving, Sending


class Way(Protocol):
    """What carries messages to a peer."""

    def send(
        self, who: bytes, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()
    ) -> bool:
        """Whether a message is on its way; not when the peer has gone or does not read."""


class Wish(NamedTuple):
    """What a client wants to put: under which name, how large, until when."""

    name: Name
    nbytes: int
    ttl: float | None
    replace: bool


class Download:
    """An object, or several, on the way to a peer."""

    __slots__ = ("body", "sending", "touched")

    def __init__(self, body: list[memoryview], sending: Sending) -> None:
        self.body, self.sending = body, sending
        self.touched = time.monotonic()


class Upload:
    """An object on the way from a peer."""

    __slots__ = ("_block", "parts", "receiving", "started", "touched", "wish")

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.receiving = Receiving(wish.nbytes)
        self.parts: list[memoryview] = []
        self.started = False
        self.touched = time.monotonic()
        self._block = memoryview(b"")

    def room(self, nbytes: int) -> memoryview:
        """Memory for a chunk, out of large blocks: a first touch of small ones costs more than a copy."""
        if self._block.nbytes < nbytes:
            missing = self.wish.nbytes - self.receiving.received
            self._block = allocate(max(min(WINDOW, missing), nbytes))
        part, self._block = self._block[:nbytes], self._block[nbytes:]
        return part


class Grant(NamedTuple):
    """Room in shared memory that a peer may fill."""

    place: Key
    wish: Wish
    until: float


class Peer:
    """One connection.

    Args:
        who: A name that no other connection has.
        descriptor: Of its socket.
        way: What carries messages to it.
    """

    def __init__(self, who: bytes, descriptor: int, way: Way) -> None:
        self.who = who
        self._way = way
        self.working = 0
        """Requests of it that are being worked on."""
        self.descriptor = descriptor
        self.name = ""
        self.process = ""
        self.since = time.time()
        self.counters: dict[str, int] = {}
        self.downloads: dict[bytes, Download] = {}
        self.uploads: dict[bytes, Upload] = {}
        self.grants: dict[bytes, Grant] = {}
        self.waits: dict[bytes, Callable[[], None]] = {}

    @cached_property
    def address(self) -> str:
        """Host and port at its end, for people; `"local"` for a socket in a directory, `""` where it has gone."""
        try:
            end = socket.socket(fileno=self.descriptor)
            try:
                name = end.getpeername()
            finally:
                end.detach()  # it is ZeroMQ's, and stays open
        except OSError:
            return ""
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "local"

    def send(self, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()) -> bool:
        """Whether a message is on its way; not when the peer has gone or does not read."""
        return self._way.send(self.who, verb, request, fields, body)

    def count(self, steps: Steps) -> Steps:
        """The same steps, counted in `working` until they end."""
        self.working += 1
        try:
            return (yield from steps)
        finally:
            self.working -= 1

    def by(self, way: Way) -> bool:
        """Whether it came this way."""
        return self._way is way

    @property
    def holds(self) -> bool:
        """Whether it is in the middle of something in which a client that lives has something to say."""
        return bool(self.downloads or self.uploads or self.waits)

    @property
    def moving(self) -> bool:
        """Whether bytes are on their way to it or from it."""
        return bool(self.downloads or self.uploads or self.grants)


class Room:
    """Bytes that uploads may hold in the server's memory, over all peers, first come first served.

    Args:
        limit: Bytes. One upload that is larger goes alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._queue: deque[tuple[Upload, Callable[[], None]]] = deque()

    def ask(self, upload: Upload, start: Callable[[], None]) -> None:
        """Call `start` as soon as there is room for the upload, which may be now."""
        self._queue.append((upload, start))
        self._admit()

    def leave(self, upload: Upload) -> None:
        """The upload is over, whether it had begun or not."""
        if upload.started:
            upload.started = False
            self.used -= upload.wish.nbytes
        else:
            self._queue = deque(item for item in self._queue if item[0] is not upload)
        self._admit()

    def _admit(self) -> None:
        while self._queue and (not self.used or self.used + self._queue[0][0].wish.nbytes <= self.limit):
            upload, start = self._queue.popleft()
            upload.started = True
            self.used += upload.wish.nbytes
            start()
