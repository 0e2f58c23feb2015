"""What zmq:// says of real node servers that are well, gone, stopped, and of what is no node server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from proxyfab.abc import Finding, SupportsDiagnosis, SupportsStatus
from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.opening import open_connector
from proxyfab.testing.nodes import NodeServer


@pytest.fixture(scope="module")
def server() -> Iterator[NodeServer]:
    with NodeServer() as server:
        yield server


def diagnosed(url: str) -> dict[str, Finding]:
    with open_connector(url) as connector:
        assert isinstance(connector, SupportsDiagnosis)
        return {finding.check: finding for finding in connector.diagnose()}


def last(url: str) -> Finding:
    return list(diagnosed(url).values())[-1]


def test_all_is_well(server):
    found = diagnosed(server.url)

    assert {finding.state for finding in found.values()} == {"ok"}
    assert list(found) == ["name", "port", "key", "version", "clock", "path", "memory"]
    assert "shared memory" in found["path"].detail
    assert "over the network" in diagnosed(f"{server.url}?shared=0")["path"].detail


def test_nobody_listens_and_nobody_knows_the_name():
    with NodeServer() as server:
        url = server.url
    assert last(url).check == "port"
    assert last("zmq://no-such-host.invalid:5555").check == "name"
    assert last("zmq:///no/such/socket").check == "socket"


def test_a_server_that_is_stopped_is_told_in_time():
    with NodeServer() as server:
        server.pause()
        started = time.monotonic()
        found = last(f"{server.url}?timeout=1")
        server.resume()
        assert found.state == "fail"
        assert time.monotonic() - started < 15
        assert last(server.url).state == "ok"


def test_what_is_no_node_server():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = listening.accept()
                    with one:
                        one.recv(100)
                        one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            found = last(f"zmq://127.0.0.1:{listening.getsockname()[1]}?timeout=3")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert (found.check, found.state) == ("server", "fail")
    assert "no node server" in found.detail


def test_status_tells_objects_counters_and_peers(server):
    with open_connector(f"{server.url}?ns=kept") as connector:
        assert isinstance(connector, SupportsStatus)
        before = connector.status()
        key = connector.put(Frames([bytes(10_000)]))
        connector.get(key)
        after = connector.status()
        connector.evict(key)
    assert after.objects == before.objects + 1
    assert after.nbytes - before.nbytes >= 10_000
    assert after.peers
    assert "local" in [peer["address"] for peer in after.peers], "it speaks through a Unix socket"
    with open_connector(f"{server.url}?ns=kept&side=0") as connector:
        assert isinstance(connector, SupportsStatus)
        assert any(str(peer["address"]).startswith("127.0.0.1:") for peer in connector.status().peers)
    assert after.counters["put"] > before.counters.get("put", 0)


def test_a_key_that_is_missing_wrong_or_not_let_in_and_how_to_mend_it(tmp_path, monkeypatch):
    theirs, ours = Keyring(tmp_path / "server"), Keyring(tmp_path / "client")
    theirs.make("curve", "site")
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "client"))
    with NodeServer(["--key", "site"], environment={"PROXYFAB_KEYS": str(tmp_path / "server")}) as server:
        address = server.url.removeprefix("zmq://").partition("?")[0]
        without = last(f"zmq://{address}")
        with open_connector(f"zmq://{address}") as client, pytest.raises(ProxyfabError, match="key|CURVE"):
            client.exists(Key("k"))
        ours.know(address, theirs.curve("site")[0])
        no_key = last(f"zmq://{address}")
        ours.make("curve", "client")
        stranger = last(f"zmq://{address}")
        theirs.allow("site", ours.curve("client")[0])
        welcome = diagnosed(f"zmq://{address}")
        ours.know(address, ours.curve("client")[0])
        impostor = last(f"zmq://{address}")

    assert [found.check for found in (without, no_key, stranger, impostor)] == ["key"] * 4
    assert {found.state for found in (without, no_key, stranger, impostor)} == {"fail"}
    assert f"proxyfab keys trust {address}" in without.detail
    assert "proxyfab keys make curve client" in no_key.detail
    assert "proxyfab keys allow" in stranger.detail
    assert "another key" in impostor.detail
    assert {found.state for found in welcome.values()} == {"ok"}
    with NodeServer(bind=f"tcp://{address}") as server:
        found = last(server.url)
    assert found.check == "key"
    assert "the server has none" in found.detail


def test_a_server_of_another_version():
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def serve() -> None:
        while True:
            peer, header = router.recv_multipart()
            if header == b"end":
                return
            _, _, request, *_ = msgpack.unpackb(header)
            router.send_multipart([peer, msgpack.packb([99, "ok", request, {}])])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        found = last(f"zmq://127.0.0.1:{port}?timeout=5")
    finally:
        with context.socket(zmq.DEALER) as last_word:
            last_word.connect(f"tcp://127.0.0.1:{port}")
            last_word.send(b"end")
            thread.join()
        router.close(0)
        context.term()
    assert (found.check, found.state) == ("version", "fail")
    assert "99" in found.detail
    assert "upgrade" in found.detail
