"""A node server that dies while a client connects to it: an error within the deadline, and the right one."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.connectors.zmq.dealer import Dealer
from proxyfab.errors import AccessDenied, ConnectorError
from proxyfab.keys import Key
from proxyfab.testing.processes import at_once, until
from proxyfab.zeromq.connection import Broken


@pytest.fixture
def resetting() -> Iterator[str]:
    """The address of somebody who resets each connection as soon as he has heard a word."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer = listener.accept()[0]
            except OSError:
                return
            peer.recv(1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_a_request_on_a_connection_that_has_gone_does_not_wait_for_another() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        channel = Dealer(f"tcp://127.0.0.1:{port}", {})
        channel.send("hello", bytes(16), {})
        assert server.poll(5000)
    try:
        assert until(lambda: not channel._socket.poll(0, zmq.POLLOUT), 5)
        (told,) = at_once([lambda: channel.send("get", bytes(16), {})], timeout=5)
        assert isinstance(told, Broken)
    finally:
        channel.close()


def test_a_connection_that_ends_while_it_is_made_is_no_refusal(resetting: str) -> None:
    connector = ZMQConnector(resetting, "name", timeout=1.0)
    since = time.monotonic()
    with pytest.raises(ConnectorError) as caught:
        connector.get(Key("k"))
    assert not isinstance(caught.value, AccessDenied)
    assert time.monotonic() - since < 5
    connector.close()
