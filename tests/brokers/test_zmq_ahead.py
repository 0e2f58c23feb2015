"""What a member over ZeroMQ has asked for ahead: it comes with the next fetch, and is lost to nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab.brokers.zmq import ZmqBroker
from proxyfab.events.model import EARLIEST, Record, Topic
from proxyfab.patterns import Consumer, Producer
from proxyfab.testing import until
from proxyfab.testing.events import EventServer


@pytest.fixture(scope="module")
def server() -> Iterator[EventServer]:
    with EventServer() as server:
        yield server


@pytest.fixture
def broker(server: EventServer) -> Iterator[ZmqBroker]:
    with ZmqBroker.from_url(server.url) as broker:
        yield broker


@pytest.fixture
def topic(broker: ZmqBroker) -> Iterator[str]:
    name = broker.ensure(Topic("ahead")).name
    broker.publish(name, [Record(bytes([number])) for number in range(6)])
    yield name
    broker.delete(name)


def test_it_comes_with_the_next_fetch_whatever_is_said_meanwhile(broker: ZmqBroker, topic: str) -> None:
    with broker.subscribe(topic, group="g") as member:
        first = member.fetch(2, 5.0)

        assert member.ahead(3)
        assert not member.ahead(3)
        member.ack(first)
        member.flush(5.0)
        assert member.info().pending == 3
        found = member.fetch(1, 5.0)
        last = member.fetch(9, 5.0)

    assert [each.body[0] for each in (*first, *found, *last)] == [0, 1, 2, 3, 4, 5]


def test_where_there_was_nothing_the_next_fetch_waits(broker: ZmqBroker, topic: str) -> None:
    with broker.subscribe(topic, group="g") as member:
        member.ack(member.fetch(6, 5.0))
        assert member.ahead(3)
        assert member.info().pending == 0
        broker.publish(topic, [Record(b"new")])

        assert [each.body for each in member.fetch(3, 5.0)] == [b"new"]


def test_what_was_acknowledged_since_is_not_confirmed_by_it(broker: ZmqBroker, topic: str) -> None:
    with broker.subscribe(topic, group="g") as member, broker.subscribe(topic, group="g") as other:
        first = member.fetch(2, 5.0)
        assert member.ahead(1)
        member.ack(first)
        rest = member.fetch(1, 5.0)
        member.flush(5.0)  # asks, as no later answer has said so

        assert other.info().pending == len(rest) == 1


def test_who_leaves_gives_it_back_and_who_seeks_forgets_it(broker: ZmqBroker, topic: str) -> None:
    with broker.subscribe(topic, group="g") as member:
        member.ack(member.fetch(2, 5.0))
        assert member.ahead(2)
        member.seek(EARLIEST)
        assert [each.body[0] for each in member.fetch(2, 5.0)] == [0, 1]
        assert member.ahead(2)
        assert until(lambda: member.info().pending == 4)

    with broker.subscribe(topic, group="g") as other:
        found = sorted([each.body[0] for each in (*other.fetch(9, 5.0), *other.fetch(9, 0.0))])
        assert found == [0, 1, 2, 3, 4, 5]


def test_a_consumer_that_is_closed_amid_much_leaves_everything_untouched(broker: ZmqBroker) -> None:
    count, topic = 40_000, "ahead-much"
    asked = 0
    with Producer(broker, topic, groups=["g"]) as out:
        for number in range(count):
            out.send(b"%d" % number)
    seen: set[int] = set()
    with Consumer(broker, topic, group="g", timeout=30.0) as consumer:
        for item in consumer:
            seen.add(int(item.get()))
            item.ack()
            asked += consumer._supply._ahead is not None
            if asked > 1000:
                break
    assert asked, "nothing was asked for ahead"
    again: set[int] = set()
    with Consumer(broker, topic, group="g", timeout=30.0) as consumer:
        while len(seen) < count:
            for item in consumer.fetch(512, 30.0):
                if item.attempt > 1:
                    again.add(item.position.offset)
                assert int(item.get()) not in seen
                seen.add(int(item.get()))
                item.ack()
    assert len(again) <= 1, "only the frame that was begun had an attempt"
    broker.delete(topic)
