"""Connections of the ROUTER: what ZeroMQ does not tell of each, and which of them have to be ended.

ZeroMQ tells that a connection came and that it went. The rest is seen by who asks the kernel beside it:

1. A *flood*. ZeroMQ reads on as long as anybody sends, and keeps what it read: the messages that wait, of which `line`
   lets it keep any number, and the frames of one that does not end. Nobody sees how many those are. What can be seen is
   how many bytes the kernel took from a connection, and how many the messages had that came of it. Who is 24 MiB ahead
   is disconnected, at the next look; ZeroMQ forgets what he sent of a message that did not end. A client of this
   package is 18 MiB ahead at most: a window and a message.
2. A *silent* one, who said in his hello that he sends heartbeats: ZeroMQ forgets with each message how long it may take
   until the next one, the kernel knows since when nothing came. He is disconnected four seconds after his last byte.
3. A *double* has said nothing, and may have no name, since another one of those who say nothing went about when he
   came. He is disconnected when somebody is missed.
4. *Another user's*. The bytes of a Unix socket (`ipc://`) nobody counts, so it takes the server's own user only, and
   root. Everybody else is disconnected when he comes, and nothing that he says is heard.
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
"""Seconds between two looks, as long as there is somebody whose bytes are counted."""
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


class _Connection:
    """What is known of one.

    Args:
        inode: Of its socket; 0 where its descriptor is somebody else's by now.
        counted: Whether the kernel counts what it takes from it.
    """

    __slots__ = ("beats", "came", "counted", "double", "inode", "mute", "taken")

    def __init__(self, inode: int, *, counted: bool) -> None:
        self.inode = inode
        self.counted = counted
        self.taken = 0
        """Bytes of the messages that came of it, as they were sent, and of what heartbeats may have had."""
        self.beats = False
        self.came = time.monotonic()
        self.mute = True
        """It has said nothing yet."""
        self.double = False
        """Of those that are mute: it came shortly before another one of them went, or just after."""


class Connections:
    """All of them. Belongs to the loop's thread.

    Args:
        encrypted: Whether what comes is.
    """

    def __init__(self, *, encrypted: bool) -> None:
        self._more = _CURVE if encrypted else 0
        self._here: dict[int, _Connection] = {}
        """By descriptor, in the order in which they came."""
        self._excluded: set[int] = set()
        """Descriptors of other users' connections, also when those have gone: what came before may be heard later."""
        self._went = -math.inf
        """When the last one went that had said nothing."""
        self._looked = 0.0
        self.counted = 0
        """Those whose bytes the kernel counts: `look` is to be called while there are any."""
        self.ended = 0
        """Floods and other users', since the beginning."""

    def come(self, descriptor: int, ports: set[int]) -> None:
        """A connection was accepted, on one of these ports."""
        self.leave(descriptor)
        self._excluded.discard(descriptor)
        with contextlib.suppress(OSError), _borrowed(descriptor) as end:
            unix = end.family == socket.AF_UNIX
            counted = not unix and end.getsockname()[1] in ports
            new = _Connection(os.fstat(descriptor).st_ino if unix or counted else 0, counted=counted)
            new.double = new.came - self._went < _AFTER
            self._here[descriptor] = new
            self.counted += counted
            if unix and user_of(end) not in users():
                self.ended += 1
                self._excluded.add(descriptor)
                end.shutdown(socket.SHUT_RDWR)

    def heard(self, descriptor: int, parts: Sequence[memoryview]) -> None:
        """A whole message came of it."""
        connection = self._here.get(descriptor)
        if connection is not None:
            connection.mute = connection.double = False
            if connection.counted:
                sizes = [part.nbytes + self._more for part in parts]
                connection.taken += sum([size + (_LONG if size > _SHORTEST else _SHORT) for size in sizes])

    def beats(self, descriptor: int) -> None:
        """Who is there sends heartbeats."""
        connection = self._here.get(descriptor)
        if connection is not None:
            connection.beats = True

    def leave(self, descriptor: int) -> None:
        """It has ended."""
        gone = self._here.pop(descriptor, None)
        if gone is None:
            return
        self.counted -= gone.counted
        if gone.mute:
            self._went = time.monotonic()
            for other in reversed(self._here.values()):
                if self._went - other.came > _BEFORE:
                    break
                other.double = other.mute

    def excludes(self, descriptor: int) -> bool:
        """Whether what comes of it is not to be heard."""
        return descriptor in self._excluded

    def end_doubles(self, now: float) -> None:
        """Somebody is missed: end the connections of those who have had time to say something, and may have no name."""
        for descriptor, connection in self._here.items():
            if connection.double and now - connection.came > _MUTE:
                self.end(descriptor)
                connection.mute = connection.double = False

    def end(self, descriptor: int) -> None:
        """End a connection, if it is there still."""
        connection = self._here.get(descriptor)
        if connection is None:
            return
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == connection.inode:
                _disconnect(descriptor)

    def look(self, now: float) -> None:
        """Disconnect those who send too much that says nothing, and those who fell silent."""
        if now - self._looked < LOOK:
            return
        self._looked = now
        for descriptor, connection in [(at, each) for at, each in self._here.items() if each.counted]:
            try:
                self._judge(descriptor, connection)
            except OSError:  # it has ended, or is somebody else's by now
                self.leave(descriptor)

    def _judge(self, descriptor: int, connection: _Connection) -> None:
        if os.fstat(descriptor).st_ino != connection.inode:
            raise ConnectionError
        with _borrowed(descriptor) as end:
            silent, received = _INFO.unpack(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
        ahead = received - connection.taken
        if silent > _SILENCE and connection.beats:
            self.leave(descriptor)
            _disconnect(descriptor)
        elif ahead > _MOST:
            self.ended += 1
            self.leave(descriptor)
            _disconnect(descriptor)
        else:
            connection.taken += min(_HEARTBEATS, ahead)  # less than nothing is ahead where another connection had been


def _disconnect(descriptor: int) -> None:
    """ZeroMQ finds its socket at its end, and closes it."""
    with _borrowed(descriptor) as end:
        end.shutdown(socket.SHUT_RDWR)


class _borrowed:  # noqa: N801 - used like a function
    """A socket that is ZeroMQ's, and stays open."""

    def __init__(self, descriptor: int) -> None:
        self._end = socket.socket(fileno=descriptor)

    def __enter__(self) -> socket.socket:
        return self._end

    def __exit__(self, *_: object) -> None:
        self._end.detach()
