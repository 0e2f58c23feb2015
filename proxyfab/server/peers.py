"""Peers: what a server knows of each connection, and what it holds for it. All of it goes when the connection does.

Rules:
1. Bytes that wait for a slow peer are bounded: each object that is sent has a window, and a peer a number of them.
2. Bytes of uploads are bounded over all peers: each starts when it fits as a whole, so that none waits for another.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from proxyfab.keys import Key
from proxyfab.server.index import Name
from proxyfab.wire.flow import Receiving, Sending


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

    __slots__ = ("parts", "receiving", "started", "touched", "wish")

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.receiving = Receiving(wish.nbytes)
        self.parts: list[memoryview] = []
        self.started = False
        self.touched = time.monotonic()


class Grant(NamedTuple):
    """Room in shared memory that a peer may fill."""

    place: Key
    wish: Wish
    until: float


class Peer:
    """One connection."""

    def __init__(self, who: bytes, descriptor: int) -> None:
        self.who = who
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
