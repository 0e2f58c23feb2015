"""redis:// and what changes meanwhile: waiting, replacing, forks, connectors that are dropped."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from functools import partial
from multiprocessing.connection import Connection

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector, waiting
from proxyfab.connectors.redis.keeper import keeper
from proxyfab.errors import KeyNotFound, ObjectLost
from proxyfab.keys import Key
from proxyfab.testing import Child, in_fork, until
from proxyfab.testing.content import content, is_whole, signed
from proxyfab.testing.processes import DEADLINE, at_once
from proxyfab.testing.servers import RedisServer

BIG = 3_000_000


# -- waiting ------------------------------------------------------------------------------------------------------


def test_many_wait_for_one(one: RedisConnector) -> None:
    key = one.reserve()
    results = at_once([*[partial(one.wait, key, DEADLINE)] * 20, partial(one.put, signed(10), key=key)])

    assert results[:20] == [True] * 20


def test_a_waiter_outlives_a_restart(server: RedisServer) -> None:
    with RedisConnector.from_url(f"{server.url}/0?timeout=10", name="one") as one:
        key = Key("k")

        def restart_and_put() -> None:
            server.kill()
            server.start()
            with RedisConnector.from_url(f"{server.url}/0", name="one") as other:
                other.put(signed(10), key=key)

        waited, _ = at_once([partial(one.wait, key, DEADLINE), restart_and_put])

    assert waited is True


def test_a_waiter_outlives_restarts_that_are_farther_apart_than_a_call_may_last(server: RedisServer) -> None:
    with RedisConnector.from_url(f"{server.url}/0?timeout=3", name="one") as one:
        key = Key("k")

        def restart_and_put() -> None:
            for _ in range(2):
                server.kill()
                server.start()
                with contextlib.closing(server.client()) as client:
                    assert until(lambda: any(each["resp"] == "3" for each in client.client_list()))
                threading.Event().wait(3.1)
            with RedisConnector.from_url(f"{server.url}/0", name="one") as other:
                other.put(signed(10), key=key)

        waited, _ = at_once([partial(one.wait, key, DEADLINE), restart_and_put])

    assert waited is True


def test_thousands_are_waited_for_on_one_connection(
    redis_server: RedisServer, one: RedisConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is told of one asks for that one only."""
    monkeypatch.setattr(waiting, "HEARTBEAT", 600.0)  # at which a thousand are asked for again
    keys = [one.reserve() for _ in range(3000)]
    with contextlib.closing(redis_server.client()) as client:

        def asked() -> int:
            return client.info("commandstats").get("cmdstat_exists", {}).get("calls", 0)

        begun = asked()

        def put() -> int:
            assert until(lambda: [each["resp"] for each in client.client_list()].count("3") == 1)
            assert until(lambda: asked() >= begun + len(keys))
            before = asked()
            for number in range(50):
                one.put(signed(10), key=Key(f"other-{number}"))
            one.put(signed(10), key=keys[1234])
            return before

        waited, before = at_once([partial(one.wait_any, keys, DEADLINE), put])
        assert waited == [keys[1234]]
        assert asked() - before < 500
        one.evict(keys[1234])
        before = asked()
        for key in keys[:20]:
            one.put(signed(10), key=key)
            assert one.wait_any(keys, 0) == [key], "who waits again does not ask for all again"
            one.evict(key)
            assert one.wait_any(keys, 0) == []
        assert asked() - before < 3000


def wake(talk: Connection, connector: RedisConnector, keys: list[Key]) -> list[float]:
    """When each key was there, by the clock that all processes of a machine share."""
    woken = []
    for key in keys:
        talk.send("ready")
        assert connector.wait(key, DEADLINE)
        woken.append(time.monotonic())
    return woken


def test_nobody_looks_again_and_again(redis_server: RedisServer, one: RedisConnector) -> None:
    with contextlib.closing(redis_server.client()) as client:
        before = client.info("commandstats").get("cmdstat_exists", {}).get("calls", 0)
        assert one.wait(Key("never"), 1.5) is False
        after = client.info("commandstats")["cmdstat_exists"]["calls"]

    assert after - before <= 3


@pytest.mark.timing
def test_another_process_wakes_within_milliseconds(one: RedisConnector) -> None:
    keys = [one.reserve() for _ in range(50)]
    put = []
    with Child(wake, one, keys) as child:
        for key in keys:
            child.receive()
            time.sleep(0.01)
            put.append(time.monotonic())
            one.put(signed(10), key=key)
        woken = child.result()
    late = sorted(end - start for start, end in zip(put, woken, strict=True))

    assert late[len(late) // 2] < 0.005


# -- changes in the middle ----------------------------------------------------------------------------------------


def test_a_get_goes_on_as_long_as_others_replace_the_object(redis_server: RedisServer) -> None:
    with RedisConnector.from_url(f"{redis_server.database()}?chunk=1024", name="one") as one:
        key, frames = one.put(signed(100_000), key=Key("k")), signed(100_000)
        over = threading.Event()

        def replace() -> None:
            while not over.is_set():
                one.put(frames, key=key, replace=True)

        def read() -> list[bool]:
            try:
                return [is_whole(one.get(key) or Frames()) for _ in range(30)]
            finally:
                over.set()

        whole = at_once([read, *[replace] * 4])[0]

    assert whole == [True] * 30


def test_an_object_that_is_replaced_while_it_is_read_is_one_or_the_other(one: RedisConnector) -> None:
    one.put(signed(BIG), key=Key("k"))
    stop: list[bool] = []

    def replace() -> None:
        seed = 0
        while not stop:
            seed += 1
            one.put(signed(BIG + 1000 * (seed % 3), seed), key=Key("k"), replace=True)

    def read() -> bool:
        try:
            return all(is_whole(one.get(Key("k")) or Frames()) for _ in range(30))
        finally:
            stop.append(True)

    assert at_once([replace, read], 60)[1] is True


def test_a_comparison_is_not_lost_to_who_moves_the_expiry(one: RedisConnector) -> None:
    key = one.put(Frames([b"0"]), key=Key("k"))
    stop: list[bool] = []

    def touch() -> None:
        with RedisConnector.from_url(one.spec) as other:
            while not stop:
                other.renew(key, 100.0)

    def count() -> int:
        try:
            steps = [(Frames([b"%d" % number]), Frames([b"%d" % (number + 1)])) for number in range(50)]
            return sum(one.compare_and_set(key, old, new) for old, new in steps)
        finally:
            stop.append(True)

    assert at_once([touch, count], 60)[1] == 50


def test_an_object_in_chunks_and_its_chunks_get_their_expiry_at_once(
    one: RedisConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who dies in the middle leaves none of it to go without the others."""
    one._place = one._place._replace(chunk=1000)
    key = one.put(signed(5000), ttl=1000.0)

    def die(*_: object) -> list[bytes]:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr("proxyfab.connectors.redis.changes.chunks_of", die)
        with pytest.raises(RuntimeError):
            one.renew(key, None)
    stat = one.stat(key)
    assert stat is not None
    assert stat.expires is not None
    assert one.renew(key, None) is True
    assert one.reap() == []
    assert is_whole(one.get(key))


def test_after_a_fork_heartbeats_are_the_parents(one: RedisConnector, redis_server: RedisServer) -> None:
    with RedisConnector.from_url(redis_server.database()) as mine:
        key = mine.put(signed(100))
        assert keeper.keeps(mine._place, mine._namespace)

        assert in_fork(lambda: keeper.kept == {} and content(mine.get(key)) is not None) is True
        assert is_whole(mine.get(key))


def test_a_connector_that_is_dropped_leaves_no_connection(redis_server: RedisServer) -> None:
    """Nor a warning, nor work for the garbage collector."""
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        RedisConnector.from_url(redis_server.database(), name="one").put(signed(10))
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_a_missing_reference_is_not_lost(redis_server: RedisServer) -> None:
    with Store(redis_server.database()) as store:
        reference = store.ref(list(range(5000)))
        reference.evict()
        with pytest.raises(KeyNotFound) as caught:
            reference.resolve()
        assert not isinstance(caught.value, ObjectLost)
