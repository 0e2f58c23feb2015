"""`proxyfab doctor --peer`: each way to another site, and what is wrong on it. And the ways themselves: proxies."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxyfab.cli.main import main
from proxyfab.keyring import Keyring
from proxyfab.link.attending import Attendance
from proxyfab.link.dialling import proxy_for, straight, through, usual
from proxyfab.link.doors import Hello, welcome
from proxyfab.link.identity import Identity
from proxyfab.link.listening import Greeter, Listener
from proxyfab.testing.gateways import RelayServer
from proxyfab.testing.processes import until

pytest.importorskip("cryptography")


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Public keys of two sites, both of which lie in this process's keyring."""
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    return {name: Keyring().make("sign", name).public for name in ("aps", "alcf")}


@pytest.fixture
def alcf(keys: dict[str, str]) -> Greeter:
    """Site alcf, which lets aps in."""
    identity = Identity("alcf", bytes(Keyring().signing("alcf")), {"aps": Keyring().verifying("aps")})

    def take(connection: Any, hello: Hello) -> None:
        with connection:
            assert hello.probe
            welcome(connection, fresh=False, timeout=10)

    greeter = Greeter(identity, take)
    greeter.identity = identity  # type: ignore[attr-defined]  # for tests
    return greeter


def doctor(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit status, and by its check each finding's state and detail."""
    result = CliRunner().invoke(main, ["doctor", "--json", "--site", "aps", *arguments])
    assert result.exit_code in (0, 1), result.output
    rows = json.loads(result.stdout)
    return result.exit_code, {row["check"]: (row["state"], row["detail"]) for row in rows}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return int(gone.getsockname()[1])


def test_the_direct_way(alcf: Greeter, keys: dict[str, str]) -> None:
    listener = Listener(alcf, ("127.0.0.1", 0))
    try:
        port = listener.address[1]
        status, found = doctor("--peer", f"alcf=127.0.0.1:{port}#{keys['alcf']}")
        assert status == 0
        assert found["direct: port"][0] == "ok"
        assert found["direct: key"][0] == "ok"
        assert found["way"] == ("ok", "links to site alcf go directly")
        status, found = doctor("--peer", f"alcf=127.0.0.1:{port}#{keys['aps']}")  # not its key
        assert status == 1
        assert found["direct: key"][0] == "fail"
        assert "has another key than the one that is pinned to it" in found["direct: key"][1]
        assert found["way"][0] == "fail"
    finally:
        listener.close()


def test_the_relay_where_the_direct_way_is_closed(alcf: Greeter, keys: dict[str, str]) -> None:
    with RelayServer() as relay:
        where = str(relay.ready["listen"])
        host, port = where.rsplit(":", 1)
        peer = f"alcf=127.0.0.1:{closed_port()}#{keys['alcf']}"
        status, found = doctor("--peer", peer, "--relay", where)
        assert status == 1
        assert "refuses connections" in found["direct: port"][1]
        assert "not registered at this relay" in found["relay: key"][1]
        identity: Identity = alcf.identity  # type: ignore[attr-defined]  # see the fixture
        attendance = Attendance(identity, (host, int(port)), identity.known, alcf.greet, straight)
        try:
            assert until(lambda: attendance.here)
            status, found = doctor("--peer", peer, "--relay", where)
            assert status == 0
            assert found["direct: port"][0] == "warn"  # it is told, and not needed
            assert found["relay: key"][0] == "ok"
            assert found["way"] == ("ok", "links to site alcf go through the relay")
        finally:
            attendance.close()


def test_no_way_is_known(keys: dict[str, str]) -> None:
    status, found = doctor("--peer", f"alcf=#{keys['alcf']}")
    assert status == 0
    assert "that site has to dial this one" in found["way"][1]
    result = CliRunner().invoke(main, ["doctor", "--peer", "alcf=#x"])
    assert result.exit_code == 2
    assert "--site" in result.output


class Proxy:
    """An HTTP proxy that answers CONNECT."""

    def __init__(self, answer: Callable[[list[str]], bytes] = lambda _: b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n") -> None:
        self.heads: list[list[str]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://ada:pass%20word@{}:{}".format(*self.listener.getsockname())
        self._answer = answer
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1)
            self.heads.append(head.decode().split("\r\n"))
            connection.sendall(self._answer(self.heads[-1]))
            host, _, port = self.heads[-1][0].split()[1].rpartition(":")
            if int(port):
                with socket.create_connection((host, int(port))) as other:
                    connection.sendall(other.recv(100))

    def close(self) -> None:
        self._thread.join(10)
        self.listener.close()


def test_through_a_proxy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        host, port = target.getsockname()
        proxy = Proxy()
        with through(proxy.url, host, port, 10) as connection:
            other, _ = target.accept()
            with other:
                other.sendall(b"first bytes")
            assert connection.recv(100) == b"first bytes"
        proxy.close()
    assert proxy.heads[0][0] == f"CONNECT {host}:{port} HTTP/1.1"
    assert "Proxy-Authorization: Basic YWRhOnBhc3Mgd29yZA==" in proxy.heads[0]


def test_a_proxy_that_refuses_says_so() -> None:
    proxy = Proxy(lambda _: b"HTTP/1.1 403 Forbidden by policy\r\n\r\n")
    with pytest.raises(
        ConnectionError, match=r"answers CONNECT 10\.0\.0\.1:0 with 'HTTP/1\.1 403 Forbidden by policy'"
    ):
        through(proxy.url, "10.0.0.1", 0, 10)
    proxy.close()


@pytest.mark.parametrize(
    ("host", "environment", "proxy"),
    [
        ("alcf.gov", {}, ""),
        ("alcf.gov", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("alcf.gov", {"https_proxy": "http://p:1"}, "http://p:1"),
        ("alcf.gov", {"https_proxy": "http://p:1", "no_proxy": "aps.gov,.gov"}, ""),
        ("alcf.gov", {"https_proxy": "http://p:1", "NO_PROXY": "alcf.gov"}, ""),
        ("notalcf.gov", {"https_proxy": "http://p:1", "NO_PROXY": "alcf.gov"}, "http://p:1"),
        ("alcf.gov", {"https_proxy": "http://p:1", "NO_PROXY": "*"}, ""),
        ("127.0.0.1", {"https_proxy": "http://p:1"}, ""),
    ],
)
def test_which_proxy(host: str, environment: dict[str, str], proxy: str) -> None:
    assert proxy_for(host, environment) == proxy


def test_the_environments_proxy_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
    dial = partial(usual, "site.example", 443, 5)
    with pytest.raises(ConnectionRefusedError):
        dial()
