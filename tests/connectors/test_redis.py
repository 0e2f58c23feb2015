"""redis:// passes the suite on a real server; and what is its own: servers that stop, die and fill up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from proxyfab.connectors.redis import RedisConnector
from proxyfab.connectors.redis.header import object_name, space_prefix
from proxyfab.keys import Key
from proxyfab.testing import ConnectorTests
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.lifetimes import LifetimeTests
from proxyfab.testing.conformance.model import ModelTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.conformance.threads import ThreadTests
from proxyfab.testing.content import signed
from proxyfab.testing.servers import RedisServer


def name_of(key: Key) -> bytes:
    """The key of Redis that an object lies under."""
    return object_name(space_prefix(key.where.split("/")[1]), key.id)


class TestRedis(ConnectorTests):
    connector = RedisConnector
    on_disk = False
    can_damage = True
    expires_unseen = True

    @pytest.fixture
    def url(self, redis_server: RedisServer) -> str:
        return f"{redis_server.database()}?lease=9000"

    def damage(self, connector: Any, key: Key, edit: Callable[[bytes], bytes]) -> None:
        def work(link: Any) -> None:
            raw = bytes(link.call(b"GET", name_of(key)))
            link.call(b"SET", name_of(key), edit(raw))

        connector._fleet.run(name_of(key), work, "damage")


class TestRedisInChunks(ObjectTests, BatchTests, PayloadTests, LifetimeTests, ThreadTests, ModelTests):
    """Every object above 4 KiB lies in several keys."""

    connector = RedisConnector
    expires_unseen = True
    test_more_than_four_gib = None  # a million keys; `TestRedis` has it in chunks of 256 MiB

    @pytest.fixture
    def url(self, redis_server: RedisServer) -> str:
        return f"{redis_server.database()}?chunk=4096&lease=9000"


@pytest.mark.parametrize("length", [2**20, 2**20 + 16, 3_000_000, 5_000_000])
def test_a_range_moves_its_bytes_once(redis_server: RedisServer, length: int) -> None:
    content = signed(4_000_000)
    with (
        RedisConnector.from_url(redis_server.database()) as one,
        contextlib.closing(redis_server.client()) as client,
    ):
        key = one.put(content)
        before = client.info("stats")["total_net_output_bytes"]
        found = one.get_range(key, 96, length)
        sent = client.info("stats")["total_net_output_bytes"] - before

    assert found is not None
    assert found.join() == content.slice(96, length).join()
    assert sent < found.nbytes + 20_000
