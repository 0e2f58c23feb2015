"""Sockets: what the kernel holds of what was sent, and BBR that begins anew."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.osio import sockets

KNOWN = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as here:
        with listener.accept()[0] as there:
            yield here, there


def control(connection: socket.socket) -> str:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def window(connection: socket.socket) -> int:
    """Segments that may be under way: tcpi_snd_cwnd."""
    return int(struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), 80)[0])


def rate(connection: socket.socket) -> int:
    """Bytes a second at which it sends: tcpi_pacing_rate."""
    return int(struct.unpack_from("Q", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), 104)[0])


def test_bbr_that_looks_for_the_bandwidth_begins_anew_with_its_window(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends
    if "bbr" not in KNOWN:
        assert not sockets.freshen(here)
        return
    here.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    here.sendall(b"ask")
    assert there.recv(3) == b"ask"
    there.sendall(b"ok")
    assert here.recv(2) == b"ok"  # with it came the word that `ask` is there
    before = window(here)
    assert sockets.freshen(here)
    assert control(here) == "bbr"
    assert window(here) == before
    assert rate(here) > 0
    here.sendall(b"more")
    assert there.recv(4) == b"more"


def test_bytes_under_way_leave_it_as_it_is(ends: tuple[socket.socket, socket.socket]) -> None:
    here, _ = ends
    here.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:  # the other end does not read
            here.send(bytes(1 << 20))
    assert sockets.unsent(here) > 0
    assert not sockets.freshen(here)


def test_other_ways_are_left_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    here, _ = ends
    here.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    assert not sockets.freshen(here)
    assert control(here) == "reno"
    one, other = socket.socketpair()
    with one, other:
        assert not sockets.freshen(one)
        assert sockets.unsent(one) == 0
