"""Finding the nodes of a Redis cluster, and the master that sentinels know: in time, whoever hangs."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from proxyfab.brokers.redis.broker import RedisBroker
from proxyfab.buffers import Frames
from proxyfab.connectors.redis.connector import RedisConnector
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.testing.processes import until
from proxyfab.testing.servers import HOST, RedisServer, redis_cluster
from tests.stopping import DEADLINE, LATE, in_time, stopped

KEY = Key("not-there")


@pytest.fixture
def silent() -> Iterator[str]:
    """Addresses of many servers that take connections and say nothing."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(12)]
        yield ",".join(f"{HOST}:{server.getsockname()[1]}" for server in servers)


@pytest.mark.parametrize("option", ["cluster=1", "sentinel=master"])
def test_calls_and_waits_end_in_time_where_nobody_says_who_has_what(silent: str, option: str) -> None:
    with RedisConnector.from_url(f"redis://{silent}/0?{option}") as one:
        in_time(lambda: one.wait(KEY, DEADLINE))
        in_time(lambda: one.wait_any([KEY, Key("another")], DEADLINE))
        assert len(one._fleet._finder._asking._left) == 1, "the second has what was begun for the first"
    with RedisConnector.from_url(f"redis://{silent}/0?{option}&timeout=0.3") as one:
        for call in (lambda: one.get(KEY), lambda: one.exists_many([KEY, Key("another")]), one.clear):
            began = time.monotonic()
            with pytest.raises(ConnectorError):
                call()
            assert time.monotonic() - began < 0.3 + LATE


@pytest.fixture(scope="module")
def node() -> Iterator[RedisServer]:
    with redis_cluster(1) as (node,):
        yield node


def test_what_was_begun_for_who_has_left_is_the_next_ones(node: RedisServer) -> None:
    with RedisConnector.from_url(f"redis://{HOST}:{node.port}/0?cluster=1") as one:
        with stopped(node):
            in_time(lambda: one.wait(KEY, DEADLINE))
        assert one.wait(one.put(Frames([b"x"])), 60)
        one._fleet._finder.refresh()  # as when it was sent elsewhere
        with stopped(node):
            in_time(lambda: one.wait_any([KEY, Key("another")], DEADLINE))
        key = one.put(Frames([b"x"]))
        assert one.wait_any([KEY, key], 60) == [key]
        one.clear()


def test_a_brokers_fetch_ends_in_time_too(node: RedisServer) -> None:
    from proxyfab.events.model import Record, Topic

    with RedisBroker.from_url(f"redis://{HOST}:{node.port}/0?cluster=1") as broker:
        broker.ensure(Topic("t"))
        with broker.subscribe("t", group=None) as reader:
            assert reader.fetch(1, 0) == []
            broker._desk.fleet._finder.refresh()
            with stopped(node):
                in_time(lambda: reader.fetch(1, DEADLINE))
            broker.publish("t", [Record(b"x")])
            found: list[bytes] = []
            assert until(lambda: found.__iadd__([each.body for each in reader.fetch(1, 1.0)]) == [b"x"])
        broker.delete("t")


def test_who_waits_for_short_times_only_is_told_where_nobody_is() -> None:
    with socket.create_server((HOST, 0)) as closed:
        port = closed.getsockname()[1]
    with (
        RedisConnector.from_url(f"redis://{HOST}:{port}/0?cluster=1&timeout=1") as one,
        pytest.raises(ConnectorError, match="cluster"),
    ):
        began = time.monotonic()
        while time.monotonic() - began < 30:
            one.wait(KEY, 0.02)
