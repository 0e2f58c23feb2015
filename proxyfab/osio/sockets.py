"""Sockets between processes that pass bytes in bulk: options that both ends set, and who is at the other end.

Promises: a TCP connection whose other end has gone without a word ends within about five seconds, or what its owner
asks for, also when nothing is sent; nothing waits for company. Sets no size of TCP's buffers, which would end their
tuning.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import socket
import struct
import sys

SIDE = ".side"
"""Name of a node server's Unix socket, in a namespace that lives with it."""
_ROOM = 4 << 20
_TCP_RTO_MAX_MS = 44
"""Of Linux from 6.15 on; Python has no name for it."""
_CREDENTIALS = struct.Struct("3i")
_UNSENT, _UNHEARD = 0x894B, 0x5411
"""SIOCOUTQNSD and SIOCOUTQ: bytes that TCP has and did not send once, or heard nothing of (`linux/sockios.h`)."""
_TCP_CC_INFO = 26
_INFO = struct.Struct("=16xI48xI8xI")
"""Of tcp_info (`linux/tcp.h`): bytes of a segment, microseconds of a round trip, and the window in segments."""
_BBR = struct.Struct("5I")
"""tcp_bbr_info (`linux/inet_diag.h`): two words of bandwidth, the round trip, and two gains, which are 256 for one."""
_STARTUP = 2 * 256
"""A gain of BBR's above this means that it still looks for the way's bandwidth: 2.89, or 2.77 of its third version."""


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
        insist(connection, again)


def insist(connection: socket.socket, again: int) -> None:
    """Seconds after which TCP sends again at the latest (`tune`), where the system can be told."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, again * 1000)


def unsent(connection: socket.socket) -> int:
    """Bytes that TCP has and did not send once; 0 of a socket that is not TCP's."""
    return _queued(connection, _UNSENT)


def _queued(connection: socket.socket, which: int) -> int:
    try:
        return int.from_bytes(fcntl.ioctl(connection, which, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def rate(connection: socket.socket) -> float:
    """Bytes a second that TCP lets out now: a window in each round trip; infinite where it does not say."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        size, microseconds, window = _INFO.unpack(info)
    except (OSError, struct.error):
        return math.inf
    return float(size * window * 1e6 / microseconds) if microseconds else math.inf


def freshen(connection: socket.socket) -> bool:
    """Before the first bytes after a pause: let BBR send them as fast as its window allows. Returns whether it does.

    BBR sends at the rate at which bytes were delivered, and of a little that is sent at once that is never more than
    all of it in a round trip: so it takes about that long again, and the next time, too. While it still looks for the
    bandwidth, which it has not found with so little, it is begun anew: its window stays, and its rate is reckoned
    from that. What it has found out is left to it.
    """
    if _queued(connection, _UNHEARD):
        return False
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, _TCP_CC_INFO, _BBR.size)
        if len(told) < _BBR.size or _BBR.unpack(told)[3] <= _STARTUP:
            return False
        for name in (b"reno", b"bbr"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
    except OSError:  # of a system without all that
        return False
    return True


def user_of(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(said)[1])
