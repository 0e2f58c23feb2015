"""Who is let in: sites whose keys are pinned, over TLS 1.3, in time. And links over such streams."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import (
    AccessDenied,
    ConfigurationError,
    ConnectorError,
    IntegrityError,
    ProxyfabError,
    ResolveTimeout,
)
from proxyfab.link.doors import Hello, knock, open_door, refuse, welcome
from proxyfab.link.identity import Identity
from proxyfab.link.line import Line
from proxyfab.link.streams import Stream

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
LINK = bytes(16)
SECRETS = {name: os.urandom(32) for name in ("aps", "alcf", "mallory")}


def public(name: str) -> bytes:
    return bytes(ed25519.Ed25519PrivateKey.from_private_bytes(SECRETS[name]).public_key().public_bytes_raw())


def site(name: str, *peers: str, secret: str = "") -> Identity:
    return Identity(name, SECRETS[secret or name], {peer: public(peer) for peer in peers})


class Listener:
    """Takes one connection in a thread of its own, and keeps what came of it."""

    def __init__(self, act: Callable[[socket.socket], Any]) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.outcome: Any = None
        self._act = act
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()
        return host, port

    def _run(self) -> None:
        plain, _ = self.socket.accept()
        try:
            self.outcome = self._act(plain)
        except ProxyfabError as error:
            self.outcome = error
            plain.close()

    def end(self) -> Any:
        self._thread.join(20)
        self.socket.close()
        return self.outcome


def let_in(identity: Identity, plain: socket.socket) -> tuple[ssl.SSLSocket, Hello]:
    connection, hello = open_door(identity, plain, timeout=10)
    welcome(connection, fresh=True, timeout=10)
    return connection, hello


def test_two_sites_that_know_each_other() -> None:
    listener = Listener(partial(let_in, site("alcf", "aps", "mallory")))
    here, fresh = knock(site("aps", "alcf"), "alcf", listener.address, Hello("aps", LINK, 7), timeout=10)
    there, hello = listener.end()
    with here, there:
        assert fresh
        assert hello == Hello("aps", LINK, 7)
        assert here.version() == there.version() == "TLSv1.3"
        here.sendall(b"x")
        assert there.recv(1) == b"x"


def test_one_connection_cannot_be_for_another_site() -> None:
    listener = Listener(partial(let_in, site("mallory", "aps")))
    with pytest.raises(AccessDenied, match="answers for site alcf at .* has another key than the one that is pinned"):
        knock(site("aps", "alcf"), "alcf", listener.address, Hello("aps", LINK, 0), timeout=10)
    assert isinstance(listener.end(), AccessDenied)


@pytest.mark.parametrize(
    ("caller", "name"),
    [
        (site("mallory", "alcf"), "mallory"),
        (site("aps", "alcf", secret="mallory"), "aps"),
        (site("mallory", "alcf"), "aps"),
    ],
    ids=["unknown", "another's name", "another's greeting"],
)
def test_strangers_are_not_let_in(caller: Identity, name: str) -> None:
    listener = Listener(partial(let_in, site("alcf", "aps")))
    with pytest.raises((AccessDenied, ConnectorError)):
        knock(caller, "alcf", listener.address, Hello(name, LINK, 0), timeout=10)
    assert isinstance(listener.end(), AccessDenied)


def test_a_peer_cannot_call_itself_by_another_peers_name() -> None:
    listener = Listener(partial(let_in, site("alcf", "aps", "mallory")))
    with pytest.raises((AccessDenied, ConnectorError)):
        knock(site("mallory", "alcf"), "alcf", listener.address, Hello("aps", LINK, 0), timeout=10)
    assert "Site mallory calls itself 'aps'" in str(listener.end())


def test_who_shows_no_certificate_or_speaks_no_tls_is_not_let_in() -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    listener = Listener(partial(let_in, site("alcf", "aps")))
    with socket.create_connection(listener.address) as plain, bare.wrap_socket(plain) as connection:
        with pytest.raises(OSError):  # noqa: PT011 - an alert or a reset, as the two ends race
            connection.sendall(b"x" * 100)
            connection.recv(1)
            raise OSError("closed")
        assert isinstance(listener.end(), AccessDenied)
    listener = Listener(partial(let_in, site("alcf", "aps")))
    with socket.create_connection(listener.address) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert isinstance(listener.end(), AccessDenied)


def test_who_says_nothing_is_not_waited_for() -> None:
    listener = Listener(lambda plain: open_door(site("alcf", "aps"), plain, timeout=0.2))
    begun = time.monotonic()
    with socket.create_connection(listener.address):
        assert isinstance(listener.end(), ResolveTimeout)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(ResolveTimeout, match=r"longer than 0\.2 s"):
        knock(site("aps", "alcf"), "alcf", deaf.getsockname(), Hello("aps", LINK, 0), timeout=0.2)
    assert time.monotonic() - begun < 5


def test_nobody_there_no_key_and_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with pytest.raises(ConnectorError, match=r"site alcf at 127\.0\.0\.1:\d+ could be opened: .*refused"):
        knock(site("aps", "alcf"), "alcf", address, Hello("aps", LINK, 0), timeout=10)
    with pytest.raises(ConfigurationError, match="'nersc' has no public key here"):
        site("aps", "alcf").client("nersc")

    def not_now(plain: socket.socket) -> None:
        connection, _ = open_door(site("alcf", "aps"), plain, timeout=10)
        refuse(connection, "There are 32 streams already.", timeout=10)

    listener = Listener(not_now)
    with pytest.raises(AccessDenied, match="There are 32 streams already"):
        knock(site("aps", "alcf"), "alcf", listener.address, Hello("aps", LINK, 0), timeout=10)
    listener.end()


def test_a_greeting_that_is_none() -> None:
    listener = Listener(partial(let_in, site("alcf", "aps")))
    with socket.create_connection(listener.address) as plain:
        with site("aps", "alcf").client("alcf").wrap_socket(plain) as connection:
            connection.sendall(os.urandom(32))
            assert isinstance(listener.end(), IntegrityError)


def test_a_link_over_encrypted_streams() -> None:
    value = os.urandom(3_000_000)
    near, far = Line("alcf", lambda key: None), Line("aps", lambda key: Frames([value]))
    for number in range(3):
        listener = Listener(partial(let_in, site("alcf", "aps")))
        here, _ = knock(site("aps", "alcf"), "alcf", listener.address, Hello("aps", LINK, number), timeout=10)
        there, _ = listener.end()
        assert near.join(number, partial(Stream, number, here))
        assert far.join(number, partial(Stream, number, there))
    try:
        for outcome in near.get_many(["a", "b", "c"], 30):
            assert outcome.frames is not None
            assert outcome.frames.tobytes() == value
    finally:
        near.close()
        far.close()
