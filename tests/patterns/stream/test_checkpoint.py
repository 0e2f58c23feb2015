"""Checkpoints: whatever happens, and whenever, each event counts once, and each output is there once."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import (
    CapacityError,
    ConfigurationError,
    Conflict,
    ConnectorError,
    LifetimeEnded,
    SerializationError,
)
from proxyfab.events.broker import Broker
from proxyfab.events.model import Topic
from proxyfab.patterns.stream.checkpoint import Checkpoint
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.outputs import Output
from proxyfab.testing.content import held
from tests.patterns.stream.doom import Crash, Doom, DoomedBroker, doomed_store
from tests.patterns.stream.events_at_hand import publish

COUNT = 9


@pytest.fixture
def broker() -> Iterator[Broker]:
    with MemoryBroker() as broker:
        broker.ensure(Topic("in"))
        broker.ensure(Topic("out"))
        yield broker


@pytest.fixture
def place() -> Iterator[str]:
    """The name of a place for objects that outlives processes."""
    name = f"cp-{uuid.uuid4().hex[:8]}"
    yield name
    with Store(f"memory://{name}") as store:
        store.clear()


def feed(broker: Broker, count: int = COUNT, *, end: bool = True) -> None:
    """Numbers from 0 on, three to a frame."""
    for first in range(0, count, 3):
        publish(broker, "in", range(first, min(first + 3, count)), first=first, end=end and first + 3 >= count)
    if end:
        broker.state("in").put("producers/p", _value(ended=True))


def _value(*, ended: bool) -> bytes:
    import msgspec

    return msgspec.msgpack.encode({"epoch": 0, "ended": ended, "at": 0.0})


def outputs(broker: Broker, topic: str = "out") -> list[Any]:
    with Consumer(broker, topic, observe=True, timeout=1) as reader:
        found = []
        with contextlib.suppress(TimeoutError):
            for item in reader:
                obj = item.get()
                found.append(int(obj[0]) if isinstance(obj, np.ndarray) else obj)
        return found


def objects(place: str) -> int:
    with Store(f"memory://{place}") as store:
        return held(store)


def work(broker: Broker, doom: Doom, place: str, *, large_state: bool = False) -> None:
    """One process's life: sums up numbers, and sends each on as an array, and each sum as a number."""
    mine = DoomedBroker(broker, doom)
    store = doomed_store(doom, place)
    consumer = Consumer(mine, "in", group="g", timeout=5)
    try:
        with Checkpoint(consumer, "sum", initial=None, store=store, above=100, timeout=0.1) as point:
            total = 0 if point.state is None else int(point.state[0])
            sent: list[Any] = []
            for item in point:
                total += item.proxy
                sent += [("out", np.full(50, item.proxy), {"n": item.proxy}), ("out", f"seen {item.proxy}")]
                if len(sent) >= 8:
                    point.commit(_state(total, large_state), sent)
                    sent = []
            point.commit(_state(total, large_state), sent, end=True)
        consumer.close()
    finally:
        if not doom.dead:
            doom.die()


def _state(total: int, large: bool) -> Any:
    return np.full(10_000 if large else 3, total)


def steps(broker: Broker, place: str, **options: Any) -> int:
    doom = Doom(None)
    work(broker, doom, place, **options)
    return doom.steps


def check(broker: Broker, place: str, *, stored_state: bool) -> None:
    expected: list[Any] = [*range(COUNT)] + [f"seen {n}" for n in range(COUNT)]
    assert sorted(map(str, outputs(broker))) == sorted(map(str, expected))
    with Store(f"memory://{place}", inline_below=0) as store:
        point = Checkpoint(Consumer(broker, "in", group="g"), "sum", store=store)
        assert int(point.state[0]) == sum(range(COUNT))
        assert point.ended
        point.close()
        point.consumer.close()
    assert broker.groups("in")["g"].lag == 0
    assert objects(place) == COUNT + stored_state


@pytest.mark.parametrize("large", [False, True])
def test_a_crash_at_every_step(large: bool) -> None:
    with MemoryBroker() as first:
        first.ensure(Topic("in"))
        first.ensure(Topic("out"))
        feed(first)
        count = steps(first, name := f"cp-{uuid.uuid4().hex[:8]}", large_state=large)
        check(first, name, stored_state=large)
        with Store(f"memory://{name}") as store:
            store.clear()
    assert count > 40

    for at in range(0, count, 4 if large else 1):
        with MemoryBroker() as broker, _place() as place:
            broker.ensure(Topic("in"))
            broker.ensure(Topic("out"))
            feed(broker)
            doom = Doom(at)
            with contextlib.suppress(Crash):
                work(broker, doom, place, large_state=large)
            work(broker, Doom(None), place, large_state=large)
            check(broker, place, stored_state=large)


@contextlib.contextmanager
def _place() -> Iterator[str]:
    name = f"cp-{uuid.uuid4().hex[:8]}"
    yield name
    with Store(f"memory://{name}") as store:
        store.clear()


@pytest.mark.parametrize("seed", range(12))
def test_crash_upon_crash(seed: int) -> None:
    draw = random.Random(seed)
    with MemoryBroker() as broker, _place() as place:
        broker.ensure(Topic("in"))
        broker.ensure(Topic("out", window=0.0))  # the broker forgets ids at once
        feed(broker)
        for _ in range(draw.randrange(2, 9)):
            with contextlib.suppress(Crash):
                work(broker, Doom(draw.randrange(2, 40)), place, large_state=True)
        work(broker, Doom(None), place, large_state=True)
        check(broker, place, stored_state=True)


def test_a_zombie_is_fenced(broker: Broker, place: str) -> None:
    feed(broker)
    store = Store(f"memory://{place}", inline_below=0)
    old = Consumer(broker, "in", group="g")
    zombie = Checkpoint(old, "sum", store=store, above=100)
    for item in zombie:
        if item.proxy == 4:
            break
    new = Consumer(broker, "in", group="g")
    with Checkpoint(new, "sum", store=store, above=100) as point:
        with pytest.raises(Conflict, match="taken over by another process"):
            zombie.commit(1, [("out", np.arange(100))])
        with pytest.raises(Conflict, match="cannot go on"):
            zombie.commit(1)
        assert objects(place) == 0
        zombie.close()
        old.close()
        assert sorted(item.proxy for item in point) == list(range(COUNT))
        point.commit("done", [("out", "once")])
    new.close()
    assert outputs(broker) == ["once"]
    store.close()


def test_what_was_given_back_is_not_part_of_a_commit(broker: Broker) -> None:
    feed(broker, 3)
    with Consumer(broker, "in", group="g") as consumer, Checkpoint(consumer, "c") as point:
        seen = []
        for item in point:
            seen.append(item.proxy)
            if item.proxy == 1 and seen.count(1) == 1:
                item.nack()
            point.commit(sorted(seen))
    assert sorted(seen) == [0, 1, 1, 2]
    assert broker.groups("in")["g"].lag == 0


def test_state_of_all_kinds(broker: Broker, place: str) -> None:
    class Model:
        pass

    with Consumer(broker, "in", group="g") as consumer:
        for state in (None, 7, "text", (1, [2.5, b"x"]), {"a": {1, 2}}, np.arange(5)):
            with Checkpoint(consumer, "c") as point:
                point.commit(state)
            with Checkpoint(consumer, "c") as point:
                np.testing.assert_equal(point.state, state)
                assert type(point.state) is type(state)
        with Checkpoint(consumer, "c") as point, pytest.raises(SerializationError, match="without a store"):
            point.commit(Model())
        with Store(f"memory://{place}") as store:
            with Checkpoint(consumer, "c", store=store) as point:
                np.testing.assert_equal(point.state, np.arange(5))
                point.commit({"big": np.zeros(100_000)})
                point.commit()
                point.commit({"big": np.ones(100_000)})
                assert objects(place) == 1
            with pytest.raises(ConfigurationError, match="has its state in"):
                Checkpoint(consumer, "c").open()
            with pytest.raises(ConfigurationError, match="Consumer's: not consumer=5"):
                Checkpoint(5, "c")  # type: ignore[arg-type]  # what is to be refused
            with pytest.raises(ConfigurationError, match="5 cannot name a group"):
                Checkpoint(consumer, 5)  # type: ignore[arg-type]  # as above
            with Checkpoint(consumer, "c", store=store) as point:
                assert point.state["big"].sum() == 100_000
                point.commit(0)
            assert objects(place) == 0


def test_what_is_too_large_for_a_value_goes_to_the_store(broker: Broker, place: str) -> None:
    many = [("out", "x" * 20_000) for _ in range(40)]
    with Consumer(broker, "in", group="g") as consumer:
        with Checkpoint(consumer, "c") as point, pytest.raises(CapacityError, match="give it a store"):
            point.commit(1, many)
        with Store(f"memory://{place}") as store, Checkpoint(consumer, "d", store=store) as point:
            point.commit(1, many)
            assert objects(place) == 1
        assert objects(place) == 0
    assert len(outputs(broker)) == 40


def test_where_outputs_go(broker: Broker) -> None:
    broker.ensure(Topic("wide", partitions=3))
    with Consumer(broker, "in", group="g") as consumer, Checkpoint(consumer, "c") as point:
        point.commit(outputs=[Output("wide", n, {"n": n}, key=f"k{n % 2}") for n in range(6)], end=True)
        with pytest.raises(LifetimeEnded):
            point.commit(outputs=[("wide", 1)])
        with pytest.raises(ConfigurationError, match="is no output"):
            point.commit(outputs=["wide"])  # type: ignore[list-item]  # what is to be refused
    found = list(Consumer(broker, "wide", group="r"))
    assert sorted(item.proxy for item in found) == list(range(6))
    assert len({item.position.partition for item in found if item.key == "k0"}) == 1
    assert {item.metadata["n"] for item in found} == set(range(6))


def test_what_could_not_be_published_is_not_forgotten_by_the_next_commit(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(broker, 3)
    original = MemoryBroker.publish

    def away(self: MemoryBroker, *args: Any, **options: Any) -> Any:
        raise ConnectorError("away")

    with Consumer(broker, "in", group="g", timeout=5) as consumer, Checkpoint(consumer, "sum", initial=0) as point:
        items = iter(point)
        for number in range(3):
            assert next(items).get() == number
            monkeypatch.setattr(MemoryBroker, "publish", away if number < 2 else original)
            if number == 1:  # nothing is committed over what is still to be published
                with pytest.raises(ConnectorError, match="away"):
                    point.commit(number, [("out", number)])
                assert point.state == 0
            else:
                point.commit(number, [("out", number)] if number == 0 else [("out", 1), ("out", 2)])
    assert outputs(broker) == [0, 1, 2]


def test_a_broker_that_is_away_for_a_moment(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(broker, 3, end=False)
    with Consumer(broker, "in", group="g") as consumer, Checkpoint(consumer, "c") as point:
        assert consumer is point.consumer
        next(iter(point))
        original = MemoryBroker.publish

        def away(*_: Any, **__: Any) -> Any:
            raise ConnectorError("away")

        monkeypatch.setattr(MemoryBroker, "publish", away)
        point.commit(1, [("out", "late")])
        with pytest.raises(ConnectorError, match="away"):
            point.flush()
        monkeypatch.setattr(MemoryBroker, "publish", original)
        point.flush()
        assert outputs(broker) == ["late"]
        point.commit(2, [("out", "later")])
    assert outputs(broker) == ["late", "later"]
