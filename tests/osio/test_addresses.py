"""Names and ports: found, unknown, silent, refused, swallowed; never later than the deadline."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from proxyfab.osio.addresses import reach
from proxyfab.testing.walls import wall


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def swallowing() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel drops who else knocks, as a firewall does."""
    with wall() as port:
        yield port


def test_a_port_that_accepts(listener: socket.socket) -> None:
    name, port = reach("localhost", listener.getsockname()[1])

    assert (name.check, name.state) == ("name", "ok")
    assert "127.0.0.1" in name.detail
    assert (port.check, port.state) == ("port", "ok")


def test_nobody_listens(listener: socket.socket) -> None:
    number = listener.getsockname()[1]
    listener.close()
    name, port = reach("127.0.0.1", number)

    assert name.state == "ok"
    assert port.state == "fail"
    assert "refuses" in port.detail
    assert "start it" in port.detail


def test_what_is_sent_there_vanishes(swallowing: int) -> None:
    started = time.monotonic()
    *_, port = reach("127.0.0.1", swallowing, timeout=0.3)

    assert port.state == "fail"
    assert "did not answer within 0.3 s" in port.detail
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300, "bad..name", "x\x00y"])
def test_a_name_that_nobody_knows(host: str) -> None:
    (name,) = reach(host, 6379, timeout=20)

    assert name.state == "fail"
    assert host in name.detail


def test_a_name_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    released, real = threading.Event(), socket.getaddrinfo

    def silent(host: str, *args: Any, **options: Any) -> Any:
        """Of one name only: threads of other tests may look theirs up."""
        return released.wait(30) if host == "example.org" else real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        (name,) = reach("example.org", 6379, timeout=0.2)
    finally:
        released.set()

    assert name.state == "fail"
    assert "name service" in name.detail
