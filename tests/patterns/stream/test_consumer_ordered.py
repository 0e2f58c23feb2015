"""An ordered group: each key's events in their order, whichever members come, go or die."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from queue import Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.brokers import open_broker
from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import ConfigurationError
from proxyfab.events.broker import Broker
from proxyfab.events.model import GroupInfo, Topic
from proxyfab.patterns import Consumer, Producer
from proxyfab.patterns.stream.claiming import Table, joined, share
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.lane import all_here
from proxyfab.testing import Child, KafkaCluster, until
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import RedisServer
from tests.patterns.stream.frames import Writer
from tests.patterns.stream.stream_roles import consume


def claimed(consumer: Consumer) -> frozenset[int]:
    return frozenset(consumer._supply._lanes)  # type: ignore[attr-defined]  # it is ordered


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40), st.integers(1, 7))
def test_partitions_are_shared_evenly_and_never_twice(steps: list[tuple[str, bool]], partitions: int) -> None:
    table = Table({}, {})
    for me, dies in steps:
        mine = [number for number, name in table.owners.items() if name == me]
        others = [name for name in table.members if name != me]
        target = share([*others, me], me, partitions)
        table = joined(table, me, partitions, dead=others[:1] if dies else (), given=sorted(mine)[target:])
        assert set(table.owners.values()) <= set(table.members)
    for _ in range(2):
        for me in sorted(table.members):
            mine = sorted(number for number, name in table.owners.items() if name == me)
            table = joined(table, me, partitions, dead=(), given=mine[share(table.members, me, partitions) :])
    counts = [list(table.owners.values()).count(name) for name in table.members]
    assert sum(counts) == (partitions if table.members else 0)
    assert not counts or max(counts) - min(counts) <= 1


def test_what_is_given_back_comes_before_all_others_of_its_partition(broker: Broker) -> None:
    out = Writer(broker, partitions=2)
    out.send("a1", "a2", "a3", partition=0)
    out.send("a4", partition=0)
    out.send("b1", "b2", partition=1)
    out.end()
    seen: list[str] = []
    with Consumer(broker, "t", ordered=True) as consumer:
        for item in consumer:
            seen.append(f"{item.get()}.{item.attempt}")
            item.nack(0.1) if seen[-1] == "a2.1" else item.ack()
    assert [each for each in seen if each[0] == "a"] == ["a1.1", "a2.1", "a2.2", "a3.1", "a4.1"]
    assert [each for each in seen if each[0] == "b"] == ["b1.1", "b2.1"]
    assert broker.groups("t")["default"].lag == 0
    assert broker.state("t").get("claims/default").value == b"\x92\x80\x80"  # type: ignore[union-attr]


def test_what_never_works_is_buried_and_lets_the_others_pass(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2)
    out.end()
    seen = []
    with Consumer(broker, "t", ordered=True, attempts=3) as consumer:
        for item in consumer:
            seen.append(item.get())
            item.nack() if item.get() == 1 else item.ack()
        assert consumer.stats()["buried"] == 1
    assert seen == [1, 1, 1, 2]


def test_members_share_and_take_over_without_losing_the_order(broker: Broker) -> None:
    out = Writer(broker, partitions=4)
    seen: dict[object, list[int]] = defaultdict(list)
    lock = threading.Lock()
    stop = threading.Event()

    def work(member: Consumer, until_told: bool) -> None:
        with member:
            for item in member:
                with lock:
                    seen[item.key].append(item.get())
                item.ack()
                if until_told and stop.is_set():
                    return

    members = [Consumer(broker, "t", ordered=True, ack_wait=2) for _ in range(3)]
    threads = [threading.Thread(target=work, args=(member, n == 0)) for n, member in enumerate(members)]
    for thread in threads[:2]:
        thread.start()
    number = 0

    def send(count: int) -> None:
        nonlocal number
        for _ in range(count):
            for partition in range(4):
                out.send(number, number + 1, partition=partition, key=f"k{partition}")
            number += 2

    send(50)
    assert until(lambda: {len(claimed(member)) for member in members[:2]} == {2})
    threads[2].start()
    assert until(lambda: sorted(len(claimed(member)) for member in members) == [1, 1, 2])
    assert frozenset.union(*map(claimed, members)) == {0, 1, 2, 3}
    stop.set()
    send(50)
    threads[0].join(30)
    assert until(lambda: sorted(len(claimed(member)) for member in members[1:]) == [2, 2])
    send(50)
    out.end()
    for thread in threads[1:]:
        thread.join(60)
        assert not thread.is_alive()
    for partition in range(4):  # a member that a busy machine kept silent for too long is replaced: that may come twice
        assert list(dict.fromkeys(seen[f"k{partition}"])) == list(range(number))


def test_a_member_that_has_no_partition_any_more_has_nobody_to_tell(broker: Broker) -> None:
    """The subscription that it had is closed; at Kafka telling it was an error."""
    Writer(broker).send(1)
    with Consumer(broker, "t", ordered=True, member="z") as last:
        (item,) = last.fetch(1, 20)
        item.ack()
        last.flush()
        with Consumer(broker, "t", ordered=True, member="a") as first:
            assert until(lambda: not last.fetch(1, 0.05) and not claimed(last))
            assert last._supply.desk.subscription is None
            last.flush()
            assert until(lambda: not first.fetch(1, 0.05) and len(claimed(first)) == 1)


def test_an_ordered_group_says_what_it_cannot_be() -> None:
    with MemoryBroker() as broker:
        for wrong in ({"observe": True}, {"partitions": [0]}):
            with pytest.raises(ConfigurationError, match="ordered group"):
                Consumer(broker, "t", ordered=True, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["redis", "nats"])
def test_a_member_that_is_killed_is_replaced_in_order(
    kind: str, redis_server: RedisServer, nats_server: NatsServer
) -> None:
    url = {"redis": redis_server.url, "nats": nats_server.url}[kind]
    topic = f"ordered-{kind}"
    with open_broker(url) as broker:
        broker.ensure(Topic(topic, partitions=2))
        with Producer(broker, topic) as out:
            for number in range(400):
                out.send(number, key=f"k{number % 5}")
            out.end()
        seen: dict[object, list[int]] = defaultdict(list)
        with Child(consume, url, topic, 1.5, True) as child:
            for _ in range(60):
                key, number, _ = child.receive()
                seen[key].append(number)
            child.kill()
            for message in child.pending():
                if not isinstance(message, int):
                    seen[message[0]].append(message[1])
        with Consumer(broker, topic, ordered=True, ack_wait=1.5) as consumer:
            for item in consumer:
                seen[item.key].append(item.get())
                item.ack()
        for index in range(5):
            numbers = seen[f"k{index}"]
            first_seen = list(dict.fromkeys(numbers))
            assert first_seen == list(range(index, 400, 5)), "what comes twice comes in order both times"
        broker.delete(topic)


@pytest.mark.parametrize("kind", ["memory", "redis", "nats"])
def test_a_member_waits_for_nobody_who_owes_nothing_of_its_partitions(
    kind: str, redis_server: RedisServer, nats_server: NatsServer
) -> None:
    url = {"memory": "memory://", "redis": redis_server.url, "nats": nats_server.url}[kind]
    topic = f"gaps-{kind}"
    with open_broker(url) as broker:
        out = Writer(broker, topic, partitions=2)
        came: dict[Consumer, Queue[Item]] = {}

        def work(member: Consumer) -> None:
            with member:
                for item in member:
                    came[member].put(item)

        one, two = (Consumer(broker, topic, ordered=True, ack_wait=20) for _ in range(2))
        came.update({one: Queue(), two: Queue()})
        threads = [threading.Thread(target=work, args=(member,)) for member in came]
        for thread in threads:
            thread.start()
        assert until(lambda: len(claimed(one)) == len(claimed(two)) == 1)
        (number,) = claimed(two)
        out.send("held", partition=number)
        held = [came[two].get(timeout=10)]
        for turn in range(5):
            out.send("theirs", partition=number)  # where offsets are counted over both partitions, one's have gaps
            out.send(turn, partition=1 - number)
            item = came[one].get(timeout=10)
            assert item.get() == turn
            item.ack()
        out.end()
        held += [came[two].get(timeout=10) for _ in range(5)]
        for item in held:
            item.ack()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        broker.delete(topic)


@pytest.mark.parametrize(
    ("floor", "held", "here"),
    [
        (9, [15], False),
        (14, [15], True),
        (9, [10, 15], False),  # 10 is being worked on, and 11 to 14 came to a connection that broke
        (9, [10, 11, 12, 13, 14, 15], True),
        (9, [11, 12, 13, 14, 15, 16], False),
    ],
)
def test_what_was_on_its_way_when_the_broker_died_comes_before_what_follows(
    floor: int, held: list[int], here: bool
) -> None:
    info = GroupInfo({0: floor}, undelivered=0, pending=20)

    assert all_here(info, 0, 15, held, len(held)) is here


@pytest.mark.parametrize("kind", ["memory", "redis", "nats", "kafka"])
def test_what_is_blocked_is_bounded_and_stays_in_order(
    kind: str, redis_server: RedisServer, nats_server: NatsServer
) -> None:
    """One event that is given back for seconds holds up its partition: its frames are not all kept here meanwhile."""
    topic, most = f"blocked-{kind}", []
    with contextlib.ExitStack() as stack:
        url = {"memory": "memory://", "redis": redis_server.database(), "nats": nats_server.url}.get(kind)
        if url is None:
            cluster = stack.enter_context(KafkaCluster())
            cluster.create(topic, 2)
            url = cluster.url
        broker = stack.enter_context(open_broker(url))
        with Producer(broker, Topic(topic, partitions=2), above=1 << 20) as out:
            for number in range(500):
                out.send(b"%d" % number + bytes(4000), partition=0)
                out.flush()
            for number in range(60):
                out.send(b"%d" % number, partition=1)
            out.end()
        seen: dict[int, list[int]] = {0: [], 1: []}
        blocked_for = 3.0
        with Consumer(broker, topic, ordered=True, prefetch_bytes="100 KiB", timeout=60) as consumer:
            for item in consumer:
                number, partition = int(item.get().rstrip(b"\0")), item.position.partition
                if (number, partition, item.attempt) == (5, 0, 1):
                    item.nack(blocked_for)
                    continue
                seen[partition].append(number)
                item.ack()
                lanes = consumer._supply._lanes  # type: ignore[attr-defined]  # it is ordered
                most.append(sum([lane.nbytes for lane in lanes.values()]))
        assert seen == {0: [*range(500)], 1: [*range(60)]}
        assert max(most) < 700 << 10, "two megabytes are held up"
        if kind != "kafka":  # the mock cluster cannot
            broker.delete(topic)


def test_a_frame_that_was_begun_goes_on_whatever_the_next_one_waits_for(broker: Broker) -> None:
    """Nobody could leave it otherwise: partitions change hands between frames, and what waits is not looked at then."""
    out = Writer(broker, partitions=2)
    for number in range(3):
        out.send(f"{number}a", f"{number}b", f"{number}c")
    broker.ensure_group("t", "g")
    with broker.subscribe("t", group="g") as other:
        (first,) = other.fetch(1, 5)
        (second,) = other.fetch(1, 5)
        other.nack([first])
        with Consumer(broker, "t", group="g", ordered=True, timeout=10) as one:
            begun = one.fetch(2, 10)  # and what comes later, which has to wait
            assert [item.proxy for item in begun] == ["0a", "0b"]
            with Consumer(broker, "t", group="g", ordered=True) as two:
                assert until(lambda: len(one._supply._claims.share.mine) > one._supply._claims.share.allowed)  # type: ignore[attr-defined]
                (rest,) = one.fetch(1, 10)
                assert rest.proxy == "0c"
                for item in (*begun, rest):
                    item.ack()
                other.ack([second])
                found: list[object] = []

                def came() -> bool:
                    for each in (one, two):
                        for item in each.fetch(8, 0.05):
                            found.append(item.proxy)
                            item.ack()
                    return len(found) == 3

                assert until(came)
                assert found == ["2a", "2b", "2c"]
