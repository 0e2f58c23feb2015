"""What tests of redis:// ask of a place, besides the connector."""

from __future__ import annotations

import contextlib

from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.testing.content import is_whole


def keys_at(url: str) -> list[bytes]:
    """All keys of a database."""
    import redis

    with contextlib.closing(redis.Redis.from_url(url.partition("?")[0])) as client:
        return sorted(client.keys("*"))


def works(one: RedisConnector, key: Key) -> bool:
    """Whether an object can be got whole."""
    with contextlib.suppress(ConnectorError):
        return is_whole(one.get(key) or Frames())
    return False
