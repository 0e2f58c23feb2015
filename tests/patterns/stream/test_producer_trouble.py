"""Producers when the broker is slow, full, dead or refuses: nothing hangs, goes in silence, or comes twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.errors import (
    AccessDenied,
    BackPressureError,
    CapacityError,
    ConnectorError,
    LifetimeEnded,
    ProxyfabError,
    ResolveTimeout,
    StaleEpoch,
    TopicNotFound,
)
from proxyfab.events.model import Capability, Record, Topic
from proxyfab.patterns.stream import Producer
from proxyfab.testing.content import held
from proxyfab.testing.processes import until
from proxyfab.wire.events import decode
from tests.patterns.stream_reading import PATIENCE, Moody, events, frames, objects


@pytest.fixture
def broker() -> Iterator[Moody]:
    with Moody() as broker:
        yield broker
        broker.gate.set()


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("memory://") as store:
        yield store
        store.clear()


def raising(error: Exception, times: int = 1 << 30) -> Callable[[Sequence[Record]], None]:
    left = [times]

    def mood(_: Sequence[Record]) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error

    return mood


# -- too much --------------------------------------------------------------------------------------------------------


def test_a_full_producer_blocks_until_there_is_room(broker: Moody) -> None:
    with Producer(broker, "frames", most_events=10, timeout=PATIENCE) as out:
        for number in range(1000):
            out.send(number)
            assert out._gathering.held <= 10

    assert objects(broker, "frames") == list(range(1000))


def test_blocking_ends_with_an_error(broker: Moody) -> None:
    with Producer(broker, "frames", most_events=10, timeout=0.1) as out:
        broker.gate.clear()
        for number in range(10):
            out.send(number)
        with pytest.raises(BackPressureError, match="was not taken"):
            out.send(10)
        broker.gate.set()
        out.flush(PATIENCE)

    assert objects(broker, "frames") == list(range(10))


def test_a_full_producer_can_say_so_at_once(broker: Moody, store: Store) -> None:
    with Producer(broker, "frames", store=store, most_bytes="1 KB", full="error") as out:
        broker.gate.clear()
        out.send(b"x" * 1500)
        for obj in (1, np.arange(50_000)):
            with pytest.raises(BackPressureError, match="1 events of 15.. bytes for topic frames"):
                out.send(obj)
        broker.gate.set()

    assert held(store) == 0


def test_the_oldest_can_go_for_the_newest(broker: Moody, store: Store) -> None:
    with Producer(broker, "frames", store=store, most_events=200, full="drop_oldest") as out:
        first = out.send(0)
        assert broker.waits.acquire(timeout=PATIENCE)
        first.result(PATIENCE)
        broker.gate.clear()
        out.send(1)
        assert broker.waits.acquire(timeout=PATIENCE)
        dropped = out.send(np.arange(50_000))
        for number in range(1000):
            out.send(number)
        with pytest.raises(BackPressureError, match="dropped for newer ones"):
            dropped.result(PATIENCE)
        assert until(lambda: held(store) == 0, PATIENCE)
        broker.gate.set()
        out.flush(PATIENCE)
        count = out.dropped

    came = objects(broker, "frames")
    assert came[:2] == [0, 1]
    assert came[2:] == list(range(1000 - len(came) + 2, 1000))
    assert 200 - 64 <= len(came) - 2 <= 200
    assert count + len(came) == 1003
    assert [frame.first for frame in frames(broker, "frames")][-1] < len(came)  # what is dropped has no number


def test_with_little_room_the_newest_stay_all_the_same(broker: Moody) -> None:
    """They went by frames, and one frame was all that there may be."""
    with Producer(broker, "frames", most_events=16, full="drop_oldest") as out:
        out.send("first").result(PATIENCE)
        assert broker.waits.acquire(timeout=PATIENCE)
        broker.gate.clear()
        out.send("under way")
        assert broker.waits.acquire(timeout=PATIENCE)
        for number in range(97):
            out.send(number)
        assert out.waiting - 1 + out.dropped == 97
        broker.gate.set()
        out.flush(PATIENCE)

    came = objects(broker, "frames")
    assert came[2:] == list(range(99 - len(came), 97))
    assert 14 <= len(came) - 2 <= 16


def test_a_full_topic_is_waited_for(broker: Moody) -> None:
    broker.before = raising(BackPressureError("Topic frames is full."), 3)
    with Producer(broker, "frames") as out:
        out.send(1)
        out.flush(PATIENCE)

    assert objects(broker, "frames") == [1]


def test_or_not(broker: Moody) -> None:
    broker.before = raising(BackPressureError("Topic frames is full."), 1)
    with Producer(broker, "frames", full="error") as out:
        receipt = out.send(1)
        with pytest.raises(BackPressureError, match="Topic frames is full"):
            receipt.result(PATIENCE)
        with pytest.raises(BackPressureError, match="1 events for topic frames were not acknowledged by memory://"):
            out.send(2)
        out.send(3)

    assert objects(broker, "frames") == [3]


# -- not reached -----------------------------------------------------------------------------------------------------


def test_what_was_not_answered_is_sent_again_with_the_same_ids_and_is_there_once(broker: Moody) -> None:
    broker.before = raising(ConnectorError("gone"), 2)
    broker.after = raising(ConnectorError("gone before it answered"), 2)
    with Producer(broker, "frames") as out:
        for number in range(100):
            out.send(number)

    assert objects(broker, "frames") == list(range(100))
    assert len(broker.calls) >= 5
    assert broker.calls[0] == broker.calls[1] == broker.calls[2]


def test_a_dead_broker_is_given_up_and_told_of_at_the_next_send_flush_or_close(broker: Moody, store: Store) -> None:
    out = Producer(broker, "frames", store=store, timeout=0.2)
    out.send(0).result(PATIENCE)
    broker.before = raising(ConnectorError("nobody there"))

    receipt = out.send(np.arange(50_000))
    with pytest.raises(ConnectorError, match="nobody there"):
        receipt.result(PATIENCE)
    with pytest.raises(
        ConnectorError, match="1 events for topic frames were not acknowledged by memory://.*nobody there"
    ):
        out.send(2)
    out.send(3)
    with pytest.raises(ConnectorError, match="1 events for topic frames"):
        out.flush(PATIENCE)
    out.send(4)
    with pytest.raises(ConnectorError, match="1 events for topic frames"):
        out.close()
    out.close()

    assert objects(broker, "frames") == [0]
    assert held(store) == 1  # a stray: who does not answer may have the event


def test_an_event_that_may_be_there_keeps_its_object(broker: Moody, store: Store) -> None:
    """Its group would find it and its object gone, otherwise; if it is not there the object is a stray."""
    out = Producer(broker, "frames", store=store, timeout=0.2)
    broker.after = raising(ConnectorError("gone before it answered"))
    receipt = out.send(np.arange(50_000))
    with pytest.raises(ConnectorError):
        receipt.result(PATIENCE)
    with pytest.raises(ConnectorError, match="1 events"):
        out.flush()
    broker.before, broker.after = raising(AccessDenied("Not you.")), lambda _: None
    refused = out.send(np.arange(60_000))
    with pytest.raises(AccessDenied):
        refused.result(PATIENCE)

    assert until(lambda: held(store) == 1, PATIENCE)
    assert [len(each) for each in objects(broker, "frames")] == [50_000]
    with pytest.raises(AccessDenied, match="1 events"):
        out.close()


def test_what_lies_before_a_successor_began_keeps_its_object(broker: Moody, store: Store) -> None:
    with Producer(broker, "frames", store=store, name="detector") as successor:

        def succeed(_: Sequence[Record]) -> None:
            broker.after = lambda _: None
            successor.send("next").result(PATIENCE)

        out = Producer(broker, "frames", store=store, name="detector")
        broker.after = succeed
        receipt = out.send(np.arange(50_000))
        with pytest.raises(StaleEpoch):
            receipt.result(PATIENCE)
        with pytest.raises(StaleEpoch):
            out.close()

    first, second = objects(broker, "frames")
    assert (len(first), second) == (50_000, "next")


def test_a_flush_that_does_not_wait_that_long_drops_nothing(broker: Moody) -> None:
    with Producer(broker, "frames") as out:
        out.send(0).result(PATIENCE)
        broker.gate.clear()
        out.send(1)
        with pytest.raises(ResolveTimeout, match="1 events for topic frames .* still tried"):
            out.flush(0.05)
        broker.gate.set()

    assert objects(broker, "frames") == [0, 1]


def test_a_close_that_does_not_wait_that_long_says_what_it_gives_up(broker: Moody, store: Store) -> None:
    out = Producer(broker, "frames", store=store)
    out.send(0).result(PATIENCE)
    broker.before = raising(ConnectorError("nobody there"))
    receipt = out.send(np.arange(50_000))

    started = time.monotonic()
    with pytest.raises(ResolveTimeout, match="1 events for topic frames"):
        out.close(0.05)

    assert time.monotonic() - started < PATIENCE
    with pytest.raises(ProxyfabError):
        receipt.result(PATIENCE)


def test_a_broker_that_comes_late_is_waited_for(broker: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure, late = broker.ensure, raising(ConnectorError("not yet"), 3)

    def slow(topic: Topic) -> Topic:
        late(())
        return ensure(topic)

    monkeypatch.setattr(broker, "ensure", slow)
    with Producer(broker, "frames") as out:
        out.send(1)

    assert objects(broker, "frames") == [1]


def test_or_it_is_not(broker: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "ensure", raising(ConnectorError("never")))  # type: ignore[arg-type]
    with Producer(broker, "frames", timeout=0.1) as out, pytest.raises(ConnectorError, match="never"):
        out.send(1)


# -- refused ---------------------------------------------------------------------------------------------------------


def test_one_frame_answers_for_no_other(broker: Moody, store: Store) -> None:
    def refuse(records: Sequence[Record]) -> None:
        for record in records:
            if any(event.key == "bad" for event in decode(record.body).events):
                raise CapacityError("A record is too large.")

    broker.before = refuse
    out = Producer(broker, "frames", store=store, partitions=4)
    out.send("first").result(PATIENCE)
    broker.gate.clear()
    out.send("second")
    receipts = [out.send(number, partition=number) for number in range(3)]
    bad = out.send(np.arange(50_000), partition=3, key="bad")
    broker.gate.set()

    assert [receipt.result(PATIENCE).partition for receipt in receipts] == [0, 1, 2]
    with pytest.raises(CapacityError):
        bad.result(PATIENCE)
    with pytest.raises(CapacityError, match="1 events for topic frames"):
        out.close()
    assert len(events(broker, "frames")) == 5
    assert until(lambda: held(store) == 0, PATIENCE)


def test_a_refusal_is_final(broker: Moody) -> None:
    for error in (AccessDenied("Not you."), ValueError("a fault of the broker's")):
        with Producer(broker, "frames") as out:
            out.send(0).result(PATIENCE)
            broker.before = raising(error, 1)
            with pytest.raises(ProxyfabError, match="Not you|a fault of the broker's"):
                out.send(1).result(PATIENCE)
            with pytest.raises(ProxyfabError, match="1 events"):
                out.flush()


def test_a_topic_that_was_deleted(broker: Moody) -> None:
    with Producer(broker, "frames") as out:
        out.send(0).result(PATIENCE)
        broker.delete("frames")
        out.send(1)
        with pytest.raises(TopicNotFound, match="no topic frames"):
            out.flush(PATIENCE)


def test_abort_sends_nothing_more(broker: Moody, store: Store) -> None:
    out = Producer(broker, "frames", store=store, linger=60)
    receipt = out.send(np.arange(50_000))

    assert out.abort() == 1

    with pytest.raises(LifetimeEnded, match="aborted"):
        receipt.result()
    with pytest.raises(LifetimeEnded, match="aborted"):
        out.send(1)
    assert until(lambda: held(store) == 0, PATIENCE)


# -- how soon --------------------------------------------------------------------------------------------------------


def test_a_lone_event_goes_at_once_and_many_wait_for_the_one_under_way(broker: Moody) -> None:
    with Producer(broker, "frames") as out:
        for _ in range(5):
            out.send(0).result(PATIENCE)
        calls = len(broker.calls)
        broker.gate.clear()
        for number in range(500):
            out.send(number)
        broker.gate.set()
        out.flush(PATIENCE)

    assert calls == 5
    assert len(broker.calls) - calls <= 4


def test_events_can_linger_for_others(broker: Moody) -> None:
    with Producer(broker, "frames", linger=0.2) as out:
        started = time.monotonic()
        first = out.send(1)
        second = out.send(2)
        assert first.result(PATIENCE)._replace(event=1) == second.result(PATIENCE)
        assert time.monotonic() - started >= 0.2
        for number in range(64):  # a full frame lingers for nobody
            last = out.send(number)
        last.result(0.19)


def test_a_broker_without_values(broker: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moody, "capabilities", Capability.PARTITIONS)
    with Producer(broker, "frames", name="detector") as out:
        out.send(1)
        out.end()

    assert frames(broker, "frames")[0].epoch > 0
    assert broker.state("frames").items() == {}
