"""Objects stay for a group that goes back: what it acknowledged, and is to read again, is released once it has."""

from __future__ import annotations

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.errors import ObjectReleased, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, LATEST, Start, Topic
from proxyfab.patterns import Consumer
from proxyfab.patterns.stream.releaser import Releaser
from proxyfab.patterns.stream.releasing import sweep
from proxyfab.testing import until
from proxyfab.testing.content import held
from tests.patterns.stream.events_at_hand import ack, fetch, publish, release


class Failing:
    """Whoever confirms, while the broker cannot be reached."""

    fails = True

    def __call__(self) -> None:
        if self.fails:
            raise ProxyfabError("not now")


def seek(broker: Broker, start: Start) -> None:
    """Another member of group a moves it: whoever releases knows nothing of it."""
    with broker.subscribe("t", group="a") as another:
        another.seek(start)


@pytest.fixture
def waited_for(broker: Broker, store: Store) -> Topic:
    """Four objects for groups a and z."""
    topic = broker.ensure(Topic("t", groups=("a", "z")))
    for n in range(4):
        publish(broker, "t", [np.full(1000, n)], store=store)
    return topic


@pytest.mark.parametrize(("start", "left"), [(EARLIEST, 4), (0.0, 4), ({0: 3}, 2), (LATEST, 0)])
def test_what_a_group_wants_again_stays_until_it_has_read_it_again(
    broker: Broker, store: Store, waited_for: Topic, start: Start, left: int
) -> None:
    releaser = Releaser(broker, waited_for, "a")
    releaser.told(ack(broker, "t", "a"))
    releaser.work()
    seek(broker, start)
    release(broker, waited_for, "z")
    releaser.work()
    assert held(store) == left
    assert len(sweep(broker, "t")) == 0

    releaser.told(ack(broker, "t", "a"))
    releaser.close()
    assert held(store) == 0
    assert releaser._waiting == []


def test_a_group_whose_floor_never_moved_goes_back(broker: Broker, store: Store, waited_for: Topic) -> None:
    releaser = Releaser(broker, waited_for, "a")
    member, hands = fetch(broker, "t", "a")
    with member:
        member.ack([hand.delivery for hand in hands[1:]])
        releaser.told(hands[1:])
        releaser.work()
        seek(broker, EARLIEST)
        ack(broker, "t", "z")
        releaser.work()
        assert held(store) == 4
    releaser.told(ack(broker, "t", "a"))
    releaser.close()
    assert held(store) == 0


def test_a_group_that_moves_again_and_again(broker: Broker, store: Store, waited_for: Topic) -> None:
    releaser = Releaser(broker, waited_for, "a")
    for _ in range(3):
        releaser.told(ack(broker, "t", "a"))
        releaser.work()
        seek(broker, EARLIEST)
        assert len(releaser._waiting) == 4, "what is read again waits once"
    ack(broker, "t", "z")
    releaser.work()
    assert held(store) == 4

    releaser.told(ack(broker, "t", "a"))
    releaser.close()
    assert held(store) == 0


def test_a_seek_before_what_was_acknowledged_is_looked_at(broker: Broker, store: Store, waited_for: Topic) -> None:
    def meanwhile() -> None:
        seek(broker, EARLIEST)
        ack(broker, "t", "z")

    releaser = Releaser(broker, waited_for, "a", meanwhile)
    releaser.told(ack(broker, "t", "a"))
    releaser.close()

    assert held(store) == 4
    assert release(broker, waited_for, "a").released == 4


@pytest.mark.parametrize("ordered", [False, True])
def test_a_consumer_says_that_its_group_moves(broker: Broker, store: Store, waited_for: Topic, ordered: bool) -> None:
    with Consumer(broker, "t", group="a", ordered=ordered) as frames:
        frames.fetch(1, 5)[0].ack()
        releaser = frames._supply._releaser
        assert releaser is not None
        assert until(lambda: len(releaser._waiting) == 1, 5)
        with releaser._turn:  # it is busy
            for _ in range(3):
                frames.fetch(1, 5)[0].ack()
            assert until(lambda: len(releaser._new) == 3, 5)
            frames.seek({0: 2})
            ack(broker, "t", "z")
        releaser.work()
        assert held(store) == 3
        for n in (1, 2, 3):
            (item,) = frames.fetch(1, 5)
            assert item.get()[0] == n
            item.ack()
    assert held(store) == 0


def test_a_seek_while_the_broker_cannot_be_reached(broker: Broker, store: Store, waited_for: Topic) -> None:
    releaser = Releaser(broker, waited_for, "a", confirm := Failing())
    hands = ack(broker, "t", "a")
    releaser.told(hands)
    with pytest.raises(ProxyfabError, match="not now"):
        releaser.work()
    seek(broker, EARLIEST)
    ack(broker, "t", "z")
    confirm.fails = False
    releaser.close()

    assert held(store) == 4
    assert release(broker, waited_for, "a").released == 4


@pytest.mark.parametrize("looked", [True, False])
def test_what_was_fetched_before_another_member_s_seek(
    broker: Broker, store: Store, waited_for: Topic, looked: bool
) -> None:
    ack(broker, "t", "z")
    releaser = Releaser(broker, waited_for, "a")
    member, hands = fetch(broker, "t", "a")
    with member:
        if looked:
            member.ack([hands[0].delivery])
            releaser.told(hands[:1])
            releaser.work()
        seek(broker, EARLIEST)
        member.ack([hand.delivery for hand in hands[1:]])  # does nothing
        releaser.told(hands[1:])
        releaser.work()
    assert held(store) == (3 if looked else 4)
    releaser.told(ack(broker, "t", "a"))
    releaser.close()
    assert held(store) == 0


def test_what_had_gone_before_a_seek_says_so(broker: Broker, store: Store, waited_for: Topic) -> None:
    ack(broker, "t", "z")
    with Consumer(broker, "t", group="a") as frames:
        for item in frames.fetch(2, 5):
            item.ack()
        assert until(lambda: held(store) == 2, 5)
        frames.seek(EARLIEST)
        again = [item for _ in range(4) for item in frames.fetch(1, 5)]
        for n in (0, 1):
            with pytest.raises(ObjectReleased, match=f"t/0@{n + 1}"):
                again[n].get()
        assert [again[n].get()[0] for n in (2, 3)] == [2, 3]
        for item in again:
            item.ack()
    assert held(store) == 0
