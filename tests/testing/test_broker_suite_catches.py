"""The suite of brokers is worth something: those that break one rule each are caught by the test of that rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import BackPressureError, TopicNotFound
from proxyfab.events.broker import TIMEOUT
from proxyfab.events.model import Delivery, GroupInfo, Position, Record, Topic
from proxyfab.testing import BrokerTests


class Suite(BrokerTests):
    """Not collected by its name; its methods are called below."""

    __test__ = False
    crosses_processes = False
    patience = 1.5


class Wrapped(MemoryBroker):
    """Its subscriptions can be changed."""

    change: Callable[[Any], None]

    def subscribe(self, topic: str, **options: Any) -> Any:
        found = super().subscribe(topic, **options)
        type(self).change(found)
        return found


def changing(change: Callable[[Any], None]) -> type[MemoryBroker]:
    return type("Changed", (Wrapped,), {"change": staticmethod(change)})


def loses_acks(member: Any) -> None:
    member.ack = lambda deliveries: None


def keeps_on_close(member: Any) -> None:
    member.close = lambda: setattr(member, "_closed", True)


def delivers_twice(member: Any) -> None:
    fetch, again = member.fetch, itertools.count()
    held: list[Delivery] = []

    def twice(most: int, timeout: float) -> list[Delivery]:
        found: list[Delivery] = held[:1] if held and next(again) % 2 else fetch(most, timeout)
        held[:] = found
        return found

    member.fetch = twice


def drops_notes(member: Any) -> None:
    nack = member.nack
    member.nack = lambda deliveries, delay=0.0, note=b"": nack(deliveries, delay=delay)


def forgets_delays(member: Any) -> None:
    nack = member.nack
    member.nack = lambda deliveries, delay=0.0, note=b"": nack(deliveries, note=note)


def never_extends(member: Any) -> None:
    member.extend = lambda deliveries: None


def reverses(member: Any) -> None:
    fetch = member.fetch
    member.fetch = lambda most, timeout: fetch(most, timeout)[::-1]


class ForgetsIds(MemoryBroker):
    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        return super().publish(topic, [record._replace(id="") for record in records])


class NeverFull(MemoryBroker):
    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:
        return super().ensure(Topic(topic.name, topic.partitions, groups=topic.groups), timeout=timeout)


class SwallowsFullness(MemoryBroker):
    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        try:
            return super().publish(topic, records)
        except BackPressureError:
            return [Position(topic, record.partition, 1) for record in records]


class CountsNothing(MemoryBroker):
    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:
        return {name: GroupInfo(info.floor, 0, 0) for name, info in super().groups(topic, timeout=timeout).items()}


class CountsNoDeliveries(MemoryBroker):
    one_count = True


class DeletesOnClose(MemoryBroker):
    def close(self) -> None:
        if not self.closed:
            for name in self.topics():
                self.delete(name)
        super().close()


CAUGHT: list[tuple[type[MemoryBroker], str]] = [
    (changing(loses_acks), "test_what_is_acknowledged_does_not_come_again"),
    (changing(keeps_on_close), "test_what_a_closed_member_held_comes_at_once"),
    (changing(delivers_twice), "test_order"),
    (changing(drops_notes), "test_it_comes_after_the_delay_with_its_note"),
    (changing(forgets_delays), "test_it_comes_after_the_delay_with_its_note"),
    (changing(never_extends), "test_who_extends_keeps_it"),
    (changing(reverses), "test_order"),
    (ForgetsIds, "test_an_id_is_taken_once"),
    (NeverFull, "test_a_full_topic_rejects"),
    (SwallowsFullness, "test_a_full_topic_rejects"),
    (CountsNothing, "test_how_far_a_group_is"),
    (CountsNoDeliveries, "test_deliveries_are_counted_where_offsets_have_gaps"),
    (DeletesOnClose, "test_close_deletes_nothing"),
]


def judge(kind: type[MemoryBroker], name: str) -> None:
    """Run one test of the suite at a broker of this kind."""
    suite, numbers = Suite(), itertools.count()
    with kind() as broker:
        opened: list[MemoryBroker] = []

        def join() -> MemoryBroker:
            opened.append(kind.from_url(broker.url))
            return opened[-1]

        def make(**options: Any) -> str:
            topic = f"judged-{next(numbers)}"
            broker.ensure(Topic(topic, **options))
            return topic

        test = getattr(suite, name)
        fixtures = {"broker": broker, "join": join, "make": make}
        wanted = test.__code__.co_varnames[1 : test.__code__.co_argcount]
        try:
            test(**{each: make() if each == "topic" else fixtures[each] for each in wanted})
        finally:
            for each in opened:
                each.close()


@pytest.mark.parametrize(("kind", "name"), CAUGHT, ids=[f"{number}-{name}" for number, (_, name) in enumerate(CAUGHT)])
def test_it_is_caught(kind: type[MemoryBroker], name: str) -> None:
    judge(MemoryBroker, name)
    with pytest.raises((AssertionError, pytest.fail.Exception, TopicNotFound)):
        judge(kind, name)
