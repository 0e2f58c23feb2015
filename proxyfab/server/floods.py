"""Floods: connections of the ROUTER over which bytes come and come that never make a message; and the silent ones.

ZeroMQ bounds a frame, and the number of whole messages that wait, but not the frames of a message that does not end:
they pile up in its memory, where nobody sees them. What can be seen is how many bytes the kernel took from a
connection, and whether a message came of them.

Who says in his hello that he sends heartbeats is expected to: ZeroMQ forgets with each message how long it may take
until the next heartbeat, the kernel knows since when nothing came.

Promises: who sends 16 MiB without a message is disconnected, at the next look; ZeroMQ forgets what he sent. So is who
promised heartbeats, four seconds after the last byte of his. Leaves
Unix sockets (`ipc://`) alone, whose bytes nobody counts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import NamedTuple

LOOK = 0.1
"""Seconds between two looks, as long as somebody is connected."""
_MOST = 16 << 20
_HEARTBEATS = 100
"""Bytes that may come between two looks and count as nothing: heartbeats are no messages."""
_SILENCE = 4000
"""Milliseconds."""
_INFO = struct.Struct("=52xI72xQ")
"""`tcpi_last_data_recv` and `tcpi_bytes_received` in the kernel's struct tcp_info."""


class _Flow(NamedTuple):
    """What is known of a connection."""

    inode: int
    messages: int
    """That had come of it when the bytes were counted."""
    nbytes: int
    """That had come, and what heartbeats may have taken since."""


class Floods:
    """Belongs to the loop's thread."""

    def __init__(self) -> None:
        self._flows: dict[int, _Flow] = {}
        self._messages: dict[int, int] = {}
        self._beating: set[int] = set()
        self._looked = 0.0
        self.ended = 0

    def __len__(self) -> int:
        return len(self._flows)

    def come(self, descriptor: int, ports: set[int]) -> None:
        """A connection was accepted, on one of these ports."""
        self.leave(descriptor)
        with contextlib.suppress(OSError), _borrowed(descriptor) as end:
            if end.family != socket.AF_UNIX and end.getsockname()[1] in ports:
                self._flows[descriptor] = _Flow(os.fstat(descriptor).st_ino, 0, 0)
                self._messages[descriptor] = 0

    def heard(self, descriptor: int) -> None:
        """A whole message came of it."""
        if descriptor in self._messages:
            self._messages[descriptor] += 1

    def beats(self, descriptor: int) -> None:
        """Who is there sends heartbeats."""
        if descriptor in self._flows:
            self._beating.add(descriptor)

    def leave(self, descriptor: int) -> None:
        """It has ended."""
        self._beating.discard(descriptor)
        self._flows.pop(descriptor, None)
        self._messages.pop(descriptor, None)

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
        messages = self._messages[descriptor]
        with _borrowed(descriptor) as end:
            silent, nbytes = _INFO.unpack(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
            if silent > _SILENCE and descriptor in self._beating:
                self.leave(descriptor)
                end.shutdown(socket.SHUT_RDWR)
            elif messages != flow.messages:
                self._flows[descriptor] = flow._replace(messages=messages, nbytes=nbytes)
            elif nbytes - flow.nbytes > _MOST:
                self.ended += 1
                self.leave(descriptor)
                end.shutdown(socket.SHUT_RDWR)
            else:
                self._flows[descriptor] = flow._replace(nbytes=min(flow.nbytes + _HEARTBEATS, nbytes))


class _borrowed:  # noqa: N801 - used like a function
    """A socket that is ZeroMQ's, and stays open."""

    def __init__(self, descriptor: int) -> None:
        self._end = socket.socket(fileno=descriptor)

    def __enter__(self) -> socket.socket:
        return self._end

    def __exit__(self, *_: object) -> None:
        self._end.detach()
