"""Sockets between processes that pass bytes in bulk: options that both ends set, and who is at the other end.

Promises: a TCP connection whose other end has gone without a word ends within about five seconds, or what its owner
asks for, also when nothing is sent; nothing waits for company. Sets no size of TCP's buffers, which would end their
tuning.
"""

from __future__ import annotations

import contextlib
import socket
import struct

SIDE = ".side"
"""Name of a node server's Unix socket, in a namespace that lives with it."""
_ROOM = 4 << 20
_TCP_RTO_MAX_MS = 44
"""Of Linux from 6.15 on; Python has no name for it."""
_CREDENTIALS = struct.Struct("3i")


def tune(connection: socket.socket, *, silence: int = 1, lost: int = 4, again: int = 0) -> None:
    """Set a connected socket up.

    Args:
        connection: The socket.
        silence: Seconds without a word after which TCP asks whether the other end is there, and between such questions.
        lost: Seconds without an acknowledgement after which TCP gives up.
        again: Seconds at most after which TCP sends again what was not acknowledged, where the system can be told; else
            it waits twice as long each time, and goes on long after a cut was healed.
    """
    if connection.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, silence),
        (socket.TCP_KEEPINTVL, silence),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, lost * 1000),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    if again:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, again * 1000)


def user_of(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(said)[1])
