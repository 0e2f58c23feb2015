"""Near tiers of a store without a name whose home is a server, or this process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.testing.servers import RedisServer


@pytest.mark.parametrize("near", ["shm://", "file://{0}"])
@pytest.mark.parametrize("home", ["redis", "memory"])
def test_a_store_without_a_name(near: str, home: str, tmp_path: Path, redis_server: RedisServer) -> None:
    place = redis_server.url if home == "redis" else "memory://"
    with Store(f"tiers://?to={near.format(tmp_path)};limit=1MiB&to={place}", inline_below=0, cache=0) as store:
        key = store.put(b"x" * 9000)
        assert store.get(key) == b"x" * 9000
        nearby = store.connector.near[0].child
        assert key.id in {stat.key.id for stat in nearby.scan()}, "it sees those of others, too"
        assert pickle.loads(pickle.dumps(store)) is store
        assert store.clear() == 1
