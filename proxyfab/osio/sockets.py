"""Sockets between processes that pass bytes in bulk: options that both ends set, and who is at the other end.

Promises: a TCP connection whose other end has gone without a word ends within about five seconds, also when nothing is
sent; nothing waits for company. Leaves the sizes of TCP's buffers alone: to set one ends their tuning.
"""

from __future__ import annotations

import contextlib
import socket
import struct

SIDE = ".side"
"""Name of a node server's Unix socket, in a namespace that lives with it."""
_ROOM = 4 << 20
_LOST = 4000
_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LOST),
)
_CREDENTIALS = struct.Struct("3i")


def tune(connection: socket.socket) -> None:
    """Set a connected socket up."""
    if connection.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        return
    for level, option, value in _OPTIONS:
        connection.setsockopt(level, option, value)


def user_of(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(said)[1])
