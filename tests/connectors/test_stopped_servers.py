"""A wait's deadline, at a server that is stopped (SIGSTOP): it holds, whatever the wait does when the server stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from proxyfab import Key, Store, coroutines
from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.connectors.redis.connector import RedisConnector
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import ConnectorError
from proxyfab.testing.nodes import WAYS, NodeServer
from proxyfab.testing.processes import at_once, until
from proxyfab.testing.servers import RedisServer
from tests.stopping import DEADLINE, LATE, in_time, stopped

KEY = Key("not-there")


class Place(NamedTuple):
    server: Any
    stop: Callable[[], None]
    go_on: Callable[[], None]
    open: Callable[[], BaseConnector]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Place]]:
    with NodeServer() as node, RedisServer() as redis:
        places = {
            f"zmq{way}": Place(node, node.pause, node.resume, lambda way=way: ZMQConnector.from_url(node.url + way))
            for way in WAYS
        }
        redis_at = RedisConnector.from_url
        places["redis"] = Place(redis, redis.stop, redis.go_on, lambda: redis_at(redis.database()))
        yield places


@pytest.fixture(params=[*[f"zmq{way}" for way in WAYS], "redis"])
def place(request: pytest.FixtureRequest, servers: dict[str, Place]) -> Iterator[Place]:
    place = servers[request.param]
    yield place
    place.go_on()


def test_a_wait_on_a_connection_that_stands(place: Place) -> None:
    with place.open() as one:
        one.put(Frames([b"x"]))
        one.wait(KEY, 0.01)
        with stopped(place):
            in_time(lambda: one.wait(KEY, DEADLINE))
            in_time(lambda: one.wait_any([KEY, Key("another")], DEADLINE))  # which finds none that stands
        assert one.exists(one.put(Frames([b"x"])))
        assert one.wait(one.put(Frames([b"x"])), 60)


def test_a_wait_that_has_to_connect_first(place: Place) -> None:
    with place.open() as one:
        with stopped(place):
            in_time(lambda: one.wait(KEY, DEADLINE))
        assert one.wait(one.put(Frames([b"x"]), key=KEY, replace=True), 60)
        one.evict(KEY)


def test_many_short_waits_leave_one_connection_to_be_made(place: Place) -> None:
    with place.open() as one, stopped(place):
        for _ in range(20):
            one.wait(KEY, 0.01)
        begun = one.servers.own()._openings if isinstance(one, ZMQConnector) else next(iter(one._fleet._begun.values()))
        assert len(begun._left) == 1


def test_a_server_that_stops_amid_a_wait(servers: dict[str, Place]) -> None:
    place = servers["zmq?shared=1"]
    with place.open() as one, place.open() as other:
        one.wait(KEY, 0.01)
        other.wait(KEY, 0.01)

        def stop() -> None:
            assert until(lambda: other.status().gauges["waiting"] == 1)
            place.stop()

        try:
            began = time.monotonic()
            assert at_once([lambda: one.wait(KEY, 1.5), stop])[0] is False
            assert 1.5 <= time.monotonic() - began < 1.5 + LATE
        finally:
            place.go_on()


def test_what_lies_on_a_server_that_runs_is_found_beside_one_that_is_stopped(servers: dict[str, Place]) -> None:
    with NodeServer() as running, ZMQConnector.from_url(running.url) as two, servers["zmq?shared=1"].open() as one:
        theirs, ours = one.reserve(), two.reserve()
        assert two.wait_any([theirs, ours], 0.1) == []
        with stopped(servers["zmq?shared=1"]):
            in_time(lambda: two.wait_any([theirs, ours], DEADLINE))
            began = time.monotonic()
            two.put(Frames([b"x"]), key=ours)
            assert two.wait_any([theirs, ours], 60) == [ours]
            assert time.monotonic() - began < 2 * LATE


def test_a_look_is_answered_and_a_slow_server_is_not_taken_for_a_dead_one(place: Place) -> None:
    with place.open() as one:
        key = one.put(Frames([b"x"]))
        one.wait(KEY, 0.01)
        place.stop()

        def go_on() -> None:
            time.sleep(0.5)
            place.go_on()

        began = time.monotonic()
        assert at_once([lambda: one.wait(key, 0), go_on])[0] is True
        assert time.monotonic() - began >= 0.4


def test_an_event_loop_that_has_given_up_ends(place: Place) -> None:
    async def give_up(store: Store) -> None:
        await store.aput(b"x")
        place.stop()
        for asked in (store.aget(store.reserve()), store.ref_from_key(store.reserve())):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_awaited(asked), 0.05)

    with place.open() as one, Store(one) as store:
        began = time.monotonic()
        asyncio.run(give_up(store))
        assert time.monotonic() - began < LATE
        place.go_on()
        assert until(lambda: not coroutines._left)


async def _awaited(asked: Awaitable[Any]) -> Any:
    return await asked


@pytest.mark.slow
def test_who_waits_for_short_times_only_is_told_of_a_dead_server_all_the_same(place: Place) -> None:
    with place.open() as one, stopped(place):
        began = time.monotonic()
        with pytest.raises(ConnectorError):
            while time.monotonic() - began < 60:
                one.wait(KEY, 0.05)
        assert time.monotonic() - began < 30
        with pytest.raises(ConnectorError):  # and is told again
            one.wait(KEY, 0.05)
        place.go_on()
        assert until(lambda: _answers(one))


def _answers(one: BaseConnector) -> bool:
    try:
        return not one.wait(KEY, 0.05)
    except ConnectorError:
        return False
