"""A bare socket that speaks just enough of Redis's protocol: what the server and the kernel alone cost.

GET receives into memory that is touched already; SET sends a header and the payload in one system call.
"""

from __future__ import annotations

import socket


class RawRedis:
    """One connection to a server, for values of known length."""

    def __init__(self, host: str, port: int, nbytes: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.target = memoryview(bytearray(b"x" * nbytes))
        self.line = bytearray(64)

    def get(self, name: bytes) -> memoryview:
        """The value, in the same memory each time."""
        self.socket.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name))
        head = b"$%d\r\n" % len(self.target)
        self._exactly(memoryview(self.line)[: len(head)])
        if self.line[: len(head)] != head:
            raise ValueError(f"{bytes(self.line[: len(head)])!r} is not the reply {head!r}")
        self._exactly(self.target)
        self._exactly(memoryview(self.line)[:2])
        return self.target

    def put(self, name: bytes, data: bytes) -> None:
        """Store the value."""
        start = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, len(data))
        parts = [memoryview(start), memoryview(data), memoryview(b"\r\n")]
        while parts:
            sent = self.socket.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][sent:]
        self._exactly(memoryview(self.line)[:5])
        if self.line[:5] != b"+OK\r\n":
            raise ValueError(f"{bytes(self.line[:5])!r} is not OK")

    def close(self) -> None:
        """Let go of the connection."""
        self.socket.close()

    def _exactly(self, view: memoryview) -> None:
        have = 0
        while have < len(view):
            have += self.socket.recv_into(view[have:], 0, socket.MSG_WAITALL)
