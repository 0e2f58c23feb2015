"""Clients of a node server that say what they want, and read when they want; by each way there is."""

from __future__ import annotations

import os
from typing import Any

import zmq

from proxyfab.connectors.zmq.beside import Offer, connect
from proxyfab.testing.nodes import NodeServer
from proxyfab.wire.messages import NOBODY, Message, decode, encode
from proxyfab.wire.side import NONCE, Reading, proof, written

PATIENCE = 60.0


class Raw:
    """A DEALER."""

    def __init__(self, context: zmq.Context[Any], server: NodeServer) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = int(PATIENCE * 1000)
        self.socket.connect(server.ready["endpoints"][0])

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

    def close(self) -> None:
        self.socket.close(0)


class RawSide(Raw):
    """The same beside ZeroMQ."""

    def __init__(self, context: zmq.Context[Any], server: NodeServer, way: str) -> None:
        first = Raw(context, server)
        self.offer, address = offered(first, server, way)
        first.close()
        self.stream = connect(self.offer, address, PATIENCE)
        self.reading = Reading()
        nonce = os.urandom(NONCE)
        answer = self.ask("hello", {"nonce": nonce, "proof": proof(self.offer.token, "client", nonce)})
        assert answer.fields["proof"] == proof(self.offer.token, "server", nonce)

    def say(self, verb: str, fields: dict[str, Any], *body: bytes, request: bytes = b"r" * 16) -> None:
        self.stream.sendall(b"".join([written(verb, request, fields, sum(map(len, body))), *body]))

    def hear(self) -> Message:
        while (message := self.reading.next()) is None:
            received = self.stream.recv_into(self.reading.target)
            if not received:
                raise ConnectionError("the server has ended this connection")
            self.reading.took(received)
        return message

    def close(self) -> None:
        self.stream.close()


def offered(raw: Raw, server: NodeServer, way: str) -> tuple[Offer, str]:
    """What a server offers beside ZeroMQ, and its address."""
    address = server.url.removeprefix("zmq://")
    offer = Offer.of(raw.ask("hello", {}, request=NOBODY), address, {"unix": "1", "tcp": "tcp"}[way])
    assert offer is not None
    assert bool(offer.path) is (way == "unix")
    return offer, address
