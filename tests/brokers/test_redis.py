"""redis:// passes the suite; and what only a server can do to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxyfab.brokers import open_broker
from proxyfab.brokers.redis import RedisBroker
from proxyfab.errors import ConfigurationError, TopicNotFound
from proxyfab.events.model import Delivery, Record, Topic
from proxyfab.resp.link import Link
from proxyfab.testing import BrokerTests, until
from proxyfab.testing.processes import at_once
from proxyfab.testing.servers import RedisServer


class TestRedis(BrokerTests):
    survives_kills = False  # a member that was killed is found out by `ack_wait`

    @pytest.fixture
    def broker(self, redis_server: RedisServer) -> Iterator[RedisBroker]:
        with RedisBroker.from_url(redis_server.database()) as broker:
            yield broker


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[RedisBroker]:
    with RedisBroker.from_url(redis_server.database()) as broker:
        yield broker


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of whatever is sent; each time is a round trip."""
    sent: list[int] = []
    send = Link.send

    def counted(self: Link, parts: Any, nbytes: int) -> None:
        sent.append(nbytes)
        send(self, parts, nbytes)

    monkeypatch.setattr(Link, "send", counted)
    return sent


def test_round_trips(broker: RedisBroker, trips: list[int]) -> None:
    """One for each call, however many records; two for large ones that are fetched, or some that are known already."""
    broker.ensure(Topic("t", partitions=3))
    trips_of(broker, trips, "the server learns the scripts")
    for expected, taken in trips_of(broker, trips, "t"):
        assert taken == expected


def trips_of(broker: RedisBroker, trips: list[int], turn: str) -> list[tuple[int, int]]:
    """For each of some calls how many round trips it should take, and how many it took."""
    found: list[Delivery] = []
    small = [Record(b"%d" % number, f"{turn}-{number}", number % 3) for number in range(100)]
    large = [Record(bytes(5000), f"{turn}-large-{number}", number % 3) for number in range(100)]
    member = broker.subscribe("t", group="g")
    steps: list[tuple[int, Callable[[], Any]]] = [
        (1, lambda: broker.publish("t", small)),
        (1, lambda: broker.publish("t", small)),
        (1, lambda: found.extend(member.fetch(200, 5.0))),
        (1, lambda: member.ack(found)),
        (1, lambda: broker.publish("t", large)),
        (2, lambda: broker.publish("t", [*small[:1], Record(b"y", turn)])),
        (2, lambda: found.extend(member.fetch(200, 5.0))),
        (1, lambda: member.extend(found)),
        (1, lambda: member.nack(found)),
        (1, lambda: broker.state("t").put("k", b"v")),
        (1, lambda: broker.groups("t")),
        (1, lambda: broker.describe("t")),
        (1, member.close),
    ]
    taken = []
    for _, call in steps:
        before = len(trips)
        call()
        taken.append(len(trips) - before)
    assert len(found) == 201
    with broker.subscribe("t", group="g") as last:
        last.ack(last.fetch(500, 5.0))
    return [(expected, number) for (expected, _), number in zip(steps, taken, strict=True)]


def test_scripts_that_are_forgotten(broker: RedisBroker, redis_server: RedisServer) -> None:
    """What was added in front of a script that the server did not know is undone, and added again."""
    broker.ensure(Topic("t", partitions=2))
    with contextlib.closing(redis_server.client()) as client, broker.subscribe("t", group="g") as member:
        for number in range(4):
            client.script_flush()
            batch = [Record(b"%d-%d" % (number, each), partition=each % 2) for each in range(4)]
            offsets = [position.offset for position in broker.publish("t", batch)]
            assert offsets == [2 * number + 1, 2 * number + 1, 2 * number + 2, 2 * number + 2]
            client.script_flush()
            found = member.fetch(10, 5.0)
            assert sorted(each.body for each in found) == [record.body for record in batch]
            member.ack(found)
    held = broker.describe("t")
    assert held.records == 16
    assert held.nbytes == 16 * 3


def test_what_a_broken_off_publisher_left_is_undone(broker: RedisBroker, redis_server: RedisServer) -> None:
    broker.ensure(Topic("t"))
    with contextlib.closing(redis_server.client(db=broker._fleet.place.database)) as client:
        client.execute_command("XADD", "{pf:t}:s:0", "0-*", "b", "stray")
        assert broker.describe("t").records == 0
        assert broker.publish("t", [Record(b"mine")])[0].offset == 1
    with broker.subscribe("t", group=None) as reader:
        assert [each.body for each in reader.fetch(10, 5.0)] == [b"mine"]


def test_threads_share_a_reader(broker: RedisBroker) -> None:
    broker.ensure(Topic("t", partitions=2))
    broker.publish("t", [Record(b"%d" % number, partition=number % 2) for number in range(200)])
    with broker.subscribe("t", group=None) as reader:

        def read() -> list[int]:
            mine: list[int] = []
            while found := reader.fetch(7, 0.2):
                mine += [int(each.body) for each in found]
            return mine

        results = at_once([read] * 4)
    assert sorted(number for each in results for number in each) == list(range(200))


def test_large_records(broker: RedisBroker) -> None:
    broker.ensure(Topic("t"))
    bodies = [os.urandom(size) for size in (0, 1, 1023, 1024, 1025, 100_000, 9 << 20, broker.max_record, 5)]
    broker.publish("t", [Record(body) for body in bodies])
    found: list[bytes] = []
    with broker.subscribe("t", group="g") as member:
        while len(found) < len(bodies):
            some = member.fetch(100, 5.0)
            member.ack(some)
            found += [each.body for each in some]
    assert found == bodies


def test_many_at_once(broker: RedisBroker) -> None:
    broker.ensure(Topic("t"))
    positions = broker.publish("t", [Record(b"%d" % number) for number in range(3000)])
    assert [position.offset for position in positions] == list(range(1, 3001))
    with broker.subscribe("t", group="g") as member:
        found: list[Delivery] = []
        while some := member.fetch(5000, 0.0):
            found += some
        assert [int(each.body) for each in found] == list(range(3000))
        member.ack(found)
        assert member.info().lag == 0


def test_ids_are_forgotten_behind_the_window(broker: RedisBroker) -> None:
    broker.ensure(Topic("t", window=0.2))
    first = broker.publish("t", [Record(b"x", f"id-{number}") for number in range(250)])
    assert until(lambda: broker.publish("t", [Record(b"x", "id-0")]) != first[:1])
    with contextlib.closing(redis_client(broker)) as client:
        assert client.hlen("{pf:t}:s:d") == client.llen("{pf:t}:s:q") == 1


def redis_client(broker: RedisBroker) -> Any:
    import redis

    (host, port), *_ = broker._fleet.place.hosts
    return redis.Redis(host=host, port=port, db=broker._fleet.place.database)


def test_urls(redis_server: RedisServer) -> None:
    broker = RedisBroker.from_url("redis://ann:hush@localhost?timeout=5")
    assert broker.url == "redis://localhost:6379/0?user=ann&timeout=5"
    assert "hush" not in repr(broker)
    broker.close()
    with open_broker(redis_server.database()) as opened:
        assert opened.topics() == []
    with pytest.raises(ConfigurationError, match="namespaces"):
        RedisBroker.from_url("redis://localhost?ns=x")
    with pytest.raises(ConfigurationError):
        RedisBroker.from_url("redis://localhost?nonsense=x")
    with RedisBroker.from_url("rediss://localhost?verify=0") as secure:
        assert secure.url == "rediss://localhost:6379/0?verify=0"


def test_a_deleted_topic_leaves_no_key(broker: RedisBroker, redis_server: RedisServer) -> None:
    """Nor do those who do not know it yet."""
    broker.ensure(Topic("t", partitions=2, groups=("a", "b"), window=60.0))
    broker.publish("t", [Record(b"%d" % n, f"id-{n}", n % 2) for n in range(10)])
    state = broker.state("t")
    state.put("x", b"1", ttl=60.0)
    state.put("y", b"2")
    with broker.subscribe("t", group="a") as member, broker.subscribe("t", group="c") as other:
        held, more = member.fetch(4, 1.0), other.fetch(4, 1.0)
        member.nack(held[:1], delay=0.2, note=b"later")
        member.ack(held[1:2])
        with redis_server.client(db=int(broker.url.rpartition("/")[2])) as raw:
            assert {*raw.scan_iter("{pf:t}:*")} > {b"{pf:t}:b", b"{pf:t}:g:a", b"{pf:t}:v"}
            assert broker.delete("t")
            calls: list[Callable[[], object]] = [
                lambda: member.ack(held[2:3]),
                lambda: member.nack(held[3:]),
                lambda: other.extend(more),
                lambda: other.fetch(1, 0.1),
                lambda: broker.publish("t", [Record(b"late", "late")]),
                lambda: state.put("z", b"3"),
                lambda: state.wait({"x": 0}, 0.1),
                lambda: broker.delete_group("t", "a"),
                lambda: broker.ensure_group("t", "d"),
                member.flush,
            ]
            for call in calls:
                with contextlib.suppress(TopicNotFound):
                    call()
            for each in (member, other):
                with contextlib.suppress(TopicNotFound):
                    each.close()
            assert until(lambda: not [*raw.scan_iter("{pf:t}:*")], 5), [*raw.scan_iter("{pf:t}:*")]
