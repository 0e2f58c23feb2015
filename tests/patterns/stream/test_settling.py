"""What a consumer counts as held, while others talk to the broker, and when it cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import ConnectorError
from proxyfab.events.broker import Subscription
from proxyfab.events.model import Delivery, GroupInfo, Record, Start, Topic
from proxyfab.patterns.stream.settling import Desk
from proxyfab.wire.events import VALUE, Event, Frame


@dataclass
class Meanwhile(Subscription):
    """A real subscription, and what happens while the broker is told something."""

    real: Subscription
    happens: Callable[[], object]
    told: list[str] = field(default_factory=list)

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        return self.real.fetch(most, timeout)

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        self.real.ack(deliveries)

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        self.told += [str(each.position) for each in deliveries]
        self.happens()

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        self.real.extend(deliveries)
        self.happens()

    def seek(self, start: Start) -> None:
        self.real.seek(start)

    def info(self) -> GroupInfo:
        return self.real.info()

    def close(self) -> None:
        self.real.close()


def buried(item: object, cause: str, trace: str) -> None:
    raise AssertionError(f"{item} was buried: {cause} {trace}")


@pytest.fixture
def desk() -> Desk:
    return Desk(ack_wait=30.0, attempts=3, bury=buried, observing=False)


def test_what_is_settled_while_more_time_is_asked_for_it_is_not_held_any_more(desk: Desk) -> None:
    with MemoryBroker() as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"1"), Record(b"2")])
        with broker.subscribe("t", group="g") as member:
            hands = desk.take(member.fetch(2, 1))
            for hand in hands:
                hand.begin()
                hand.begun(Frame("p", 0, 0, 0, "", [], [Event(VALUE, 1)]), [])

            def settle() -> None:
                hands[0].settle(0)
                desk.flush()

            desk.subscription = Meanwhile(member, settle)
            desk.extend(hands)

            info, held = desk.compared(member.info)
            assert (info.pending, held) == (1, [(0, 2)])
            desk.close()


def test_what_cannot_be_given_back_is_not_held_any_more(desk: Desk) -> None:
    def lost() -> None:
        raise ConnectorError("The broker is away.")

    with MemoryBroker() as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"%d" % number) for number in range(3)])
        with broker.subscribe("t", group="g") as member:
            hands = desk.take(member.fetch(3, 1))
            hands[1].done.add(0)  # goes back with a note of its own
            desk.subscription = away = Meanwhile(member, lost)
            with pytest.raises(ConnectorError):
                desk.give_back(hands)

            assert away.told == ["t/0@1", "t/0@3"]
            assert (desk.held(), desk.hands()) == ([], [])
            desk.close()


@pytest.mark.parametrize("late", [False, True])
def test_what_comes_again_while_it_is_here_is_handed_out_once(desk: Desk, late: bool) -> None:
    with MemoryBroker() as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"1"), Record(b"2"), Record(b"3")])
        with broker.subscribe("t", group="g") as member:
            desk.subscription = Meanwhile(member, lambda: None)
            begun, lapsed, waits = desk.take(member.fetch(3, 1))
            assert begun.begin()
            begun.begun(Frame("p", 0, 0, 0, "", [], [Event(VALUE, 1)]), [])
            if late:
                begun.settle(0)
            again = desk.take([hand.delivery._replace(attempt=2) for hand in (begun, lapsed)])
            if not late:
                begun.settle(0)

            assert [hand.begin() for hand in (lapsed, waits, *again)] == [False, True, False, True]
            assert [hand.replaced for hand in (begun, lapsed, waits, *again)] == [False, True, False, True, False]
            desk.flush()
            assert desk.held() == [(0, 2), (0, 3)]
            desk.close()


def test_what_comes_again_and_was_given_back_in_part_is_handed_out(desk: Desk) -> None:
    with MemoryBroker() as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"1")])
        with broker.subscribe("t", group="g") as member:
            desk.subscription = Meanwhile(member, lambda: None)
            (begun,) = desk.take(member.fetch(3, 1))
            assert begun.begin()
            begun.begun(Frame("p", 0, 0, 0, "", [], [Event(VALUE, 1), Event(VALUE, 2)]), [])
            (again,) = desk.take([begun.delivery._replace(attempt=2)])
            begun.settle(0)
            begun.give_back(None, 1, 0.0)
            assert begun.over
            assert again.begin()
            desk.close()


def test_what_waited_longer_than_its_time_is_not_begun(desk: Desk) -> None:
    """The keeper stood still with its process: others have it by now. What was begun may still be settled."""
    with MemoryBroker() as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"%d" % number) for number in range(4)])
        with broker.subscribe("t", group="g") as member:
            desk.subscription = member
            begun, late, later, fine = desk.take(member.fetch(4, 1))
            assert begun.begin()
            for hand in (begun, late, later):
                hand.deadline = 0.0
            assert desk.lapsed(late), "who hands out looks first"
            desk.beat()
            assert not desk.lapsed(fine)
            assert [hand.begin() for hand in (late, later, fine)] == [False, False, True]
            assert desk.hands() == [fine]
            assert desk.returned(0), "it is still to come"
            assert not begun.over
            desk.close()
