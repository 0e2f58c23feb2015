"""Redis servers for the tests of redis://: one that a test may kill, and a connector to the one that all share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab.connectors.redis import RedisConnector
from proxyfab.testing.servers import RedisServer


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that a test may kill."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def one(redis_server: RedisServer) -> Iterator[RedisConnector]:
    with RedisConnector.from_url(redis_server.database(), name="one") as connector:
        yield connector
