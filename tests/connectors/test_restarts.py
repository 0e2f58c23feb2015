"""Who waits outlives a server that is away for a while, however many do; other calls keep their retries meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.connectors.redis import RedisConnector
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import ConnectorError, ObjectLost
from proxyfab.keys import Key
from proxyfab.patterns import Future, as_completed
from proxyfab.retry import TOKENS, budgets
from proxyfab.testing.content import signed
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import DEADLINE, at_once, until
from proxyfab.testing.servers import RedisServer

WAITERS = 40
AWAY = 1.5
LONG_AWAY = 6.0
"""Longer than all attempts of a call."""


def waiters_of_redis(server: RedisServer) -> int:
    with server.client() as client:
        return sum(each["resp"] == "3" for each in client.client_list())


def waiters_of_node(server: NodeServer) -> int:
    with ZMQConnector.from_url(server.url) as one:
        return int(one.status().gauges["waiting"])


@pytest.fixture(params=["redis", "zmq"])
def place(request) -> Iterator[tuple[Any, Callable[[Any], int], Callable[[int], Any]]]:
    """A server, how many wait there, and what connects to it."""
    if request.param == "redis":
        with RedisServer() as redis:
            yield (
                redis,
                waiters_of_redis,
                lambda timeout: RedisConnector.from_url(f"{redis.url}/0?timeout={timeout}", name="one"),
            )
    else:
        with NodeServer() as node:
            node.bind = node.ready["endpoints"][0]
            yield node, waiters_of_node, lambda timeout: ZMQConnector.from_url(f"{node.url}?ns=one&timeout={timeout}")


def test_all_who_wait_outlive_a_restart(place):
    server, waiting, connect = place
    keys = [Key(f"k{number}") for number in range(WAITERS)]

    def restart_and_put() -> None:
        assert until(lambda: waiting(server) >= WAITERS)
        server.kill()
        threading.Event().wait(AWAY)
        assert any(str(server.port) in at for at in budgets())
        assert all(kept.tokens == TOKENS for at, kept in budgets().items() if str(server.port) in at)
        server.start()
        with connect(20) as other:
            other.put_many([signed(10)] * WAITERS, keys=keys)

    with connect(20) as one:
        results = at_once([*[partial(one.wait, key, DEADLINE) for key in keys], restart_and_put])
    assert results[:-1] == [True] * WAITERS


def test_a_server_that_stays_away_ends_a_wait_when_a_call_would_end(place):
    server, waiting, connect = place
    ended: list[float] = []

    def wait(one: Any, key: Key, timeout: float | None) -> None:
        with pytest.raises(ConnectorError, match="wait"):
            one.wait(key, timeout)
        ended.append(time.monotonic())

    def kill() -> float:
        assert until(lambda: waiting(server) >= 6)
        server.kill()
        return time.monotonic()

    with connect(2) as one:
        waits = [partial(wait, one, Key(f"k{number}"), (None, 60)[number % 2]) for number in range(6)]
        died = at_once([*waits, kill])[-1]
    assert min(ended) - died > 1.5
    assert max(ended) - died < 6


def test_who_waits_at_two_servers_hears_of_one_while_the_other_is_away():
    with NodeServer() as server, NodeServer() as second:
        server.bind = server.ready["endpoints"][0]
        with ZMQConnector.from_url(f"{server.url}?ns=one") as one, ZMQConnector.from_url(second.url) as other:
            name, here, there = Key("k"), other.reserve(), other.reserve()

            def put_and_restart() -> None:
                assert until(lambda: waiters_of_node(server) == 1)
                server.kill()
                other.put(signed(10), key=here)

            assert at_once([partial(one.wait_any, [name, here], DEADLINE), put_and_restart])[0] == [here]

            def start_and_put() -> None:
                assert not waiting.wait(0.5)
                server.start()
                with ZMQConnector.from_url(f"{server.url}?ns=one") as again:
                    again.put(signed(10), key=name)

            waiting = threading.Event()
            assert at_once([partial(one.wait_any, [name, there], DEADLINE), start_and_put])[0] == [name]


def test_who_waits_for_what_a_node_server_held_is_told_that_it_is_lost():
    with NodeServer() as server, ZMQConnector.from_url(f"{server.url}?ns=one") as one:
        server.bind = server.ready["endpoints"][0]
        keys = [one.reserve() for _ in range(6)]

        def wait(key: Key) -> None:
            with pytest.raises(ObjectLost):
                one.wait(key, DEADLINE)

        def restart() -> None:
            assert until(lambda: waiters_of_node(server) >= len(keys))
            server.kill()
            server.start()

        at_once([*[partial(wait, key) for key in keys], restart])


def test_futures_that_share_a_thread_outlive_it_too(place):
    server, waiting, _ = place
    with Store(f"{server.url}?timeout=30", name="futures") as store:
        asked: list[Future[int]] = [Future(store, key=f"f{number}") for number in range(6)]
        called: list[Future[int]] = []
        for future in asked[:2]:
            future.add_done_callback(called.append)

        def collect() -> int:
            return sum(future.result() for future in as_completed(asked[2:4], DEADLINE))

        async def await_them() -> int:
            return sum([await future for future in asked[4:]])

        def restart_and_set() -> None:
            assert until(lambda: waiting(server) >= 1)
            server.kill()
            threading.Event().wait(LONG_AWAY)
            server.start()
            for number, future in enumerate(asked):
                Future(store, key=future.key).set_result(number)

        results = at_once([collect, lambda: asyncio.run(await_them()), restart_and_set])
        assert results[:2] == [2 + 3, 4 + 5]
        assert until(lambda: len(called) == 2)
        assert [future.result() for future in asked[:2]] == [0, 1]
