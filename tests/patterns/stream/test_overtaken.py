"""Groups that retention has overtaken: what went before they had read it is told, once, and they go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from proxyfab.brokers import open_broker
from proxyfab.errors import IntegrityError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Position, Topic
from proxyfab.patterns import Consumer
from proxyfab.patterns.stream.continuity import Gap
from proxyfab.testing.events import EventServer
from proxyfab.testing.kafka import KafkaCluster
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import RedisServer
from proxyfab.trace import Span, listen
from tests.patterns.stream.frames import Writer

Trim = Callable[[str, int], object]
"""Has the records of a topic's one partition go, up to an offset."""


@contextmanager
def _kafka() -> Iterator[tuple[Broker, Trim]]:
    with KafkaCluster() as cluster, open_broker(cluster.url) as broker:
        yield broker, lambda topic, upto: cluster.trim(topic, 0, upto)


@contextmanager
def _zmq() -> Iterator[tuple[Broker, Trim]]:
    with EventServer() as server, open_broker(server.url) as broker:
        yield broker, _cut(broker)


@contextmanager
def _of(url: str) -> Iterator[tuple[Broker, Trim]]:
    with open_broker(url) as broker:
        yield broker, _cut(broker)


def _cut(broker: Broker) -> Trim:
    return lambda topic, upto: broker.cut(topic, {0: upto})


@pytest.fixture(params=["memory", "redis", "zmq", "kafka"])  # to a NATS who cuts off says that nobody misses it
def place(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[tuple[Broker, Trim]]:
    own = {"zmq": _zmq, "kafka": _kafka}.get(request.param)
    urls = {"memory": "memory://", "redis": redis_server.url}
    with own() if own is not None else _of(urls[request.param]) as made:
        yield made


def read(consumer: Consumer, most: int) -> list[object]:
    found: list[object] = []
    while len(found) < most:
        items = consumer.fetch(most - len(found), 20)
        assert items, f"no more than {found} came"
        for item in items:
            found.append(item.get())
            item.ack()
    return found


@pytest.mark.parametrize("ordered", [False, True])
def test_what_went_before_a_group_had_read_it_is_told(place: tuple[Broker, Trim], ordered: bool) -> None:
    broker, trim = place
    topic = f"t{random.getrandbits(40):x}"
    out = Writer(broker, topic)
    found: list[Gap] = []
    for number in range(3):
        out.send(number)
    with Consumer(broker, topic, group="g", ordered=ordered, on_gap=found.append) as consumer:
        assert read(consumer, 3) == [0, 1, 2]
    with Consumer(broker, topic, group="g", ordered=ordered, on_gap=found.append):
        assert found == [], "it has missed nothing yet"
    for number in range(3, 10):
        out.send(number)
    trim(topic, 7)
    with Consumer(broker, topic, group="g", ordered=ordered, on_gap=found.append) as consumer:
        assert read(consumer, 3) == [7, 8, 9]
        assert found == [Gap("", 0, 0, 4, 4, Position(topic, 0, 8))]
        assert consumer.stats()["gaps"] == 1
    with Consumer(broker, topic, group="g", ordered=ordered, on_gap=found.append):
        assert len(found) == 1, "it has gone on"
    with Consumer(broker, topic, group="new", ordered=ordered, on_gap=found.append):
        pass
    with Consumer(broker, topic, group="new", ordered=ordered, on_gap=found.append) as consumer:
        assert read(consumer, 3) == [7, 8, 9]
        assert len(found) == 1, "who began behind it has missed nothing"
    if not broker.url.startswith("kafka"):  # the mock's topics are its maker's
        broker.delete(topic)


def test_what_a_full_topic_of_nats_has_dropped_is_told(nats_server: NatsServer) -> None:
    with open_broker(nats_server.url) as broker:
        broker.ensure(Topic("dropping", max_bytes=20_000, full="drop_oldest"))
        out = Writer(broker, "dropping")
        out.send(0)
        with Consumer(broker, "dropping", group="g") as consumer:
            read(consumer, 1)
        for number in range(1, 40):
            out.send(number, bytes(1000))
        first = broker.describe("dropping").extents[0].first
        found: list[Gap] = []
        with Consumer(broker, "dropping", group="g", on_gap=found.append) as consumer:
            assert read(consumer, 1) == [first - 1]
        assert first > 2
        assert found == [Gap("", 0, 0, 2, first - 2, Position("dropping", 0, first))]
        broker.delete("dropping")


def test_a_group_of_the_topics_own_has_missed_what_went_before_it_ever_came(broker: Broker) -> None:
    broker.ensure(Topic("t", groups=("late",)))
    out = Writer(broker)
    for number in range(4):
        out.send(number)
    broker.cut("t", {0: 2})
    found: list[Gap] = []
    with Consumer(broker, "t", group="late", on_gap=found.append) as consumer:
        assert read(consumer, 2) == [2, 3]
    assert found == [Gap("", 0, 0, 1, 2, Position("t", 0, 3))]


def test_what_a_member_has_in_hand_is_not_missed(broker: Broker) -> None:
    out = Writer(broker)
    for number in range(4):
        out.send(number)
    found: list[Gap] = []
    with Consumer(broker, "t", group="g", on_gap=found.append) as first:
        held = first.fetch(1, 5)
        held[0].ack()
        first.flush()
        held = [*first.fetch(1, 5), *first.fetch(1, 5)]
        broker.cut("t", {0: 3})
        with Consumer(broker, "t", group="g", on_gap=found.append):
            assert found == []
        for item in held:
            item.ack()


def test_who_has_no_function_for_gaps_has_observers_told(broker: Broker) -> None:
    out = Writer(broker)
    out.send(0)
    with Consumer(broker, "t", group="g") as consumer:
        read(consumer, 1)
    for number in range(1, 4):
        out.send(number)
    broker.cut("t", {0: 3})
    told: list[str] = []

    def hear(span: Span) -> None:
        if isinstance(span.error, IntegrityError):
            told.append(str(span.error))

    stop = listen(hear)
    try:
        with Consumer(broker, "t", group="g") as consumer:
            assert read(consumer, 1) == [3]
        out.numbers[0] += 5
        out.send("later")
        with Consumer(broker, "t", observe=True) as reader:
            assert read(reader, 2) == [3, "later"]
    finally:
        stop()
    assert told == [
        "Up to 2 records of t/0, from offset 2 on, went before group g had read them: it goes on at t/0@4.",
        "Producer p skipped 5 events from 4 before t/0@5.",
    ]
