"""The cable does what it says to real sockets, says what it did, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyfab.errors import ConfigurationError
from proxyfab.testing.cable import Cable, cable
from proxyfab.testing.processes import in_fork, until

__all__ = ["cable"]
SHORT = 0.1
"""Seconds in which nothing is to come. What takes shorter than it should is a failure; longer is a busy machine."""


class Echo:
    """A real server: sends back what it hears, and counts."""

    def __init__(self, family: int, address: object) -> None:
        self.listener = socket.socket(family)
        self.listener.bind(address)
        self.listener.listen(16)
        self.heard = 0
        self.ended: list[str] = []
        self.threads: list[threading.Thread] = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    @property
    def target(self) -> str:
        name = self.listener.getsockname()
        return name if isinstance(name, str) else "{}:{}".format(*name)

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer = self.listener.accept()[0]
                self.threads.append(threading.Thread(target=self.serve, args=(peer,), daemon=True))
                self.threads[-1].start()

    def serve(self, peer: socket.socket) -> None:
        with peer:
            peer.settimeout(30)
            try:
                while data := peer.recv(65536):
                    self.heard += len(data)
                    peer.sendall(data)
                self.ended.append("end")
            except OSError as error:
                self.ended.append(type(error).__name__)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Echo]:
    tcp = request.param == "tcp"
    echo = Echo(socket.AF_INET, ("127.0.0.1", 0)) if tcp else Echo(socket.AF_UNIX, str(tmp_path / "echo"))
    yield echo
    echo.close()


@pytest.fixture
def laid(server: Echo, cable: Callable[[str], Cable]) -> Cable:
    return cable(server.target)


def connect(laid: Cable) -> socket.socket:
    client = socket.socket(socket.AF_UNIX if laid.port == 0 else socket.AF_INET)
    client.settimeout(30)
    try:
        client.connect(laid.address if laid.port == 0 else ("127.0.0.1", laid.port))
    except OSError:
        client.close()
        raise
    return client


@pytest.fixture
def client(laid: Cable) -> Iterator[socket.socket]:
    with connect(laid) as made:
        yield made


def receive(client: socket.socket, nbytes: int) -> bytes:
    """What comes until there are so many bytes or the end."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while len(got) < nbytes and (data := client.recv(nbytes - len(got))):
            got += data
    return got


def echoed(client: socket.socket, data: bytes) -> bytes:
    sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
    sender.start()
    got = receive(client, len(data))
    sender.join(30)
    return got


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SHORT)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(30)
    return False


def broken(client: socket.socket) -> bool:
    try:
        client.send(b"?")
        return client.recv(1) == b""
    except ConnectionError:
        return True


def refused(laid: Cable) -> bool:
    """Whether a new connection comes to nothing, at once or as soon as it is used."""
    try:
        with connect(laid) as client:
            return broken(client)
    except OSError:
        return True


def test_bytes_pass_unchanged_and_are_counted(laid: Cable, client: socket.socket) -> None:
    data = os.urandom(3_000_000)
    assert echoed(client, data) == data
    assert until(lambda: laid.carried("up") == laid.carried("down") == len(data))
    assert (laid.connections, laid.resets, laid.dropped, laid.flipped) == (1, 0, 0, 0)


def test_an_end_is_passed_on(server: Echo, laid: Cable, client: socket.socket) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 100) == b"last words"
    assert server.ended == ["end"]
    assert until(lambda: laid.live == 0)
    assert laid.resets == 0


def test_a_url_is_led_through(server: Echo, laid: Cable) -> None:
    assert laid.through(f"redis://{server.target}/3") == f"redis://{laid.address}/3"
    with pytest.raises(ConfigurationError):
        laid.through("redis://example.org/3")


def test_a_target_may_be_a_url(cable: Callable[[str], Cable]) -> None:
    echo = Echo(socket.AF_INET, ("127.0.0.1", 0))
    laid = cable(f"tcp://{echo.target}")
    with connect(laid) as client:
        assert echoed(client, b"hello") == b"hello"
    echo.close()


def test_reset_breaks_now_and_welcomes_the_next(laid: Cable, client: socket.socket) -> None:
    echoed(client, b"x")
    laid.reset()
    assert broken(client)
    assert laid.resets == 1
    with connect(laid) as other:
        assert echoed(other, b"y") == b"y"


def test_a_reset_is_one(cable: Callable[[str], Cable]) -> None:
    echo = Echo(socket.AF_INET, ("127.0.0.1", 0))
    laid = cable(echo.target)
    with connect(laid) as client:
        echoed(client, b"x")
        laid.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert until(lambda: echo.ended == ["ConnectionResetError"])
    echo.close()


def test_cut_lasts_until_heal(laid: Cable, client: socket.socket) -> None:
    echoed(client, b"x")
    laid.cut()
    assert broken(client)
    assert [refused(laid) for _ in range(3)] == [True] * 3
    laid.heal()
    with connect(laid) as other:
        assert echoed(other, b"y") == b"y"


@pytest.mark.parametrize("nbytes", [0, 1, 1000])
def test_cut_after_so_many_bytes_down(laid: Cable, client: socket.socket, nbytes: int) -> None:
    laid.cut_after(nbytes, "down")
    client.sendall(b"z" * 2000)
    assert len(receive(client, 2000)) == nbytes
    assert laid.resets == 1
    with connect(laid) as other:
        assert echoed(other, b"z" * 5000) == b"z" * 5000


def test_cut_after_so_many_bytes_up(server: Echo, laid: Cable, client: socket.socket) -> None:
    laid.cut_after(700)
    client.sendall(b"z" * 2000)
    assert until(lambda: server.ended != [])
    assert server.heard == 700


def test_a_black_hole_accepts_and_says_nothing(server: Echo, laid: Cable, client: socket.socket) -> None:
    echoed(client, b"x")
    laid.black_hole()
    client.sendall(b"hello?")
    assert is_silent(client)
    with connect(laid) as other:
        other.sendall(b"and you?")
        assert is_silent(other)
        assert until(lambda: laid.dropped == 14)
        laid.heal()
        assert broken(client)
        assert broken(other)
    assert server.heard == 1


def test_a_black_hole_one_way(server: Echo, laid: Cable, client: socket.socket) -> None:
    laid.black_hole("down")
    client.sendall(b"question")
    assert until(lambda: server.heard == 8)
    assert is_silent(client)


def test_a_pause_loses_nothing(server: Echo, laid: Cable, client: socket.socket) -> None:
    laid.pause()
    client.sendall(b"question")
    assert is_silent(client)
    assert server.heard == 0
    laid.heal()
    assert receive(client, 8) == b"question"
    assert laid.resets == 0


def test_a_paused_cable_holds_a_sender_back(laid: Cable, client: socket.socket) -> None:
    laid.pause()
    client.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(64 << 20))


def test_delay_is_added_each_way(laid: Cable, client: socket.socket) -> None:
    echoed(client, b"x")
    laid.delay(0.05, jitter=0.01)
    start = time.monotonic()
    assert echoed(client, b"y") == b"y"
    assert time.monotonic() - start >= 0.1
    data = os.urandom(500_000)
    assert echoed(client, data) == data


def test_a_limited_rate(laid: Cable, client: socket.socket) -> None:
    laid.limit(1_000_000, "down")
    data = os.urandom(200_000)
    start = time.monotonic()
    assert echoed(client, data) == data
    assert time.monotonic() - start >= 0.19 - 0.02


@pytest.mark.parametrize("way", ["up", "down"])
def test_one_bit_arrives_inverted(laid: Cable, client: socket.socket, way: str) -> None:
    echoed(client, b"before")
    data = os.urandom(100_000)
    laid.flip(77_777, way, bit=5)
    expected = bytearray(data)
    expected[77_777] ^= 1 << 5
    assert echoed(client, data) == expected
    assert until(lambda: laid.flipped == 1)
    assert echoed(client, data) == data


def test_tiny_pieces(laid: Cable, client: socket.socket) -> None:
    laid.slice(1)
    data = os.urandom(2000)
    assert echoed(client, data) == data


def test_half_closed_the_server_hears_the_end_and_answers_it(server: Echo, laid: Cable) -> None:
    with connect(laid) as client:
        echoed(client, b"x")
        laid.half_close("up")
        assert until(lambda: server.ended == ["end"])
        assert client.recv(1) == b""


def test_half_open_the_client_hears_nothing(server: Echo, laid: Cable, client: socket.socket) -> None:
    echoed(client, b"x")
    laid.half_open()
    assert until(lambda: server.ended != [])
    client.sendall(b"still there?")
    assert is_silent(client)
    laid.heal()
    assert broken(client)


def test_half_open_the_server_hears_nothing(server: Echo, laid: Cable, client: socket.socket) -> None:
    echoed(client, b"x")
    laid.half_open(alive="server")
    assert broken(client)
    assert server.ended == []


def test_a_server_that_is_not_there(tmp_path: Path, cable: Callable[[str], Cable]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for target in (f"127.0.0.1:{port}", str(tmp_path / "nobody")):
        laid = cable(target)
        assert refused(laid)
        assert until(lambda laid=laid: laid.live == 0)


def test_many_connections_at_once(laid: Cable) -> None:
    clients = [connect(laid) for _ in range(40)]
    for number, one in enumerate(clients):
        one.sendall(b"%03d" % number)
    assert [receive(one, 3) for one in clients] == [b"%03d" % number for number in range(40)]
    for one in clients:
        one.close()
    assert until(lambda: laid.live == 0)


def test_a_fork_holds_no_connection_open(server: Echo, laid: Cable, client: socket.socket) -> None:
    echoed(client, b"x")

    def work() -> bool:
        laid.close()  # another's: nothing to close here
        return True

    assert in_fork(work)
    assert echoed(client, b"y") == b"y"


def test_nothing_is_left(server: Echo) -> None:
    laid = Cable(server.target)
    with connect(laid) as client:
        echoed(client, b"x")
        laid.close()
        laid.close()
        assert broken(client)
    laid.reset()  # of nothing: a closed cable is a cut one
    assert not os.path.exists(laid.address)
    assert refused(laid)
