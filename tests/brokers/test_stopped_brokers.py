"""A fetch's deadline, at a server that is stopped (SIGSTOP): it holds, and nothing is lost or doubled by that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.brokers.redis.broker import RedisBroker
from proxyfab.brokers.zmq.broker import ZmqBroker
from proxyfab.errors import ConnectorError
from proxyfab.events.broker import Broker, Subscription
from proxyfab.events.model import Record, Topic
from proxyfab.testing.events import EventServer
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.processes import at_once, until
from proxyfab.testing.servers import RedisServer
from tests.stopping import DEADLINE, in_time, stopped

LONG = 600.0
"""Seconds to acknowledge: what comes again by itself comes after the test."""


class Place(NamedTuple):
    stop: Callable[[], None]
    go_on: Callable[[], None]
    open: Callable[[], Broker]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Place]]:
    with EventServer() as events, RedisServer() as redis, NatsServer() as nats:
        yield {
            "zmq": Place(events.pause, events.resume, lambda: ZmqBroker.from_url(events.url)),
            "redis": Place(redis.stop, redis.go_on, lambda: RedisBroker.from_url(redis.database())),
            "nats": Place(nats.stop, nats.go_on, lambda: NatsBroker.from_url(nats.url)),
        }


@pytest.fixture(params=["zmq", "redis", "nats"])
def place(request: pytest.FixtureRequest, servers: dict[str, Place]) -> Iterator[Place]:
    place = servers[request.param]
    yield place
    place.go_on()


@pytest.fixture
def broker(place: Place, request: pytest.FixtureRequest) -> Iterator[Broker]:
    with place.open() as broker:
        broker.ensure(Topic("t"))
        try:
            yield broker
        finally:
            place.go_on()
            broker.delete("t")


def _three(broker: Broker, member: Subscription) -> None:
    """Records for who has a connection already."""
    assert member.fetch(1, 0) == []
    broker.publish("t", [Record(b"%d" % number) for number in range(3)])


def _all(subscription: Subscription, number: int) -> list[bytes]:
    """What comes, in so many records; and nothing behind them."""
    found: list[bytes] = []
    assert until(lambda: len(found.__iadd__([each.body for each in subscription.fetch(9, 1.0)])) >= number)
    return found + [each.body for each in subscription.fetch(9, 0)]


def test_fetches_and_waits_keep_their_deadline(place: Place, broker: Broker) -> None:
    with (
        broker.subscribe("t", group="g", ack_wait=LONG) as member,
        broker.subscribe("t", group=None) as reader,
    ):
        state = broker.state("t")
        with stopped(place):
            for _ in range(2):  # on connections that stand, and on none
                in_time(lambda: member.fetch(1, DEADLINE))
                in_time(lambda: reader.fetch(1, DEADLINE))
                in_time(lambda: state.wait({"x": 0}, DEADLINE))
        broker.publish("t", [Record(b"x")])
        state.put("x", b"y")
        assert _all(member, 1) == _all(reader, 1) == [b"x"]
        assert state.wait({"x": 0}, 60)


def test_what_a_fetch_is_given_too_late_is_for_the_next_one(place: Place, broker: Broker) -> None:
    with broker.subscribe("t", group="g", ack_wait=LONG) as member:
        _three(broker, member)
        with stopped(place):
            in_time(lambda: member.fetch(2, DEADLINE))
            in_time(lambda: member.fetch(2, DEADLINE))
        found = member.fetch(9, 60)
        while len(found) < 3:
            found += member.fetch(9, 60)
        assert [each.body for each in found] == [b"0", b"1", b"2"]
        assert [each.attempt for each in found] == [1, 1, 1]
        member.ack(found)
        member.flush()
        assert member.fetch(9, 0) == []
        assert until(lambda: member.info().pending == 0)


def test_what_was_given_too_late_to_who_is_closed_goes_to_others(place: Place, broker: Broker) -> None:
    with broker.subscribe("t", group="g", ack_wait=LONG) as other:
        member = broker.subscribe("t", group="g", ack_wait=LONG)
        assert member.fetch(1, 0) == []
        broker.publish("t", [Record(b"x")])
        with stopped(place):
            in_time(lambda: member.fetch(1, DEADLINE))
        member.close()
        assert _all(other, 1) == [b"x"]


def test_what_comes_late_of_before_a_move_is_not_handed_out(place: Place, broker: Broker) -> None:
    with broker.subscribe("t", group="g", ack_wait=LONG) as member:
        _three(broker, member)
        with stopped(place):
            in_time(lambda: member.fetch(1, DEADLINE))
        member.seek({0: 3})
        assert _all(member, 1) == [b"2"]


def test_silence_is_not_taken_for_the_end_of_a_topic(place: Place, broker: Broker) -> None:
    broker.publish("t", [Record(b"x")])
    with broker.subscribe("t", group=None) as reader:
        assert [each.body for each in reader.fetch(9, 60)] == [b"x"]
        broker.publish("t", [Record(b"y")])
        place.stop()

        def go_on() -> None:
            time.sleep(0.5)
            place.go_on()

        found, _ = at_once([lambda: reader.fetch_surely(9, 0.05), go_on])
        assert [each.body for each in found] == [b"y"]


@pytest.mark.slow
def test_who_waits_for_short_times_only_is_told_of_a_dead_server_all_the_same(place: Place, broker: Broker) -> None:
    with broker.subscribe("t", group="g", ack_wait=LONG) as member, broker.subscribe("t", group=None) as reader:
        for each in (member, reader):
            each.fetch(1, 0.01)
            with stopped(place):
                began = time.monotonic()
                with pytest.raises(ConnectorError):
                    while time.monotonic() - began < 60:
                        each.fetch(1, 0.05)
                assert time.monotonic() - began < 30
            assert until(lambda each=each: _answers(each))
        broker.publish("t", [Record(b"x")])
        assert _all(member, 1) == _all(reader, 1) == [b"x"]


def _answers(one: Subscription) -> bool:
    try:
        return not one.fetch(1, 0.05)
    except ConnectorError:
        return False
