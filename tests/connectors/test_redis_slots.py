"""redis:// on a cluster while one of its slots moves: some of the slot's keys are here, some there, new ones there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from math import inf
from typing import Any

import pytest
from redis.crc import key_slot

from proxyfab import policy
from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector, bulk
from proxyfab.errors import AccessDenied, ConnectorError
from proxyfab.keys import Key
from proxyfab.testing import until
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import DEADLINE, at_once
from proxyfab.testing.servers import HOST, RedisServer, redis_cluster

BIG = 3_000_000
IN_CHUNKS = 70_000


class Moving:
    """A slot, that of one key, on its way from the node that has it to the next one."""

    def __init__(self, one: RedisConnector, clients: list[Any], name: bytes) -> None:
        self.slot, self.clients = key_slot(name), clients
        finder = one._fleet._use()
        finder.refresh()
        ports = [int(client.connection_pool.connection_kwargs["port"]) for client in clients]
        old = ports.index(finder.address(name, inf)[1])
        new = (old + 1) % 3
        self.source, self.target, self.port = clients[old], clients[new], ports[new]
        ids = [client.execute_command("CLUSTER MYID") for client in clients]
        self.new_owner = ids[new]
        self.target.execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", ids[old])
        self.source.execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", ids[new])

    def take(self, *names: bytes) -> None:
        """Move these keys."""
        for name in names:
            assert self.source.execute_command("MIGRATE", HOST, self.port, name, 0, 5000) == b"OK"

    def rest(self) -> list[bytes]:
        """Keys that are still where they were."""
        return list(self.source.execute_command("CLUSTER GETKEYSINSLOT", self.slot, 1000))

    def finish(self) -> None:
        """Move what is left, and tell all nodes whose the slot is."""
        self.take(*self.rest())
        for client in self.clients:
            client.execute_command("CLUSTER SETSLOT", self.slot, "NODE", self.new_owner)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with redis_cluster() as nodes:
        yield nodes


@pytest.fixture
def clients(nodes: list[RedisServer]) -> Iterator[list[Any]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(node.client())) for node in nodes]


@pytest.fixture
def one(nodes: list[RedisServer], clients: list[Any]) -> Iterator[RedisConnector]:
    url = f"redis://{HOST}:{nodes[0].port}/0?cluster=1&chunk=20000&timeout=10"
    for client in clients:
        client.flushall()
    with RedisConnector.from_url(url, name="one") as one:
        yield one


@pytest.fixture
def moving(one: RedisConnector, clients: list[Any]) -> Iterator[Any]:
    """Sets out to move the slot of a key, and arrives in any case."""
    begun: list[Moving] = []

    def begin(key: Key) -> Moving:
        begun.append(Moving(one, clients, one._names.name(key)))
        return begun[-1]

    yield begin
    for moving in begun:
        moving.finish()


def whole_life(one: RedisConnector, key: Key, nbytes: int) -> None:
    """Every operation on one key."""
    assert one.get(key) is None
    assert one.put(signed(nbytes), key=key).id == key.id
    assert is_whole(one.get(key))
    one.put(signed(nbytes, 2), key=key, ttl=100, replace=True)
    assert one.get(key) == signed(nbytes, 2)
    assert one.renew(key, None) is True
    stat = one.stat(key)
    assert stat is not None
    assert (stat.nbytes, stat.expires) == (nbytes, None)
    assert (one.get_range(key, 10, 100) or Frames()).tobytes() == signed(nbytes, 2).tobytes()[10:110]
    assert one.wait(key, 1) is True
    assert one.exists(key) is True
    assert one.evict(key) is True
    assert one.exists(key) is False
    assert one.compare_and_set(key, None, Frames([b"1"])) is True
    assert one.compare_and_set(key, Frames([b"1"]), Frames([b"2"])) is True
    assert one.evict_many([key, Key("another")]) == [True, False]


def test_a_cluster_leads_what_was_received_nowhere_else(one: RedisConnector, nodes: list[RedisServer]) -> None:
    """The host that a policy allows says where the others are, and would be given the password for them."""
    url = f"redis://localhost:{nodes[0].port}/0?cluster=1"
    policy.restrict(hosts=["localhost"])
    try:
        with policy.received():
            received = RedisConnector.from_url(url, name="one")
        with received, pytest.raises(AccessDenied, match=f"host '{HOST}'.*hosts="):
            received.get_many(Key.draw_many(50))
        with RedisConnector.from_url(url, name="one") as ours:
            assert ours.get_many(Key.draw_many(50)) == [None] * 50
    finally:
        policy.lift()


@pytest.mark.parametrize("nbytes", [1000, 19_000, IN_CHUNKS])
def test_new_keys_of_a_slot_that_moves(one: RedisConnector, moving: Any, nbytes: int) -> None:
    """They begin their life where the slot goes, each command with the leave to (ASKING)."""
    at = moving(Key("new"))
    whole_life(one, Key("new"), nbytes)
    assert at.rest() == []
    assert at.target.dbsize() == 0, "nothing is left of it"
    at.finish()
    whole_life(one, Key("new"), nbytes)


def test_an_object_in_many_pieces_that_moved(one: RedisConnector, moving: Any) -> None:
    one._place = one._place._replace(chunk=100 * BIG)
    key = one.put(signed(BIG), key=Key("big"))
    at = moving(key)
    at.take(one._names.name(key))
    assert is_whole(one.get(key))
    assert (one.get_range(key, 10, 2_500_000) or Frames()).nbytes == 2_500_000
    assert is_whole(one.get_many([key])[0])
    at.finish()
    assert is_whole(one.get(key))


def test_to_be_sent_elsewhere_is_no_failure(one: RedisConnector, moving: Any) -> None:
    """However often it happens, it does not use up what may be tried again."""
    key = one.put(signed(1000), key=Key("often"))
    at = moving(key)
    at.take(one._names.name(key))
    before = one._fleet._budget.retries
    for _ in range(50):
        assert is_whole(one.get(key))
    assert one._fleet._budget.retries == before
    at.finish()


def test_batches_with_some_keys_that_moved(one: RedisConnector, moving: Any) -> None:
    keys = one.put_many([signed(1000 + seed, seed) for seed in range(300)])
    moved, stays = keys[7], keys[8]
    at = moving(moved)
    at.take(one._names.name(moved))
    assert all(is_whole(frames) for frames in one.get_many(keys))
    assert one.exists_many(keys) == [True] * 300
    one.put_many([signed(2000, seed) for seed in range(300)], keys=keys, replace=True)
    assert [frames and frames.nbytes for frames in one.get_many(keys)] == [2000] * 300
    assert len(list(one.scan())) == 300
    assert one.evict_many([moved, stays]) == [True, True]
    assert one.put_many([signed(10), signed(10)], keys=[moved, stays]) == [moved, stays]
    assert one.clear() == 300
    at.finish()


def test_batches_after_slots_have_moved(one: RedisConnector, moving: Any) -> None:
    keys = one.put_many([signed(1000 + seed, seed) for seed in range(100)])
    for key in keys[:3]:
        moving(key).finish()
    assert all(is_whole(frames) for frames in one.get_many(keys))
    assert one.evict_many(keys) == [True] * 100


def chunks(one: RedisConnector, key: Key) -> list[bytes]:
    name = one._names.name(key)
    return bulk.chunks_of(name, one._fleet.run(name, lambda link: link.call(b"GET", name), "get"))


@pytest.mark.parametrize("first", ["the chunks", "their name"])
@pytest.mark.parametrize("operation", ["get", "get_range", "renew", "put"])
def test_an_object_whose_pieces_lie_on_two_nodes(
    one: RedisConnector, moving: Any, clients: list[Any], first: str, operation: str
) -> None:
    """Neither missing nor damaged: who wants it waits for the rest of it to move."""
    key = one.put(signed(IN_CHUNKS), key=Key("parted"))
    calls = {
        "get": lambda: is_whole(one.get(key)),
        "get_range": lambda: (one.get_range(key, 50_000, 10) or Frames()).nbytes == 10,
        "renew": lambda: one.renew(key, 100),
        "put": lambda: one.put(signed(IN_CHUNKS, 3), key=key, replace=True) == key,
    }
    at = moving(key)
    at.take(*(chunks(one, key)[:2] if first == "the chunks" else [one._names.name(key)]))

    def finish() -> None:
        refused = one._fleet._budget.retries
        assert until(lambda: one._fleet._budget.retries > refused or done)
        at.finish()

    done: list[bool] = []
    found, _ = at_once([partial(lambda: done.append(calls[operation]()) or done[-1]), finish])
    assert found is True
    assert is_whole(one.get(key))
    assert one.evict(key)
    one.reap()
    assert [name for client in clients for name in client.keys("proxyfab:*")] == []


def test_an_object_that_stays_parted_is_an_error_in_time(one: RedisConnector, moving: Any) -> None:
    key = one.put(signed(IN_CHUNKS), key=Key("stuck"))
    at = moving(key)
    at.take(one._names.name(key))
    with pytest.raises(ConnectorError, match="slot"):
        one.get(key)
    at.finish()
    assert is_whole(one.get(key))


def test_who_waits_is_sent_along(one: RedisConnector, moving: Any) -> None:
    key = Key("awaited")
    with RedisConnector.from_url(one.spec) as other:

        def put() -> None:
            at = moving(key)
            other.put(signed(10), key=key)
            at.finish()

        assert at_once([partial(one.wait, key, DEADLINE), put])[0] is True
