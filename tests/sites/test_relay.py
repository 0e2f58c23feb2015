"""A relay between sites that cannot dial one another: what it lets in, what it passes on, and what it never sees."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.link.attending import Attendance, call
from proxyfab.link.dialling import straight
from proxyfab.link.identity import Identity
from proxyfab.link.pairing import KEY, NONCE, SIGNATURE, challenged, octets, written
from proxyfab.store import Store
from proxyfab.testing.gateways import Gateways, RelayServer, listens
from proxyfab.testing.processes import until
from tests.sites.letters import said

pytest.importorskip("cryptography")
MB = 1_000_000


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayServer]:
    with RelayServer(["--pairs-of-one", "150"]) as server:
        yield server


class Tap:
    """Lies before a server and keeps what passes."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self.target = host, int(port)
        self.passed: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.listener.getsockname())
        self.ends: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            other = socket.create_connection(self.target)
            self.ends += [one, other]
            for pair in ((one, other), (other, one)):
                self.threads.append(threading.Thread(target=self._pass, args=pair))
                self.threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.passed.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.threads[0].join(10)
        for end in self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join(10)
        for end in self.ends:
            end.close()


def holds(pid: int, canary: bytes) -> bool:
    """Whether a process has these bytes anywhere in its memory."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if span is None or "[v" in line:
                continue
            first, end = (int(each, 16) for each in span.groups())
            try:
                memory.seek(first)
                if canary in memory.read(end - first):
                    return True
            except OSError:
                continue
    return False


def test_references_cross_and_the_relay_sees_nothing_of_them(relay: RelayServer) -> None:
    canary = b"canary-" + os.urandom(25).hex().encode()
    tap = Tap(str(relay.ready["listen"]))
    try:
        with Gateways("aps", "alcf", relay=tap.address) as sites:
            with Store(sites.url("aps"), cache=0) as aps, Store(sites.url("alcf"), cache=0) as alcf:
                large, small = canary * 60_000, canary + b"small" * 10
                keys = aps.put_many([large, small])
                assert alcf.get_many(keys) == [large, small]
                back = alcf.put(large)
                assert aps.get(back) == large
                assert not holds(relay.pid, canary)
                assert holds(sites.servers["alcf"].pid, canary)  # so it would be found where it is
                figures = alcf.connector.status().gauges  # type: ignore[attr-defined]  # it can
                assert figures["relays"] == 1
    finally:
        tap.close()
    traffic = b"".join(tap.passed)
    assert len(traffic) > 2 * len(canary) * 60_000
    assert canary not in traffic


def test_a_relay_that_was_started_anew_is_found_again() -> None:
    with RelayServer() as relay:
        with Gateways("aps", "alcf", relay=str(relay.ready["listen"])) as sites:
            with Store(sites.url("aps"), cache=0) as aps, Store(sites.url("alcf"), cache=0) as alcf:
                key = aps.put(os.urandom(MB))
                assert alcf.get(key) is not None
                relay.restart()
                value = os.urandom(MB)
                assert alcf.get(aps.put(value)) == value


def identity(name: str, *known: Identity) -> Identity:
    return Identity(name, os.urandom(32), {each.name: each.public for each in known})


def test_many_pairs_cost_little(relay: RelayServer) -> None:
    one = identity("one")
    other = identity("other", one)
    echoes: list[socket.socket] = []
    attendance = Attendance(other, listens(relay), other.known, echoes.append, straight)
    calls: list[socket.socket] = []
    try:
        assert until(lambda: attendance.here)
        for _ in range(100):
            calls.append(call(one, listens(relay), other.public, 20, straight))
        assert until(lambda: len(echoes) == 100)
        for end in calls:
            end.sendall(end.getsockname()[1].to_bytes(4, "big") * 1000)
        found = set()
        for end in echoes:
            end.settimeout(20)
            said = end.recv(4000, socket.MSG_WAITALL)
            assert said == said[:4] * 1000
            found.add(int.from_bytes(said[:4], "big"))
        assert found == {end.getsockname()[1] for end in calls}
        status = Path(f"/proc/{relay.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0]) * 1024
        assert resident < 50 * MB
        print(f"relay with 100 pairs: {resident / MB:.1f} MB")
        for end in calls[50:]:
            end.shutdown(socket.SHUT_WR)  # half: what comes back still comes
        for end in echoes:
            end.sendall(b"bye")
        assert all(end.recv(3, socket.MSG_WAITALL) == b"bye" for end in calls)
    finally:
        for end in [*calls, *echoes]:
            end.close()
        attendance.close()


def test_nobody_registers_or_answers_as_another(relay: RelayServer) -> None:
    victim, thief = identity("victim"), identity("thief")
    for verb, target in (("register", b""), ("call", bytes(KEY))):
        with socket.create_connection(listens(relay)) as connection:
            nonce = octets(said(connection), "nonce", NONCE)
            signature = thief.sign(challenged(nonce, verb, target))
            connection.sendall(written(verb, key=victim.public, signature=signature, target=target))
            assert said(connection).text("why") == "Your signature is not of your key."
    with socket.create_connection(listens(relay)) as connection:  # a signature of another nonce
        said(connection)
        signature = victim.sign(challenged(bytes(NONCE), "register", b""))
        connection.sendall(written("register", key=victim.public, signature=signature, target=b""))
        assert said(connection).verb == "no"
    with pytest.raises(ConnectorError, match="not registered at this relay"):
        call(thief, listens(relay), victim.public, 20, straight)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0",
        b"\xff\xff" + bytes(100),
        b"\0\4" + os.urandom(4),
        written("dance"),
        written("register", key=b"short", signature=bytes(SIGNATURE), target=b""),
    ],
    ids=["http", "empty", "long", "noise", "verb", "key"],
)
def test_who_talks_nonsense_is_shown_out_and_others_are_served(relay: RelayServer, words: bytes) -> None:
    with socket.create_connection(listens(relay)) as connection:
        said(connection)
        connection.sendall(words)
        try:
            assert said(connection).verb == "no"
        except ConnectionError:
            pass
    here = identity("here")
    attendance = Attendance(here, listens(relay), here.known, lambda _: None, straight)
    assert until(lambda: attendance.here)
    attendance.close()


def test_only_those_who_are_allowed() -> None:
    from base64 import b64encode

    friend, stranger = identity("friend"), identity("stranger")
    with RelayServer(["--allow", b64encode(friend.public).decode()]) as relay:
        attendance = Attendance(friend, listens(relay), friend.known, lambda _: None, straight)
        assert until(lambda: attendance.here)
        attendance.close()
        with pytest.raises(ProxyfabError, match="does not serve your key"):
            call(stranger, listens(relay), friend.public, 20, straight)
