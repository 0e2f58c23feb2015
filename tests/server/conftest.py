"""A node server for the tests of a module, and raw sockets to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from proxyfab.testing.nodes import NodeServer, node_server
from proxyfab.wire.messages import Message, decode, encode

__all__ = ["node_server"]


class Raw:
    """A client that says what it wants, and reads when it wants."""

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 20_000
        self.socket.connect(endpoint)

    def say(self, verb: str, fields: dict[str, Any], *body: bytes, request: bytes = b"r" * 16) -> None:
        self.socket.send_multipart([encode(verb, request, fields), *body])

    def hear(self) -> Message:
        while True:
            parts = self.socket.recv_multipart()
            if parts != [b""]:
                return decode(parts)

    def ask(self, verb: str, fields: dict[str, Any], *body: bytes, request: bytes = b"r" * 16) -> Message:
        self.say(verb, fields, *body, request=request)
        return self.hear()


@pytest.fixture
def raw(node_server: NodeServer) -> Iterator[Callable[..., Raw]]:
    context: zmq.Context[Any] = zmq.Context()
    made: list[Raw] = []

    def make(server: NodeServer = node_server) -> Raw:
        made.append(Raw(context, server.ready["endpoints"][0]))
        return made[-1]

    yield make
    for one in made:
        one.socket.close(0)
    context.term()
