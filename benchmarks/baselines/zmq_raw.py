"""What pyzmq and bare streams cost by themselves: one process sends an object of known size when it is asked.

`WholeZmq` gets an object as one message with `copy=False`, the fastest that pyzmq offers; `Stream` receives into memory
that is touched already, which nobody who returns an object can do.
"""

from __future__ import annotations

import socket
from multiprocessing.connection import Connection

import zmq

from proxyfab.testing.processes import Child

HOST = "127.0.0.1"


class WholeZmq:
    """A DEALER, and a ROUTER in another process."""

    def __init__(self, nbytes: int) -> None:
        self.child = Child(_router, nbytes)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(self.child.receive())

    def get(self) -> memoryview:
        """The object."""
        self.socket.send(b"get")
        return self.socket.recv(copy=False).buffer

    def put(self, data: bytes) -> None:
        """Send an object and wait for the answer."""
        self.socket.send(data, copy=False)
        self.socket.recv()

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()
        self.child.__exit__(None, None, None)


def _router(talk: Connection, nbytes: int) -> None:
    data = bytes(nbytes)
    router = zmq.Context().socket(zmq.ROUTER)
    port = router.bind_to_random_port(f"tcp://{HOST}")
    talk.send(f"tcp://{HOST}:{port}")
    while True:
        who, asked = router.recv_multipart(copy=False)
        router.send_multipart([who.bytes, data if len(asked) == 3 else b"ok"], copy=False)


class Stream:
    """A TCP connection, or a Unix socket in the abstract namespace, and a process that fills it."""

    def __init__(self, nbytes: int, *, unix: bool = False) -> None:
        self.child = Child(_stream, nbytes, unix)
        self.socket = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.socket.connect(self.child.receive())
        _tune(self.socket)
        self.target = memoryview(bytearray(b"x" * nbytes))

    def get(self) -> memoryview:
        """The object, in the same memory each time."""
        self.socket.sendall(b"g")
        have = 0
        while have < len(self.target):
            have += self.socket.recv_into(self.target[have:], 0, socket.MSG_WAITALL)
        return self.target

    def close(self) -> None:
        self.socket.close()
        self.child.__exit__(None, None, None)


def _tune(one: socket.socket) -> None:
    if one.family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _stream(talk: Connection, nbytes: int, unix: bool) -> None:
    data = bytes(nbytes)
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as listener:
        listener.bind("" if unix else (HOST, 0))
        listener.listen()
        talk.send(listener.getsockname())
        connection, _ = listener.accept()
        _tune(connection)
        while connection.recv(1):
            connection.sendall(data)
