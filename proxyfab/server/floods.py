"""Floods: connections of the ROUTER over which more comes than is taken; the silent ones; and how to end one.

ZeroMQ reads on as long as anybody sends, and keeps what it read: the messages that wait, of which `line` lets it keep
any number, and the frames of one that does not end. Nobody sees how many those are. What can be seen is how many
bytes the kernel took from a connection, and how many the messages had that came of it.

Who says in his hello that he sends heartbeats is expected to: ZeroMQ forgets with each message how long it may take
until the next heartbeat, the kernel knows since when nothing came.

Promises: who is 24 MiB ahead is disconnected, at the next look; ZeroMQ forgets what he sent of a message that did not
end. So is who promised heartbeats, four seconds after the last byte of his. A client of this package is 18 MiB ahead
at most: a window and a message. The bytes of a Unix socket (`ipc://`) nobody counts, so it takes the server's own user
only, and root.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import time
from collections.abc import Sequence

from proxyfab.osio.sockets import user_of
from proxyfab.wire.flow import WINDOW

LOOK = 0.1
"""Seconds between two looks, as long as somebody is connected."""
_MOST = WINDOW + (8 << 20)
_HEARTBEATS = 100
"""Bytes that may come between two looks and count as nothing: heartbeats are no messages."""
_MUTE = 5.0
"""Seconds in which a client says hello."""
_BEFORE, _AFTER = 30.0, 1.0
"""Seconds from when a connection comes again until its former one is known to be dead; or the other way about, where
that one's name is still taken."""
_SILENCE = 4000
"""Milliseconds."""
_INFO = struct.Struct("=52xI72xQ")
"""`tcpi_last_data_recv` and `tcpi_bytes_received` in the kernel's struct tcp_info."""
_SHORT, _LONG, _SHORTEST = 2, 9, 255
"""Bytes of ZMTP before a frame, before one that is longer than the last of these."""
_CURVE = 33
"""Bytes more of a frame that is encrypted."""


def users() -> tuple[int, int]:
    """Who may connect to a Unix socket: the server's own user, and root."""
    return os.geteuid(), 0


class _Flow:
    """What is known of a connection.

    Args:
        inode: Of its socket.
    """

    __slots__ = ("inode", "taken")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.taken = 0
        """Bytes of the messages that came of it, as they were sent, and of what heartbeats may have had."""


class Floods:
    """Belongs to the loop's thread.

    Args:
        encrypted: Whether what comes is.
    """

    def __init__(self, *, encrypted: bool) -> None:
        self._more = _CURVE if encrypted else 0
        self._flows: dict[int, _Flow] = {}
        self._uncounted: dict[int, int] = {}
        """Inodes of the Unix sockets, by descriptor."""
        self._beating: set[int] = set()
        self._excluded: set[int] = set()
        """Other users' Unix sockets."""
        self._mute: dict[int, float] = {}
        """Who has said nothing yet, since when, oldest first."""
        self._doubles: set[int] = set()
        """Those of them who came shortly before another one of them went, or just after, and may have said its name."""
        self._went = -math.inf
        """When the last one of them went."""
        self._looked = 0.0
        self.ended = 0

    def __len__(self) -> int:
        return len(self._flows)

    def come(self, descriptor: int, ports: set[int]) -> None:
        """A connection was accepted, on one of these ports."""
        self.leave(descriptor)
        self._excluded.discard(descriptor)
        with contextlib.suppress(OSError), _borrowed(descriptor) as end:
            inode = os.fstat(descriptor).st_ino
            if end.family == socket.AF_UNIX:
                self._uncounted[descriptor] = inode
                if user_of(end) not in users():
                    self.ended += 1
                    self._excluded.add(descriptor)
                    end.shutdown(socket.SHUT_RDWR)
            elif end.getsockname()[1] in ports:
                self._flows[descriptor] = _Flow(inode)
            now = self._mute[descriptor] = time.monotonic()
            if now - self._went < _AFTER:
                self._doubles.add(descriptor)

    def heard(self, descriptor: int, parts: Sequence[memoryview]) -> None:
        """A whole message came of it."""
        self._mute.pop(descriptor, None)
        self._doubles.discard(descriptor)
        flow = self._flows.get(descriptor)
        if flow is not None:
            sizes = [part.nbytes + self._more for part in parts]
            flow.taken += sum([size + (_LONG if size > _SHORTEST else _SHORT) for size in sizes])

    def beats(self, descriptor: int) -> None:
        """Who is there sends heartbeats."""
        if descriptor in self._flows:
            self._beating.add(descriptor)

    def leave(self, descriptor: int) -> None:
        """It has ended."""
        self._beating.discard(descriptor)
        self._flows.pop(descriptor, None)
        self._uncounted.pop(descriptor, None)
        self._doubles.discard(descriptor)  # who is excluded stays so: what he said before may be heard later
        if self._mute.pop(descriptor, None) is not None:
            self._went = time.monotonic()
            for other, since in reversed(self._mute.items()):
                if self._went - since > _BEFORE:
                    break
                self._doubles.add(other)

    def excludes(self, descriptor: int) -> bool:
        """Whether what comes of it is not to be heard."""
        return descriptor in self._excluded

    def rouse(self, now: float) -> None:
        """End the connections of those who have had time to say something, have not, and may have no name."""
        for descriptor in [descriptor for descriptor in self._doubles if now - self._mute[descriptor] > _MUTE]:
            self.end(descriptor)
            self._doubles.discard(descriptor)
            del self._mute[descriptor]

    def end(self, descriptor: int) -> None:
        """End a connection, if it is there still."""
        flow = self._flows.get(descriptor)
        inode = self._uncounted.get(descriptor) if flow is None else flow.inode
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == inode:
                with _borrowed(descriptor) as end:
                    end.shutdown(socket.SHUT_RDWR)

    def look(self, now: float) -> None:
        """Disconnect those who send too much that says nothing, and those who fell silent."""
        if now - self._looked < LOOK:
            return
        self._looked = now
        for descriptor, flow in list(self._flows.items()):
            try:
                self._judge(descriptor, flow)
            except OSError:  # it has ended, or is somebody else's by now
                self.leave(descriptor)

    def _judge(self, descriptor: int, flow: _Flow) -> None:
        if os.fstat(descriptor).st_ino != flow.inode:
            raise ConnectionError
        with _borrowed(descriptor) as end:
            silent, received = _INFO.unpack(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
            ahead = received - flow.taken
            if silent > _SILENCE and descriptor in self._beating:
                self.leave(descriptor)
                end.shutdown(socket.SHUT_RDWR)
            elif ahead > _MOST:
                self.ended += 1
                self.leave(descriptor)
                end.shutdown(socket.SHUT_RDWR)
            else:
                flow.taken += min(_HEARTBEATS, ahead)  # less than nothing is ahead where another connection had been


class _borrowed:  # noqa: N801 - used like a function
    """A socket that is ZeroMQ's, and stays open."""

    def __init__(self, descriptor: int) -> None:
        self._end = socket.socket(fileno=descriptor)

    def __enter__(self) -> socket.socket:
        return self._end

    def __exit__(self, *_: object) -> None:
        self._end.detach()
