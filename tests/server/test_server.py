"""A node server's life: restarts, kills, stopped clients, repeated requests, limits, many waiters, its end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import AccessDenied, CapacityError, ConfigurationError, ConnectorError, KeyExists, ObjectLost
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.testing import Child, roles
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import at_once, run, until
from proxyfab.wire.messages import CHUNK

MB = 2**20
BOTH = pytest.mark.parametrize("way", ["?shared=1", "?shared=0"])


# -- restarts and kills ----------------------------------------------------------------------------------------------


@BOTH
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


def test_a_waiter_is_told_that_its_server_ended():
    with NodeServer() as server, ZMQConnector.from_url(server.url) as one:
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


def test_a_server_that_is_killed_under_a_call():
    with NodeServer() as server, ZMQConnector.from_url(server.url) as one:
        key = one.reserve()
        with ZMQConnector.from_url(server.url) as ask:

            def kill() -> float:
                assert until(lambda: ask.status().gauges["waiting"] == 1)
                server.kill()
                return time.monotonic()

            waited, killed = at_once([lambda: (_error(lambda: one.wait(key, 60)), time.monotonic()), kill])
    error, ended = waited
    assert isinstance(error, ConnectorError)
    assert ended - killed < 8  # up to seven pauses between attempts


def test_a_server_that_is_stopped_is_noticed():
    with NodeServer() as server, ZMQConnector.from_url(server.url + "?timeout=60") as one:
        one.put(Frames([b"x"]))
        server.pause()
        started = time.monotonic()
        error = _error(lambda: one.get(Key("k")))
        server.resume()
        assert isinstance(error, ConnectorError)
        assert time.monotonic() - started < 12
        assert one.get(Key("k")) is None


def test_a_deadline_is_kept():
    with NodeServer() as server, ZMQConnector.from_url(server.url + "?timeout=0.5") as one:
        one.put(Frames([b"x"]))
        server.pause()
        started = time.monotonic()
        assert isinstance(_error(lambda: one.get(Key("k"))), ConnectorError)
        assert time.monotonic() - started < 2
        server.resume()


def _error(call):
    try:
        return call()
    except Exception as error:
        return error


# -- peers that stop -------------------------------------------------------------------------------------------------


def test_a_stopped_reader_costs_a_window_and_ends_its_lease(node_server, raw):
    with ZMQConnector.from_url(node_server.url + "?shared=0") as one:
        key = one.put(signed(100 * MB))
        before = node_server.memory()
        with Child(roles.follow, one) as child:
            assert child.ask("exists", key) is True
            child.send(("get", key))
            os.kill(child.pid, signal.SIGSTOP)
            assert is_whole(one.get(key))
            assert node_server.memory() < before + 40 * MB
            peers = len(one.status().peers)
            assert until(lambda: len(one.status().peers) < peers, 15)
            os.kill(child.pid, signal.SIGCONT)


@BOTH
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


# -- requests --------------------------------------------------------------------------------------------------------


def test_a_repeated_request_has_one_effect(node_server, raw):
    one, two = raw(), raw()
    put = ("put", {"ns": "n", "ids": ["twice"], "sizes": [1]}, b"x")
    assert one.ask(*put, request=b"1" * 16).fields == {"exists": []}
    assert two.ask(*put, request=b"1" * 16).fields == {"exists": []}, "the same answer, not KeyExists"
    assert two.ask(*put, request=b"2" * 16).fields["exists"][0][0] == 0
    evict = ("evict", {"ns": "n", "ids": ["twice"]})
    assert one.ask(*evict, request=b"3" * 16).fields == {"found": [True]}
    assert two.ask(*evict, request=b"3" * 16).fields == {"found": [True]}
    assert two.ask(*evict, request=b"4" * 16).fields == {"found": [False]}


def test_an_upload_that_is_begun_anew_takes_the_first_ones_place(node_server, raw):
    one, two = raw(), raw()
    fields = {"ns": "n", "id": "again", "size": 3 * CHUNK}
    assert one.ask("upload", fields, request=b"5" * 16).verb == "go"
    one.say("data", {"o": 0}, b"1" * CHUNK, request=b"5" * 16)
    assert two.ask("upload", fields, request=b"5" * 16).verb == "go"
    for number in range(3):
        two.say("data", {"o": number * CHUNK}, b"2" * CHUNK, request=b"5" * 16)
    assert two.hear().verb == "ok"
    with ZMQConnector.from_url(node_server.url + "?ns=n") as reader:
        assert reader.get(Key("again")) == Frames([b"2" * 3 * CHUNK])
        assert reader.evict(Key("again"))
    assert one.ask("upload", fields, request=b"5" * 16).verb == "ok", "it was done, and the answer is known"


def test_uploads_wait_for_room(raw):
    with NodeServer(["--uploads", "8MiB"]) as server:
        one, two = raw(server), raw(server)
        fields = {"ns": "n", "size": 6 * MB}
        assert one.ask("upload", {**fields, "id": "a"}, request=b"a" * 16).verb == "go"
        two.say("upload", {**fields, "id": "b"}, request=b"b" * 16)
        assert two.ask("exists", {"ns": "n", "ids": ["b"]}, request=b"c" * 16).request == b"c" * 16
        one.say("cancel", {}, request=b"a" * 16)
        assert two.hear().verb == "go"
        with ZMQConnector.from_url(server.url + "?shared=0") as large:
            two.say("cancel", {}, request=b"b" * 16)
            assert is_whole(large.get(large.put(signed(20 * MB)))), "what is larger goes alone"


def test_a_grant_that_is_not_used_is_taken_back(node_server, raw):
    one = raw()
    place = one.ask("grant", {"ns": "n", "id": "k", "size": MB}, request=b"g" * 16).text("place")
    with ZMQConnector.from_url(node_server.url) as two:
        space = two.servers.own().known().space
        two.servers.own().place(space).put(signed(MB), key=Key(place, space))
        one.socket.close(0)
        assert until(lambda: two.servers.own().place(space).get(Key(place, space)) is None)
        assert two.get(Key("k")) is None


def test_who_says_less_than_he_wrote_is_refused(node_server, raw):
    one = raw()
    place = one.ask("grant", {"ns": "n", "id": "k", "size": MB}, request=b"h" * 16).text("place")
    with ZMQConnector.from_url(node_server.url) as two:
        space = two.servers.own().known().space
        two.servers.own().place(space).put(signed(2 * MB), key=Key(place, space))
        assert one.ask("commit", {"grant": b"h" * 16}, request=b"i" * 16).text("kind") == "IntegrityError"
        assert two.servers.own().place(space).get(Key(place, space)) is None


def test_many_waiters_are_told_at_once(node_server):
    with ZMQConnector.from_url(node_server.url) as one:
        key = one.reserve()

        def put() -> float:
            assert until(lambda: one.status().gauges["waiting"] == 20)
            one.put(Frames([b"x"]), key=key)
            return time.monotonic()

        def wait() -> float:
            assert one.wait(key, 30)
            return time.monotonic()

        put_at, *woken = at_once([put, *[wait] * 20])
        assert max(woken) - put_at < 2


# -- other processes, other servers ----------------------------------------------------------------------------------


def test_any_connector_resolves_any_key(node_server):
    with NodeServer() as other, ZMQConnector.from_url(other.url) as there, Store(node_server.url) as here:
        keys = [there.put(signed(nbytes)) for nbytes in (100, 3 * MB)]
        mine = here.put(b"mine" * 1000)
        with ZMQConnector.from_url(node_server.url) as one:
            assert [is_whole(frames) for frames in one.get_many(keys)] == [True, True]
            assert one.get_many([keys[0], mine, keys[1]])[1] is not None
            assert run(roles.read, one, keys)[0] == there.get(keys[0]).tobytes()
            assert one.evict_many(keys) == [True, True]
        other.kill()
        with ZMQConnector.from_url(node_server.url) as one, pytest.raises(ConnectorError, match="no server listens"):
            one.get(keys[0])


def test_a_proxy_of_a_stored_object_is_small(node_server):
    import pickle

    with Store(node_server.url, inline_below=0) as store:
        assert len(pickle.dumps(store.proxy(b"x" * 10_000))) < 320


# -- limits ----------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_what_does_not_fit_is_on_the_disk(tmp_path):
    arguments = ["--memory", "20MiB", "--spill", str(tmp_path / "spill"), "--quota", "60MiB"]
    with NodeServer(arguments) as server, ZMQConnector.from_url(server.url) as one:
        keys = [one.put(signed(8 * MB, seed)) for seed in range(6)]
        status = one.status()
        assert status.gauges["storage_fast_bytes"] <= 20 * MB
        assert (status.objects, status.limit) == (6, 60 * MB)
        assert [one.get(key) == signed(8 * MB, seed) for seed, key in enumerate(keys)] == [True] * 6
        with pytest.raises(CapacityError):
            for seed in range(3):
                one.put(signed(8 * MB, seed))
        assert is_whole(one.get(keys[5]))
        assert one.evict_many(keys) == [True] * 6
        assert is_whole(one.get(one.put(signed(8 * MB))))


def test_one_process_of_others_objects(node_server):
    with ZMQConnector.from_url(node_server.url + "?ns=race") as one:
        results = at_once(
            [lambda seed=seed: _error(lambda: one.put(signed(3 * MB, seed), key=Key("k"))) for seed in range(6)]
        )
        assert sorted(type(result).__name__ for result in results) == ["Key", *["KeyExists"] * 5]
        assert is_whole(one.get(Key("k")))
        one.clear()


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


def test_an_address_that_is_taken_is_told(node_server):
    with pytest.raises(AssertionError, match="another server does"):
        NodeServer(bind=node_server.ready["endpoints"][0]).start()


# -- trust -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyring(tmp_path, monkeypatch) -> Keyring:
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    keyring = Keyring()
    keyring.make("curve", "server")
    keyring.make("curve", "client")
    return keyring


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://*:0"])
def test_beyond_loopback_only_with_a_key(bind):
    with pytest.raises(AssertionError, match="--key"):
        NodeServer(bind=bind).start()


def test_curve_lets_in_who_is_on_the_list(keyring):
    client, server_key = keyring.curve("client")[0], keyring.curve("server")[0].decode()
    with NodeServer(["--key", "server", "--advertise", "node7:5555"], bind="tcp://0.0.0.0:0") as server:
        port = server.ready["endpoints"][0].rpartition(":")[2]
        keyring.know(f"tcp://127.0.0.1:{port}", server_key)
        with ZMQConnector.from_url(f"zmq://127.0.0.1:{port}?timeout=5") as one:
            with pytest.raises(AccessDenied, match="does not let this client's key in"):
                one.get(Key("k"))
            keyring.allow("server", client, "me")
            assert one.get(Key("k")) is None, "the list is read anew"
            key = one.put(signed(3 * MB))
            assert key.where.endswith("/node7:5555")
            assert is_whole(one.get(key))
        with ZMQConnector.from_url(f"zmq://127.0.0.1:{port}?shared=0") as one:
            assert is_whole(one.get(one.put(signed(3 * MB))))
            keys = one.put_many([signed(100)] * 100)
            assert all(map(is_whole, one.get_many(keys)))


def test_the_wrong_key_and_no_key_are_told(keyring):
    keyring.allow("server", keyring.curve("client")[0], "me")
    other = keyring.make("curve", "other").public
    with NodeServer(["--key", "server"]) as server:
        with (
            ZMQConnector(server.url[6:], key=other, timeout=5) as one,
            pytest.raises(AccessDenied, match="another key"),
        ):
            one.get(Key("k"))
        with ZMQConnector(server.url[6:], timeout=5) as one, pytest.raises(AccessDenied, match="CURVE"):
            one.get(Key("k"))
        with ZMQConnector(server.url[6:], key=keyring.curve("server")[0].decode(), timeout=5) as one:
            assert one.get(Key("k")) is None
        with ZMQConnector.from_url(server.url + "?as=nobody", name=None) as one:
            keyring.know(server.url[6:], keyring.curve("server")[0])
            with pytest.raises(ConfigurationError, match="nobody"):
                one.get(Key("k"))


def test_a_server_without_curve_is_not_spoken_to_with_it(keyring, node_server):
    key = keyring.curve("server")[0].decode()
    with ZMQConnector(node_server.url[6:], key=key, timeout=5) as one, pytest.raises(AccessDenied):
        one.get(Key("k"))


def test_threads_put_and_get_on_the_wire(node_server):
    with ZMQConnector.from_url(node_server.url + "?shared=0") as one:
        stop = threading.Event()

        def work() -> int:
            count = 0
            while not stop.is_set() and count < 15:
                assert is_whole(one.get(one.put(signed(2 * MB + count))))
                count += 1
            return count

        assert at_once([work] * 4) == [15] * 4
        with pytest.raises(KeyExists):
            one.put(Frames([b"x"]), key=one.put(Frames([b"x"])))


# -- clients of other machines ---------------------------------------------------------------------------------------


def far_away(talk: Any, url: str) -> None:
    """A client whose process the server cannot look up."""
    from proxyfab.osio import owner

    owner._machine_id = "0badcafe"
    with ZMQConnector.from_url(url + "?shared=0") as one:
        talk.send(one.put(signed(3 * MB)))
        talk.recv()


@pytest.mark.parametrize("then", ["kill", "end"])
def test_what_a_client_of_another_machine_put_lives_and_ends_with_it(then):
    with NodeServer(["--orphans", "1"]) as server, ZMQConnector.from_url(server.url) as one:
        with Child(far_away, server.url) as child:
            key = child.receive()
            ends = time.monotonic() + 3
            assert until(lambda: time.monotonic() > ends or not one.exists(key))
            assert is_whole(one.get(key)), "it lives as long as its process does"
            if then == "kill":
                child.kill()
            else:
                child.send("end")
                child.result()
                assert not one.exists(key)
            assert until(lambda: not one.exists(key), 15)
        assert one.status().objects == 0


def test_what_is_mapped_is_not_verified_at_each_get_and_what_came_over_the_wire_is(node_server):
    with ZMQConnector.from_url(node_server.url) as one, ZMQConnector.from_url(one.spec + "&shared=0") as wire:
        key = one.put(signed(3 * MB))
        assert (one.get(key).mapped, wire.get(key).mapped) == (True, False)
        assert one.get(key) == wire.get(key)
