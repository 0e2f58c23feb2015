"""redis:// on servers that are full, or many: clusters, and masters with sentinels."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector
from proxyfab.errors import CapacityError
from proxyfab.keys import Key
from proxyfab.testing import until
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import DEADLINE, at_once
from proxyfab.testing.servers import HOST, RedisServer, redis_cluster, redis_watched
from tests.connectors.redis_places import keys_at, works

BIG = 3_000_000


# -- full ---------------------------------------------------------------------------------------------------------


def test_a_full_server_says_so_and_keeps_what_it_has() -> None:
    with RedisServer({"maxmemory": "30mb", "maxmemory-policy": "noeviction"}) as server:
        with RedisConnector.from_url(f"{server.url}/0", name="one") as one:
            keys = []
            with pytest.raises(CapacityError, match=str(server.port)):
                for seed in range(60):
                    keys.append(one.put(signed(1_000_000, seed)))

            assert 10 < len(keys) < 60
            assert all(is_whole(one.get(key)) for key in keys)
            assert one.get(one.reserve()) is None
            with pytest.raises(CapacityError):
                one.put_many([signed(1000), signed(20_000_000)], keys=[Key("small"), Key("large")])
            assert one.evict_many(keys[:5]) == [True] * 5
            assert until(lambda: _fits(one))
        with RedisConnector.from_url(f"{server.url}/0?chunk=1000000", name="one") as one:
            with pytest.raises(CapacityError):
                one.put(signed(20_000_000), key=Key("in chunks"))
            assert until(lambda: _fits(one))  # the pieces that found room did not stay for as long as their lease
            assert not [name for name in keys_at(f"{server.url}/0") if b":c:{" in name]


def _fits(one: RedisConnector) -> bool:
    with contextlib.suppress(CapacityError):
        return is_whole(one.get(one.put(signed(500_000))))
    return False


# -- many servers -------------------------------------------------------------------------------------------------


def test_a_cluster() -> None:
    with redis_cluster() as nodes:
        url = f"redis://{HOST}:{nodes[0].port},{HOST}:{nodes[1].port}/0?cluster=1&chunk=500000"
        with RedisConnector.from_url(url) as one, RedisConnector.from_url(url, name="two") as two:
            keys = one.put_many([signed(1000 + seed, seed) for seed in range(200)])
            keys.append(one.put(signed(BIG)))
            assert all(is_whole(frames) for frames in one.get_many(keys))
            assert all(is_whole(two.get(key)) for key in keys[:20])
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(contextlib.closing(node.client())) for node in nodes]
                assert min(client.dbsize() for client in clients) > 20
            assert one.exists_many(keys) == [True] * 201
            with RedisConnector.from_url(one.spec) as other:
                assert len(list(other.scan())) == 201
            later = one.reserve()
            assert at_once([partial(one.wait, later, DEADLINE), partial(two.put, signed(10), key=later)])[0] is True
            many = [one.reserve() for _ in range(50)]
            waited = at_once([partial(one.wait_any, many, DEADLINE), partial(two.put, signed(10), key=many[33])])
            assert waited[0] == [many[33]]
            assert one.evict(many[33])
            assert one.compare_and_set(Key("c"), None, Frames([b"1"]))
            assert two.clear() == 0
            assert one.evict_many(keys[:3]) == [True] * 3
            assert one.reap() == []
            assert one.clear() == 200


def test_a_cluster_that_moves_a_slot() -> None:
    from redis.crc import key_slot

    with redis_cluster() as nodes:
        url = f"redis://{HOST}:{nodes[0].port}/0?cluster=1"
        with RedisConnector.from_url(url, name="one") as one, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(node.client())) for node in nodes]
            ids = [client.execute_command("CLUSTER MYID") for client in clients]
            key = one.put(signed(1000), key=Key("mover"))
            slot = key_slot(one._names.name(key))
            old = slot * 3 // 16384
            new = (old + 1) % 3
            clients[new].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[old])
            clients[old].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[new])
            assert is_whole(one.get(key))
            clients[old].execute_command("MIGRATE", HOST, nodes[new].port, one._names.name(key), 0, 5000)
            assert is_whole(one.get(key)), "the old node says ASK"
            for client in clients:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[new])
            assert is_whole(one.get(key)), "the old node says MOVED"
            assert one.evict(key) is True


def test_a_master_that_dies_is_followed_by_its_replica() -> None:
    with redis_watched() as watched, RedisConnector.from_url(watched.url, name="one") as one:
        key = one.put(signed(1000))
        with contextlib.closing(watched.replica.client()) as replica:
            assert until(lambda: replica.dbsize() >= 2)
            watched.master.kill()
            while one._fleet._budget.spend():
                """Many calls have failed meanwhile: none is tried again now, each has to find out by itself."""
            assert until(lambda: not works(one, key))
            assert until(lambda: replica.info("replication")["role"] == "master")

        assert until(lambda: works(one, key))
        assert is_whole(one.get(one.put(signed(BIG))))
