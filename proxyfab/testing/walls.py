"""A port behind a wall: who knocks is neither let in nor refused, as behind a firewall that drops."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def wall(host: str = "127.0.0.1") -> Iterator[int]:
    """The number of a port whose queue of connections is full: the kernel drops who else knocks."""
    with socket.socket() as server:
        server.bind((host, 0))
        server.listen(0)
        waiting = []
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(server.getsockname())
            waiting.append(one)
        yield server.getsockname()[1]
        for one in waiting:
            one.close()
