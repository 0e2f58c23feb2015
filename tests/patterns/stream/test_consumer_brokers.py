"""Streams through real brokers: whole, released, and whole also when members are killed or the broker goes away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.brokers import open_broker
from proxyfab.errors import ConnectorError
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Capability, Topic
from proxyfab.patterns import Consumer, Producer
from proxyfab.testing import Child, until
from proxyfab.testing.content import held
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import RedisServer
from tests.patterns.stream.stream_roles import consume, hang

KINDS = ("memory", "redis", "nats")


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, redis_server: RedisServer, nats_server: NatsServer) -> Iterator[Broker]:
    broker = open_broker({"memory": "memory://", "redis": redis_server.url, "nats": nats_server.url}[request.param])
    topic = f"t{random.getrandbits(40):x}"
    broker.ensure(Topic(topic, partitions=2))
    broker.name_of_topic = topic  # type: ignore[attr-defined]
    yield broker
    broker.delete(topic)
    broker.delete(f"{topic}.dlq")
    broker.close()


@pytest.fixture
def topic(broker: Broker) -> str:
    return broker.name_of_topic  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def remote(broker: Broker) -> Broker:
    if broker.url.startswith("memory"):
        pytest.skip("memory:// does not claim to reach another process")
    return broker


def test_a_stream_through_a_group_with_its_objects(broker: Broker, topic: str) -> None:
    found: list[float] = []
    with Store("memory://") as store:
        members = [Consumer(broker, topic) for _ in range(2)]

        def work(member: Consumer) -> None:
            with member:
                for item in member:
                    found.append(float(np.sum(item.proxy)) if item.metadata["large"] else item.get())
                    item.ack()

        threads = [threading.Thread(target=work, args=(member,)) for member in members]
        for thread in threads:
            thread.start()
        with Producer(broker, topic, store=store, above="1 KiB") as out:
            for number in range(300):
                large = number % 10 == 0
                out.send(np.full(1000, number / 1000) if large else number, large=large)
            out.end()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert sorted(round(each, 6) for each in found) == list(range(300))
        assert broker.groups(topic)["default"].lag == 0
        assert until(lambda: held(store) == 0), "acknowledged objects are released"


def test_objects_stay_for_a_group_that_goes_back(broker: Broker, topic: str) -> None:
    def read(member: Consumer) -> list[int]:
        found: list[int] = []
        while len(found) < 8:
            for item in member.fetch(8, 5):
                found.append(int(item.get()[0]))
                item.ack()
        return sorted(found)

    for group in ("a", "z"):
        broker.ensure_group(topic, group)
    with Store("memory://", inline_below=0) as store, Consumer(broker, topic, group="a") as first:
        with Producer(broker, topic, store=store, above="1 KiB") as out:
            for number in range(8):
                out.send(np.full(1000, number), key=str(number))
        assert read(first) == list(range(8))
        assert until(lambda: broker.groups(topic)["a"].lag == 0)
        releaser = first._supply._releaser
        assert releaser is not None
        releaser.work()
        first.seek(EARLIEST)
        with Consumer(broker, topic, group="z") as other:
            read(other)
        releaser.work()
        assert held(store) == 8
        assert read(first) == list(range(8))
        first.close()
        assert until(lambda: held(store) == 0), "nothing is left when it has read again"


def test_nothing_is_left_of_a_stream_whose_consumer_nobody_closed(broker: Broker, topic: str) -> None:
    with Store("memory://", inline_below=0) as store:
        with Producer(broker, topic, store=store, above="1 KiB") as out:
            for number in range(8):
                out.send(np.full(1000, number), key=str(number))
            out.end()
        assert sum(int(np.sum(each)) for each in Consumer(broker, topic).objects()) == 28_000  # type: ignore[call-overload]
        assert until(lambda: held(store) == 0), "it was dropped as soon as the stream was over"


def test_latency_of_a_lone_event_is_not_bound_to_any_interval(broker: Broker, topic: str) -> None:
    delays = []
    with Consumer(broker, topic) as consumer, Producer(broker, topic) as out:
        thread_started = threading.Event()

        def read() -> None:
            thread_started.set()
            for item in consumer:
                delays.append(time.perf_counter() - item.get())
                item.ack()

        thread = threading.Thread(target=read)
        thread.start()
        thread_started.wait(10)
        for number in range(20):
            out.send(time.perf_counter())
            assert until(lambda n=number: len(delays) > n)
        out.end()
        thread.join(30)
    assert sorted(delays)[10] < 0.05, "a poll would take longer"


def test_what_was_given_back_and_what_is_done_of_it(broker: Broker, topic: str) -> None:
    with Producer(broker, topic) as out:
        out.send_many([1, 2, 3]) if hasattr(out, "send_many") else [out.send(n, key="k") for n in (1, 2, 3)]
        out.end()
    seen: list[tuple[object, int]] = []
    with Consumer(broker, topic) as consumer:
        for item in consumer:
            seen.append((item.get(), item.attempt))
            if item.get() == 2 and item.attempt == 1:
                item.nack(0.05)
            else:
                item.ack()
    assert sorted(seen) == [(1, 1), (2, 1), (2, 2), (3, 1)]


def test_a_member_that_is_killed_is_replaced(remote: Broker, topic: str) -> None:
    with Producer(remote, topic) as out:
        for number in range(100):
            out.send(number)
        out.end()
    with Child(hang, remote.url, topic, 1.0) as child:
        child.receive()
        child.kill()
    found = []
    with Consumer(remote, topic, ack_wait=1.0) as consumer:
        for item in consumer:
            found.append(item.get())
            item.ack()
    assert sorted(set(found)) == list(range(100))


def test_members_killed_at_random_lose_nothing(remote: Broker, topic: str) -> None:
    with Producer(remote, topic) as out:
        for number in range(600):
            out.send(number)
        out.end()
    found: set[object] = set()
    chance = random.Random(4)
    for _ in range(5):
        with Child(consume, remote.url, topic, 1.0, False) as child:
            for _ in range(chance.randrange(1, 120)):
                message = child.receive()
                if isinstance(message, int):
                    break
                found.add(message[1])
            child.kill()
            found.update(message[1] for message in child.pending() if not isinstance(message, int))
    with Consumer(remote, topic, ack_wait=1.0) as consumer:
        for item in consumer:
            found.add(item.get())
            item.ack()
    assert found == set(range(600))
    assert f"{topic}.dlq" not in remote.topics(), "nobody is to blame"


@pytest.mark.parametrize("kind", ["redis", "nats"])
def test_a_broker_that_goes_away_and_comes_back(kind: str) -> None:
    server = RedisServer({"appendonly": "yes", "appendfsync": "always"}) if kind == "redis" else NatsServer()
    with server, open_broker(server.url) as broker:
        assert Capability.DURABLE in broker.capabilities
        with Producer(broker, "t") as out, Consumer(broker, "t", ack_wait=5) as consumer:
            out.send(1)
            items = iter(consumer)
            next(items).ack()
            consumer.flush()
            server.kill()
            later = threading.Timer(1.0, lambda: (server.start(), out.send(2), out.end()))
            later.start()
            assert [(item.get(), item.ack())[0] for item in items] == [2], "what was flushed outlives the broker"
            later.join()
        consumer = Consumer(broker, "t", patience=0.5)
        server.kill()
        began = time.monotonic()
        with pytest.raises(ConnectorError, match=r"Topic t cannot be read: broker .* start the broker"):
            next(iter(consumer))
        assert time.monotonic() - began < 10, "as patient as it was told to be, not as each call is"
