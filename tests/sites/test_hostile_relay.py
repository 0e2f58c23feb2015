"""Floods at doors and relays; a relay that rings, splices and replays as it likes: nobody gets in, nothing piles up."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyfab.errors import AccessDenied, ProxyfabError
from proxyfab.link.attending import Attendance, call
from proxyfab.link.dialling import straight
from proxyfab.link.doors import Hello, knock, welcome
from proxyfab.link.identity import Identity
from proxyfab.link.listening import Greeter, Listener
from proxyfab.link.pairing import KEY, NONCE, TOKEN, challenged, octets, written
from proxyfab.testing.gateways import RelayServer, listens
from proxyfab.testing.processes import until
from tests.sites.letters import said

MB = 1_000_000
SECRETS = {name: os.urandom(32) for name in ("aps", "alcf", "nersc")}
HELLO = Hello("aps", bytes(16), 0)


def identity(name: str) -> Identity:
    """A site that knows the others."""
    public = {
        other: Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        for other, secret in SECRETS.items()
        if other != name
    }
    return Identity(name, SECRETS[name], public)


@pytest.fixture
def taken() -> list[Hello]:
    return []


@pytest.fixture
def door(taken: list[Hello]) -> Iterator[Listener]:
    """Where site alcf listens."""

    def take(connection: ssl.SSLSocket, hello: Hello) -> None:
        with connection:
            welcome(connection, fresh=True, timeout=10)
            taken.append(hello)

    listener = Listener(Greeter(identity("alcf"), take), ("127.0.0.1", 0))
    yield listener
    listener.close()
    assert until(lambda: not [each for each in threading.enumerate() if each.name == "proxyfab-greeting"])


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayServer]:
    with RelayServer(["--sites", "20"]) as server:
        yield server


def test_who_opens_connections_and_says_nothing_keeps_nobody_out(door: Listener, taken: list[Hello]) -> None:
    with contextlib.ExitStack() as silent:
        for number in range(150):
            connection = silent.enter_context(socket.create_connection(door.address))
            if number % 3 == 0:
                connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # a handshake that begins
        begun = time.monotonic()
        knock(identity("aps"), "alcf", door.address, HELLO, timeout=8)[0].close()
        assert time.monotonic() - begun < 8
        assert until(lambda: taken == [HELLO])
        assert sum(each.name == "proxyfab-greeting" for each in threading.enumerate()) <= 70


def test_a_relay_full_of_strangers_serves_who_speaks(relay: RelayServer) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(400):
            silent.enter_context(socket.create_connection(listens(relay)))
        here = identity("alcf")
        attendance = Attendance(here, listens(relay), here.known, lambda _: None, straight)
        assert until(lambda: attendance.here, 8)
        attendance.close()
        assert len(os.listdir(f"/proc/{relay.pid}/fd")) < 200


def registered(relay: RelayServer, site: Identity, ends: contextlib.ExitStack) -> tuple[socket.socket, str]:
    connection = ends.enter_context(socket.create_connection(listens(relay)))
    nonce = octets(said(connection), "nonce", NONCE)
    signature = site.sign(challenged(nonce, "register", b""))
    connection.sendall(written("register", key=site.public, signature=signature, target=b""))
    letter = said(connection)
    return connection, letter.text("why", "") if letter.verb == "no" else ""


def test_a_flood_of_registrations_takes_nobodys_place(relay: RelayServer) -> None:
    with contextlib.ExitStack() as ends:
        first, why = registered(relay, identity("alcf"), ends)
        assert not why
        others = [registered(relay, Identity("x", os.urandom(32), {}), ends)[1] for _ in range(100)]
        assert others.count("") == 19
        assert set(others[19:]) == {"20 sites are registered already."}
        same = [registered(relay, identity("nersc"), ends)[1] for _ in range(3)]  # nor by being many
        assert set(same) == {"20 sites are registered already."}
        caller = threading.Thread(target=partial(_calls, relay))
        caller.start()
        assert said(first).verb == "ring"
        caller.join(20)
        status = Path(f"/proc/{relay.pid}/status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) * 1024 < 50 * MB


def _calls(relay: RelayServer) -> None:
    with contextlib.suppress(ProxyfabError):
        call(identity("aps"), listens(relay), identity("aps").public_of("alcf"), 1.0, straight).close()


def test_a_relay_that_rings_for_ever_is_answered_within_limits() -> None:
    here = identity("alcf")
    with socket.create_server(("127.0.0.1", 0), backlog=512) as fake:
        attendance = Attendance(here, fake.getsockname(), here.known, lambda _: None, straight)
        connection, _ = fake.accept()
        with connection:
            connection.sendall(written("challenge", nonce=bytes(NONCE)))
            assert said(connection).verb == "register"
            for _ in range(1000):
                ring = written("ring", token=os.urandom(TOKEN), **{"from": here.public_of("aps")})
                connection.sendall(ring)
            connection.sendall(written("ring", token=bytes(TOKEN), **{"from": bytes(KEY)}) + written("ping"))
            assert said(connection).verb == "pong"  # all were heard
            assert sum(each.name == "proxyfab-answer" for each in threading.enumerate()) <= 64
        attendance.close()
    assert until(lambda: not [each for each in threading.enumerate() if each.name == "proxyfab-answer"], 15)


def spliced_to(target: tuple[str, int]) -> Callable[[str, int, float], socket.socket]:
    """What dials as if through a relay that connects one with whom it likes."""
    return lambda host, port, timeout: socket.create_connection(target, timeout)


def test_a_relay_that_splices_wrongly_connects_nobody(door: Listener, taken: list[Hello]) -> None:
    with pytest.raises(AccessDenied, match="another key than the one that is pinned"):
        knock(identity("aps"), "nersc", ("relay", 1), HELLO, timeout=10, dial=spliced_to(door.address))
    assert not taken


def test_what_a_relay_has_seen_is_of_no_use_again(door: Listener, taken: list[Hello]) -> None:
    """It passes on a greeting, keeps every byte, and says them again to the same door."""
    kept = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as fake:
        thread = threading.Thread(target=_passing, args=(fake, door.address, kept))
        thread.start()
        knock(identity("aps"), "alcf", fake.getsockname(), HELLO, timeout=10)[0].close()
        thread.join(20)
    assert len(kept) > 500
    assert taken == [HELLO]
    with socket.create_connection(door.address) as replay:
        replay.settimeout(20)
        replay.sendall(kept)
        with contextlib.suppress(OSError):
            while replay.recv(1 << 16):
                pass
    assert taken == [HELLO]


def _passing(fake: socket.socket, target: tuple[str, int], kept: bytearray) -> None:
    one, _ = fake.accept()
    with one, socket.create_connection(target) as other:
        back = threading.Thread(target=_pass, args=(other, one, bytearray()))
        back.start()
        _pass(one, other, kept)
        back.join(20)


def _pass(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
