"""Requests of a node server: repeated, waiting for room, granted, told; and the limits of what it takes."""

from __future__ import annotations

import os
import time

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import CapacityError
from proxyfab.keys import Key
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import at_once, until
from proxyfab.wire.messages import CHUNK

MB = 2**20


# -- requests --------------------------------------------------------------------------------------------------------


def test_a_repeated_request_has_one_effect(node_server, raw):
    one, two = raw(), raw()
    first, second, third, fourth = (os.urandom(16) for _ in range(4))
    put = ("put", {"ns": "n", "ids": ["twice"], "sizes": [1]}, b"x")
    assert one.ask(*put, request=first).fields == {"exists": []}
    assert two.ask(*put, request=first).fields == {"exists": []}, "the same answer, not KeyExists"
    assert two.ask(*put, request=second).fields["exists"][0][0] == 0
    evict = ("evict", {"ns": "n", "ids": ["twice"]})
    assert one.ask(*evict, request=third).fields == {"found": [True]}
    assert two.ask(*evict, request=third).fields == {"found": [True]}
    assert two.ask(*evict, request=fourth).fields == {"found": [False]}


def test_an_upload_that_is_begun_anew_takes_the_first_ones_place(node_server, raw):
    one, two, mine = raw(), raw(), os.urandom(16)
    fields = {"ns": "n", "id": "again", "size": 3 * CHUNK}
    assert one.ask("upload", fields, request=mine).verb == "go"
    one.say("data", {"o": 0}, b"1" * CHUNK, request=mine)
    assert two.ask("upload", fields, request=mine).verb == "go"
    for number in range(3):
        two.say("data", {"o": number * CHUNK}, b"2" * CHUNK, request=mine)
    assert two.hear().verb == "ok"
    with ZMQConnector.from_url(node_server.url + "?ns=n") as reader:
        assert reader.get(Key("again")) == Frames([b"2" * 3 * CHUNK])
        assert reader.evict(Key("again"))
    assert one.ask("upload", fields, request=mine).verb == "ok", "it was done, and the answer is known"


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
        one.close()
        assert until(lambda: two.servers.own().place(space).get(Key(place, space)) is None)
        assert two.get(Key("k")) is None


def test_a_grant_is_committed_over_another_connection_when_the_first_one_broke(node_server, raw):
    """Else it was put again, and found there what the first connection brought later: its own, as KeyExists."""
    one, two, token = raw(), raw(), os.urandom(16)
    place = one.ask("grant", {"ns": "n", "id": "moved", "size": MB}, request=token).text("place")
    commit = ("commit", {"grant": token})
    with ZMQConnector.from_url(node_server.url + "?ns=n") as reader:
        space = reader.servers.own().known().space
        reader.servers.own().place(space).put(signed(MB), key=Key(place, space))
        assert two.ask(*commit, request=token[::-1]).verb == "ok"
        assert one.ask(*commit, request=token[::-1]).verb == "ok", "the same, which comes late"
        assert is_whole(reader.get(Key("moved")))
        assert reader.evict(Key("moved"))


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


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_server_that_has_a_disk_and_no_quota_is_not_full_when_its_memory_is(tmp_path):
    with NodeServer(["--memory", "4MiB", "--spill", str(tmp_path)]) as server, ZMQConnector.from_url(server.url) as one:
        for seed in range(3):
            one.put(signed(3 * MB, seed))
        assert one.status().limit is None
        (memory,) = [found for found in one.diagnose() if found.check == "memory"]
        assert memory.state == "ok"
        assert "4 MiB stay in memory" in memory.detail


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


def _error(call):
    try:
        return call()
    except Exception as error:
        return error
