"""redis:// passes the suite; and what only a server can do to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab.brokers.redis import RedisBroker
from proxyfab.testing import BrokerTests
from proxyfab.testing.servers import RedisServer


class TestRedis(BrokerTests):
    survives_kills = False  # a member that was killed is found out by `ack_wait`

    @pytest.fixture
    def broker(self, redis_server: RedisServer) -> Iterator[RedisBroker]:
        with RedisBroker.from_url(redis_server.database()) as broker:
            yield broker
