"""A node server's life, and what clients see of it: restarts, kills, stops on either side, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import ConnectorError, ObjectLost
from proxyfab.keys import Key
from proxyfab.testing import Child, roles
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.nodes import WAYS, NodeServer
from proxyfab.testing.processes import at_once, until
from proxyfab.wire.flow import WINDOW

MB = 2**20
TCP = pytest.mark.slow
"""Its bytes go as a Unix socket's do."""
EACH = pytest.mark.parametrize("way", [pytest.param(way, marks=TCP) if "tcp" in way else way for way in WAYS])


# -- restarts and kills ----------------------------------------------------------------------------------------------


@EACH
def test_a_restart_loses_objects_and_says_so_at_once(way):
    with NodeServer() as server, ZMQConnector.from_url(server.url + way) as one:
        keys = [one.put(signed(nbytes)) for nbytes in (100, 3 * MB)]
        reserved = one.reserve()
        server.restart()
        for key in (*keys, reserved):
            started = time.monotonic()
            for ask in (one.get, one.exists, one.stat, one.evict, lambda key: one.wait(key, 20)):
                with pytest.raises(ObjectLost, match="started anew"):
                    ask(key)
            with pytest.raises(ObjectLost):
                one.put(Frames([b"x"]), key=key)
            assert time.monotonic() - started < 5
        assert one.get(Key("never")) is None
        assert is_whole(one.get(one.put(signed(3 * MB))))


@EACH
def test_a_waiter_is_told_that_its_server_ended(way):
    with NodeServer() as server, ZMQConnector.from_url(server.url + way) as one:
        key = one.reserve()

        def stop() -> None:
            assert until(lambda: ask.status().gauges["waiting"] == 1)
            server.end()

        with ZMQConnector.from_url(server.url) as ask:
            waited, _ = at_once([lambda: one.wait(key, 20), stop])
    assert isinstance(waited, ObjectLost)


def test_no_server_is_an_error_in_time():
    with NodeServer() as server:
        url = server.url
    with ZMQConnector.from_url(url) as one:
        started = time.monotonic()
        with pytest.raises(ConnectorError, match=r"at tcp://127.0.0.1:\d+ failed after .* no server listens there"):
            one.get(Key("k"))
        assert time.monotonic() - started < 10


def test_a_name_that_nobody_knows_is_told_apart_from_a_server_that_is_silent():
    silent = socket.create_server(("127.0.0.1", 0))
    for host, says in (("no-such-host.invalid:5", "no such name"), (f"127.0.0.1:{silent.getsockname()[1]}", "answer")):
        with ZMQConnector.from_url(f"zmq://{host}?timeout=0.5") as one, pytest.raises(ConnectorError, match=says):
            one.exists(Key("k"))
    silent.close()


@EACH
def test_a_server_that_is_killed_under_a_call(way):
    with NodeServer() as server, ZMQConnector.from_url(server.url + way + "&timeout=2") as one:
        key = one.reserve()
        with ZMQConnector.from_url(server.url) as ask:

            def kill() -> float:
                assert until(lambda: ask.status().gauges["waiting"] == 1)
                server.kill()
                return time.monotonic()

            waited, killed = at_once([lambda: (_error(lambda: one.wait(key, 60)), time.monotonic()), kill])
    error, ended = waited
    assert isinstance(error, ConnectorError)
    assert ended - killed < 8  # the server was looked for as long as a call may last


@EACH
def test_a_server_that_is_stopped_is_noticed(way):
    with NodeServer() as server, ZMQConnector.from_url(server.url + way + "&timeout=60") as one:
        one.put(Frames([b"x"]))
        server.pause()
        started = time.monotonic()
        error = _error(lambda: one.get(Key("k")))
        server.resume()
        assert isinstance(error, ConnectorError)
        assert time.monotonic() - started < 12
        assert one.get(Key("k")) is None


@EACH
def test_a_deadline_is_kept(way):
    with NodeServer() as server, ZMQConnector.from_url(server.url + way + "&timeout=0.5") as one:
        one.put(Frames([b"x"]))
        server.pause()
        started = time.monotonic()
        assert isinstance(_error(lambda: one.get(Key("k"))), ConnectorError)
        assert time.monotonic() - started < 5
        server.resume()


# -- peers that stop -------------------------------------------------------------------------------------------------


def half_read(talk: Any, one: ZMQConnector, key: Key) -> None:
    """A reader that stops itself in the middle."""
    begun = False

    def once(channel: Channel, request: bytes) -> int:
        nonlocal begun
        channel.send("get", request, {"ns": key.where.partition("/")[0], "ids": [key.id], "window": WINDOW})
        message = channel.answer(request, time.monotonic() + 20)
        if not begun:
            begun = True
            os.kill(os.getpid(), signal.SIGSTOP)
        return channel.receive(message, [message.count("size")], 20)[0].nbytes

    talk.send(one.servers.own().call("get", once))


@pytest.mark.parametrize("way", ["?shared=0", pytest.param("?shared=0&side=tcp", marks=TCP), "?shared=0&side=0"])
def test_a_stopped_reader_costs_a_window_and_ends_its_lease(node_server, way):
    with ZMQConnector.from_url(node_server.url + way) as one:
        key = one.put(signed(100 * MB))
        before, peers = node_server.memory(), len(one.status().peers)
        with Child(half_read, one, key) as child:
            assert until(lambda: _is_stopped(child.pid))
            assert is_whole(one.get(key))
            assert node_server.memory() < before + 40 * MB
            assert until(lambda: len(one.status().peers) == peers, 15)
            os.kill(child.pid, signal.SIGCONT)
            assert child.receive() == one.get(key).nbytes, "it notices, and asks anew"
        assert one.evict(key)


def _is_stopped(pid: int) -> bool:
    return "State:\tT" in Path(f"/proc/{pid}/status").read_text()


@EACH
def test_a_writer_that_is_killed_leaves_nothing(way):
    with NodeServer() as server, ZMQConnector.from_url(server.url + way + "&ns=n") as one:
        for _ in range(3):
            with Child(roles.put_until_killed, one, 40 * MB, []) as child:
                child.receive()
                child.kill()
        assert all(is_whole(one.get(stat.key)) for stat in one.scan())
        one.clear()
        assert until(lambda: one.status().gauges["uploading_bytes"] == 0)
        assert (one.status().objects, one.status().nbytes) == (0, 0)
        assert until(lambda: one.status().gauges.get("storage_fast_bytes") == 0)


# -- its end ---------------------------------------------------------------------------------------------------------


def test_sigterm_ends_it_and_leaves_nothing(tmp_path):
    ready, root = tmp_path / "ready.json", Path(os.environ["PROXYFAB_SHM_DIR"])
    spill = tmp_path / "spill"
    with NodeServer(["--ready-file", str(ready), "--spill", str(spill)]) as server:
        assert json.loads(ready.read_text())["pid"] == server.pid
        with ZMQConnector.from_url(server.url) as one:
            one.put(signed(3 * MB))
            space = one.servers.own().known().space
            assert (root / space).exists()
        status, said = server.end()
    assert (status, "Traceback" in said) == (0, False), said
    assert not ready.exists()
    assert not (root / space).exists()
    assert [path for path in spill.rglob("*") if path.is_file() and not path.name.startswith(".")] == []


def test_what_is_under_way_arrives_though_its_server_is_told_to_end(raw):
    """Also what the server has nothing more to do for than to wait until it is read."""
    with NodeServer() as server:
        with ZMQConnector.from_url(server.url + "?ns=n") as one:
            one.put(signed(14 * MB), key=Key("k"))
        client = raw(server)
        answer = client.ask("get", {"ns": "n", "ids": ["k"], "window": WINDOW})
        server.process.terminate()
        with ZMQConnector.from_url(server.url + "?side=0") as one:
            assert until(lambda: _is_ending(one))
        received = bytearray()
        while len(received) < answer.count("size"):
            for view in client.hear().body:
                received += view
        assert is_whole(Frames([received]))
        client.close()


def _is_ending(one: ZMQConnector) -> bool:
    try:
        return one.exists(Key("k")) and False
    except ConnectorError:
        return True


def test_an_address_that_is_taken_is_told(node_server):
    with pytest.raises(AssertionError, match="another server does"):
        NodeServer(bind=node_server.ready["endpoints"][0]).start()


def _error(call):
    try:
        return call()
    except Exception as error:
        return error
