"""Heartbeats: clients send them, and the server drops who falls silent; nobody dies of one that cannot be sent.

libzmq ends its process when it is to send a heartbeat, or to answer one, over a connection whose input it had stopped
at its high-water mark, and that has ended.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time
from typing import Any

import pytest
import zmq

from proxyfab.connectors.zmq import presence
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.connectors.zmq.presence import Presence
from proxyfab.osio.owner import this_process
from proxyfab.server.line import Line
from proxyfab.server.options import Options
from proxyfab.testing import Child
from proxyfab.testing.processes import until
from proxyfab.wire.messages import encode, presence_of

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
SMALL = b"\x01\x01a\x00\x01b"
"""A message of two frames."""
BEATS = 1.5
"""Seconds in which a heartbeat falls due, if there are any."""


def listen(talk: Any) -> int:
    """A server whose loop is held until it is told to go on; how many messages it has taken then."""
    line = Line(Options())
    line.open()
    try:
        talk.send(line.endpoints[0])
        talk.recv()
        taken = 0
        while line.receive() is not None:
            taken += 1
        return taken
    finally:
        line.close()


def speak(port: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port))
    one.settimeout(20)
    one.sendall(GREETING + b"\x04" + bytes([len(READY)]) + READY)
    said = b""
    while b"ROUTER" not in said:
        said += one.recv(4096)
    return one


def reset(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


@pytest.mark.parametrize("count", [1, 100, 5_000])
def test_who_says_more_than_is_taken_and_goes_ends_nothing_but_his_connection(count):
    """A heartbeat lies among what he said, and others fall due."""
    with Child(listen) as server:
        port = int(server.receive().rpartition(":")[2])
        with speak(port) as one:
            one.sendall(SMALL * count + ping(40) + SMALL * 20)
            assert until(lambda: _unread(one) == 0)
            reset(one)
        assert not until(lambda: server.process.poll() is not None, BEATS), "it has died"
        server.send("go on")
        assert server.result() == count + 20


def _unread(one: socket.socket) -> int:
    """Bytes that the server's kernel has not acknowledged yet."""
    return struct.unpack("i", fcntl.ioctl(one, termios.TIOCOUTQ, bytes(4)))[0]


def frame(said: bytes) -> bytes:
    """A message of one frame, as ZMTP writes it."""
    return b"\x02" + len(said).to_bytes(8, "big") + said


def ping(tenths: int) -> bytes:
    return b"\x04\x07\x04PING" + tenths.to_bytes(2, "big")


@pytest.mark.parametrize("last", ["a message", "a heartbeat"])
def test_who_falls_silent_is_dropped_in_time_and_who_never_promised_heartbeats_is_not(node_server, last):
    """What comes last is a message: ZeroMQ expects no heartbeat then."""
    hello = frame(encode("hello", b"h" * 16, {"beats": last == "a message", "name": "silent"}))
    other = frame(encode("hello", b"h" * 16, {"name": "foreign"}))
    with (
        ZMQConnector.from_url(node_server.url) as ask,
        speak(node_server.port) as silent,
        speak(node_server.port) as foreign,
    ):

        def known() -> set[str]:
            return {peer["name"] for peer in ask.status().peers} & {"silent", "foreign"}

        foreign.sendall(other)
        silent.sendall(ping(40) + hello if last == "a message" else hello + ping(40))
        said = time.monotonic()
        assert until(lambda: known() == {"silent", "foreign"}, 3)
        assert until(lambda: known() == {"foreign"})
        assert 3.5 < time.monotonic() - said < 5.5
        foreign.sendall(frame(encode("exists", b"e" * 16, {"ns": "n", "ids": ["k"]})))
        answered = b""
        while b"found" not in answered:
            more = foreign.recv(4096)
            assert more, "it was dropped, too"
            answered += more


def be_present(talk: Any, endpoint: str) -> str:
    """A process whose server looks for it again and again, and ends."""
    presence._HEARTBEAT = 200
    held = Presence(endpoint, {}, this_process().writer)
    writer = this_process().writer
    talk.send(presence_of(f"{writer.machine}-{writer.pid}-{writer.start}"))
    talk.recv()
    held.close()
    return "alive"


def test_whose_presence_was_looked_for_outlives_the_server():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.router_mandatory = True
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with Child(be_present, f"tcp://127.0.0.1:{port}") as child:
            who = child.receive()

            def reached() -> bool:
                try:
                    router.send_multipart([who, b""], zmq.NOBLOCK)
                except zmq.ZMQError:
                    return False
                return True

            assert until(reached)
            for _ in range(20):
                reached()
            assert not until(lambda: child.process.poll() is not None, 0.5)
            router.close(0)
            assert not until(lambda: child.process.poll() is not None, 1), "it has died with its server"
            child.send("go on")
            assert child.result() == "alive"
