"""What the suite publishes and takes: records that tell who they are, and taking with a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from proxyfab.events.broker import Broker, Subscription
from proxyfab.events.model import Delivery, Position, Record

QUIET = 0.3
"""Seconds in which nothing comes where nothing is to come."""


def records(count: int, start: int = 0, *, partition: int = 0, nbytes: int = 0) -> list[Record]:
    """Records that say their number."""
    return [Record(b"%d" % number + bytes(nbytes), partition=partition) for number in range(start, start + count)]


def fill(broker: Broker, topic: str, count: int, start: int = 0, *, partition: int = 0) -> list[Position]:
    """Publish numbered records; where they lie."""
    return broker.publish(topic, records(count, start, partition=partition))


def numbers(deliveries: Iterable[Delivery]) -> list[int]:
    """Which records these are."""
    return [int(each.body.rstrip(b"\0")) for each in deliveries]


def bodies(deliveries: Iterable[Delivery]) -> list[bytes]:
    """What came."""
    return [bytes(each.body) for each in deliveries]


def take(subscription: Subscription, count: int, seconds: float, most: int = 64) -> list[Delivery]:
    """So many deliveries, or as many as came in time. Not acknowledged."""
    found: list[Delivery] = []
    until = time.monotonic() + seconds
    while len(found) < count and (left := until - time.monotonic()) > 0:
        found += subscription.fetch(min(most, count - len(found)), left)
    return found


def settle(subscription: Subscription, count: int, seconds: float) -> list[Delivery]:
    """The same, acknowledged, and the broker knows it."""
    found = take(subscription, count, seconds)
    subscription.ack(found)
    subscription.flush(seconds)
    return found


def nothing(subscription: Subscription, seconds: float = QUIET) -> bool:
    """Whether nothing comes."""
    return subscription.fetch(10, seconds) == []


def offsets(deliveries: Sequence[Delivery]) -> list[int]:
    """Where they lie in their partitions."""
    return [each.position.offset for each in deliveries]
