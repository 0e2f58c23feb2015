"""Bytes from one socket to another through a pipe: they stay in the kernel, and this process never sees them.

Promises: at most a pipe's worth waits; the end of one direction is passed on, and the other one stays open.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket

_MOST = 1 << 20
"""Bytes moved before somebody else has his turn."""
_ROOM = 256 << 10
"""Bytes of a pipe; where the system grants less, less."""
_F_SETPIPE_SZ = 1031


class Direction:
    """What goes from one socket to another.

    Args:
        source: Where it comes from; not blocking.
        sink: Where it goes; not blocking.
    """

    __slots__ = ("_full", "_in", "_out", "carried", "ended", "sink", "source", "waiting")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # the user's share of pipes is used up: the usual 64 KiB will do
            import fcntl

            fcntl.fcntl(self._in, _F_SETPIPE_SZ, _ROOM)
        self.waiting = 0
        """Bytes in the pipe."""
        self.carried = 0
        self.ended = False
        """Nothing more comes."""
        self._full = False
        """Nothing goes into the pipe until it is empty: its places may be taken by few bytes."""

    @property
    def done(self) -> bool:
        """Whether all that came has gone, and nothing more comes."""
        return self.ended and not self.waiting

    @property
    def reads(self) -> bool:
        """Whether it waits for the source."""
        return not self.ended and not self._full

    @property
    def writes(self) -> bool:
        """Whether it waits for the sink."""
        return self.waiting > 0

    def move(self) -> int:
        """Pass on what can be; returns how many bytes.

        Raises:
            OSError: One of the sockets broke.
        """
        moved = 0
        while moved < _MOST:
            came, went = self._take(), self._give()
            moved += went
            if not came and not went:
                break
        return moved

    def _take(self) -> int:
        if not self.reads:
            return 0
        try:
            came = os.splice(self.source.fileno(), self._in, _ROOM)
        except BlockingIOError:
            self._full = self.waiting > 0
            return 0
        self.ended = came == 0
        self.waiting += came
        return came

    def _give(self) -> int:
        if not self.waiting:
            if self.ended:
                with contextlib.suppress(OSError):  # it broke, or was told before
                    self.sink.shutdown(socket.SHUT_WR)
            return 0
        try:
            went = os.splice(self._out, self.sink.fileno(), self.waiting)
        except BlockingIOError:
            return 0
        self.waiting -= went
        self.carried += went
        self._full = self._full and self.waiting > 0
        return went

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._out)
        os.close(self._in)


class Pair:
    """Two connected sites.

    Args:
        one: A socket.
        other: Another one.
        now: Monotonic seconds.
    """

    def __init__(self, one: socket.socket, other: socket.socket, now: float) -> None:
        self.sockets = (one, other)
        self.there = Direction(one, other)
        try:
            self.back = Direction(other, one)
        except OSError:
            self.there.close()
            raise
        self.moved = now
        """When something was passed on."""

    @property
    def carried(self) -> int:
        """Bytes in all."""
        return self.there.carried + self.back.carried

    def move(self, now: float) -> bool:
        """Pass on what can be; whether the pair lives on."""
        try:
            if self.there.move() + self.back.move():
                self.moved = now
        except OSError:
            return False
        return not (self.there.done and self.back.done)

    def wishes(self, end: socket.socket) -> int:
        """What one of the sockets is to be watched for."""
        into, out = (self.there, self.back) if end is self.sockets[0] else (self.back, self.there)
        return (select.EPOLLIN if into.reads else 0) | (select.EPOLLOUT if out.writes else 0)

    def close(self) -> None:
        """End both connections."""
        for end in self.sockets:
            end.close()
        self.there.close()
        self.back.close()
