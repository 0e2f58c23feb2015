"""What ZeroMQ keeps of a connection is bounded, whether it makes messages or not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
import zmq

from proxyfab.keyring import Keyring
from proxyfab.server.connections import LOOK, Connections
from proxyfab.server.line import Line
from proxyfab.server.options import Options
from proxyfab.testing.processes import until
from proxyfab.wire.flow import WINDOW

MB = 2**20
HEARTBEATS = 100
"""Bytes that each look allows for them."""


@pytest.fixture(params=["open", "encrypted"])
def line(request, tmp_path, monkeypatch) -> Iterator[Line]:
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    keyring = Keyring()
    keyring.make("curve", "server")
    keyring.make("curve", "client")
    keyring.allow("server", keyring.curve("client")[0], "me")
    line = Line(Options(key="server" if request.param == "encrypted" else ""))
    line.open()
    yield line
    line.close()


@pytest.fixture
def client(line, context) -> Iterator[zmq.Socket]:
    with context.socket(zmq.DEALER) as one:
        one.linger, one.sndhwm = 0, 0
        if line.gate.socket is not None:
            keyring = Keyring()
            one.curve_publickey, one.curve_secretkey = map(bytes, keyring.curve("client"))
            one.curve_serverkey = keyring.curve("server")[0]
        one.connect(line.endpoints[0])
        one.send(b"hello")
        assert until(lambda: line.gate.answer() or taken(line) == 1)
        yield one


def taken(line: Line) -> int:
    """How many messages were taken."""
    number = 0
    while line.receive() is not None:
        number += 1
    list(line.gone())
    return number


@pytest.fixture
def looks(line) -> Callable[[], int]:
    """Look, and say how many floods were ended so far."""
    now = iter(range(1, 10**9))

    def look() -> int:
        line.connections.look(next(now) * 2 * LOOK)
        return line.connections.ended

    return look


def test_who_is_a_window_and_a_message_ahead_stays_however_much_he_has_said(line, client, looks):
    """Also with frames whose sizes take two bytes and nine, and beside what encryption adds."""
    looked = 0
    for _ in range(3):
        for _ in range(WINDOW // MB):
            client.send_multipart([b"header", bytes(MB - 1000), b"", bytes(200), bytes(222), bytes(223), bytes(256)])
        client.send_multipart([b"h"] * 1000)
        count = 0
        while count < WINDOW // MB + 1:
            assert looks() == 0
            looked += 1
            count += taken(line)
    assert -HEARTBEATS * looked <= ahead(line) < 1000, "what was said is counted as it was sent"


def ahead(line: Line) -> int:
    ((descriptor, connection),) = line.connections._here.items()
    with socket.socket(fileno=os.dup(descriptor)) as end:
        received = int.from_bytes(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)[128:], "little")
    return received - connection.taken


@pytest.mark.parametrize("nbytes", [200, MB // 2])
def test_who_sends_whole_messages_faster_than_they_are_taken_is_disconnected(line, client, looks, nbytes):
    for _ in range(32 * MB // nbytes):
        client.send(bytes(nbytes))
    assert until(lambda: looks() == 1, 10)
    assert line.connections.counted == 0
    assert until(lambda: list(line.gone()) != []), "nothing more comes of it"


def test_where_another_connection_was_before_it_begins_with_nothing():
    connections = Connections(encrypted=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one, listener.accept()[0] as end:
            connections.come(end.fileno(), {port})
            connections.heard(end.fileno(), [memoryview(bytes(100 * MB))])  # said by who had this descriptor before
            connections.look(1.0)
            end.setblocking(False)
            one.setblocking(False)
            sent = 0
            while sent < 2 * WINDOW:
                try:
                    sent += one.send(bytes(MB))
                except BlockingIOError:
                    end.recv(MB)
            connections.look(2.0)
            assert connections.ended == 1
