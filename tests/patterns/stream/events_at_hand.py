"""Events put and taken by hand, for tests of what stands beside producers and consumers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

from proxyfab import Ref, Store
from proxyfab.events.broker import Broker
from proxyfab.events.model import Delivery, Position, Record, Topic
from proxyfab.patterns.stream.references import state_of
from proxyfab.patterns.stream.releaser import Releaser
from proxyfab.wire.events import END, OBJECT, VALUE, Event, Frame, decode, encode

_numbers = itertools.count()


class Hand(NamedTuple):
    """A frame that was fetched."""

    delivery: Delivery
    frame: Frame


def publish(
    broker: Broker,
    topic: str,
    objects: Iterable[Any],
    *,
    store: Store | None = None,
    producer: str = "p",
    partition: int = 0,
    first: int | None = None,
    keep: bool = False,
    end: bool = False,
) -> Position:
    """One frame: each object in the store if it is none of text and numbers, a Ref as it is."""
    objects = list(objects)
    number = next(_numbers) * 1000 if first is None else first
    stores: list[str] = []
    events = []
    for obj in objects:
        if isinstance(obj, str | bytes | int | None):
            events.append(Event(VALUE, obj))
            continue
        assert store is not None or isinstance(obj, Ref)
        ref = obj if isinstance(obj, Ref) else store.ref(obj, ttl=3600)  # type: ignore[union-attr]  # its own
        if ref.url not in stores:
            stores.append(ref.url)
        events.append(Event(OBJECT, state_of(ref, stores.index(ref.url)), attributes={"keep": "1"} if keep else None))
    if end:
        events.append(Event(END))
    frame = Frame(producer, 0, partition, number, "", stores, events)
    (position,) = broker.publish(topic, [Record(encode(frame), frame.id, partition)])
    return position


def fetch(broker: Broker, topic: str, group: str | None, most: int = 100) -> tuple[Any, list[Hand]]:
    """A subscription and what it got; close it."""
    member = broker.subscribe(topic, group=group)
    found = member.fetch(most, 2)
    return member, [Hand(delivery, decode(delivery.body)) for delivery in found]


def ack(broker: Broker, topic: str, group: str) -> list[Hand]:
    """Everything there is, acknowledged."""
    member, hands = fetch(broker, topic, group)
    with member:
        member.ack([hand.delivery for hand in hands])
    return hands


def release(broker: Broker, topic: Topic, group: str) -> Releaser:
    """One round of a consumer: everything acknowledged, then released."""
    releaser = Releaser(broker, topic, group)
    releaser.told(ack(broker, topic.name, group))
    releaser.close()
    return releaser
