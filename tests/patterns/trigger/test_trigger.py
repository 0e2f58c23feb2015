"""Triggers: when the function is called, with what, and what becomes of events with which it failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyfab.errors import ConfigurationError, TopicNotFound, WorkerDied
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Topic
from proxyfab.patterns.stream import Producer
from proxyfab.patterns.stream.deadletters import dead_letters
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.trigger import Backoff, Event, Trigger, disable, enable, forget, logs, statistics, triggers
from proxyfab.store import Store
from proxyfab.testing.processes import until
from tests.events.emptied import emptied

SOON = Backoff(0.01, 0.05)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with emptied("memory://triggers") as broker:
        yield broker


class Calls:
    """A function that remembers its calls."""

    __name__ = "calls"

    def __init__(self, fails: int = 0) -> None:
        self.seen: list[Any] = []
        self.fails = fails
        self.lock = threading.Lock()

    def __call__(self, event: Any) -> None:
        with self.lock:
            self.seen.append(event)
            if len(self.seen) <= self.fails:
                raise ValueError(f"call {len(self.seen)} fails")


def send(broker: Broker, topic: str, *objects: object, **metadata: object) -> None:
    with Producer(broker, topic) as out:
        for obj in objects:
            out.send(obj, **metadata)


def test_it_is_called_with_each_event(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, start=EARLIEST):
        send(broker, "frames", 1, "two", None, exposure=0.2)
        assert until(lambda: len(calls.seen) == 3)
    first = calls.seen[0]
    assert isinstance(first, Event)
    assert [event.object for event in calls.seen] == [1, "two", None]
    assert first.metadata == {"exposure": 0.2}
    assert (first.topic, first.attempt) == ("frames", 1)


def test_what_was_sent_before_it_first_ran_is_not_its(broker: Broker) -> None:
    send(broker, "frames", "old")
    calls = Calls()
    with Trigger(broker, "frames", calls):
        send(broker, "frames", "new")
        assert until(lambda: calls.seen)
    assert [event.object for event in calls.seen] == ["new"]
    send(broker, "frames", "between")
    with Trigger(broker, "frames", calls):
        assert until(lambda: len(calls.seen) == 2), "what came while nobody ran waits for it"


def test_large_objects_come_as_proxies(broker: Broker) -> None:
    sums: list[int] = []

    def add(event: Event) -> None:  # here: the object may go when this has returned
        sums.append(event.object.sum())

    with Store("memory://t") as store, Trigger(broker, "frames", add, start=EARLIEST):
        with Producer(broker, "frames", store=store) as out:
            out.send(np.arange(50_000))
        assert until(lambda: sums)
    assert sums == [1249975000]


def test_events_are_chosen_by_what_is_said_of_them(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, where="exposure > `0.1`", start=EARLIEST):
        send(broker, "frames", "dark", exposure=0.05)
        send(broker, "frames", "bright", exposure=0.5)
        assert until(lambda: calls.seen)
    assert [event.object for event in calls.seen] == ["bright"]


def test_batches_and_their_window(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, batch=4, window=0.3, start=EARLIEST):
        send(broker, "frames", *range(6))
        assert until(lambda: sum(map(len, calls.seen)) == 6)
    assert [len(batch) for batch in calls.seen] == [4, 2]


def test_what_is_gathered_or_worked_on_is_kept_through_a_long_window(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window may be longer than `ack_wait`; nothing comes again meanwhile."""
    kept: set[Any] = set()
    extend = Item.extend

    def extended(item: Item) -> None:
        extend(item)
        kept.add(item.get())

    monkeypatch.setattr(Item, "extend", extended)
    go, seen = threading.Event(), Calls()

    def call(events: list[Event]) -> None:
        seen([event.object for event in events])
        go.wait(20)

    with Trigger(broker, "t", call, start=EARLIEST, batch=2, window=30, ack_wait=1.5, concurrency=2):
        with Producer(broker, "t", awaited=False) as out:
            for number in (1, 2, 3):
                out.send(number).result(20)
        assert until(lambda: kept == {1, 2, 3}, 20)
        assert seen.seen == [[1, 2]]
        go.set()


def test_a_call_that_fails_is_made_again(broker: Broker) -> None:
    calls = Calls(fails=2)
    with Trigger(broker, "frames", calls, retries=3, backoff=SOON.pause, start=EARLIEST):
        send(broker, "frames", "it")
        assert until(lambda: len(calls.seen) == 3)
        assert until(lambda: statistics(broker, "calls").succeeded == 1)
    assert [event.attempt for event in calls.seen] == [1, 2, 3]
    assert list(dead_letters(broker, "frames")) == []


def test_what_never_works_is_a_dead_letter(broker: Broker) -> None:
    calls = Calls(fails=100)
    with Trigger(broker, "frames", calls, retries=1, backoff=SOON, start=EARLIEST):
        send(broker, "frames", "it")
        assert until(lambda: list(dead_letters(broker, "frames")))
    (letter,) = dead_letters(broker, "frames")
    assert "call 2 fails" in letter.cause
    assert "ValueError" in letter.traceback
    figures = statistics(broker, "calls")
    assert (figures.fired, figures.failed, figures.buried) == (2, 2, 1)
    assert "call 2 fails" in figures.error


def test_of_a_batch_those_are_buried_that_failed_often_enough(broker: Broker) -> None:
    def picky(batch: list[Event]) -> None:
        if "bad" in [event.object for event in batch]:
            raise ValueError("a bad one")

    with Trigger(broker, "frames", picky, batch=2, window=0.3, retries=2, backoff=0.05, start=EARLIEST):
        send(broker, "frames", "bad")
        assert until(lambda: statistics(broker, "picky").failed == 1)
        send(broker, "frames", "good")
        assert until(lambda: statistics(broker, "picky").succeeded == 1)
    (letter,) = dead_letters(broker, "frames")
    figures = statistics(broker, "picky")
    assert (letter.get(), figures.fired, figures.failed, figures.buried) == ("bad", 4, 3, 1)
    (line,) = [line for line in logs(broker, "picky") if line.what == "buried"]
    assert line.positions == (str(letter.position),)


def test_a_bad_event_buries_none_of_its_batch(broker: Broker) -> None:
    sizes: list[int] = []

    def picky(batch: list[Event]) -> None:
        sizes.append(len(batch))
        if "bad" in [event.object for event in batch]:
            raise ValueError("a bad one")

    broker.ensure(Topic("frames", groups=("picky",)))
    send(broker, "frames", 1, "bad", 2)
    with Trigger(broker, "frames", picky, batch=3, retries=1, backoff=0.01):
        assert until(lambda: statistics(broker, "picky").succeeded == 2)
        assert until(lambda: broker.groups("frames")["picky"].lag == 0)
    assert [letter.get() for letter in dead_letters(broker, "frames")] == ["bad"]
    assert sizes == [3, 1, 1, 1]


def test_events_that_dead_runners_held_are_tried_as_often_as_others(broker: Broker) -> None:
    send(broker, "frames", "it")
    for _ in range(4):
        with broker.subscribe("frames", group="calls", ack_wait=1000) as member:
            assert len(member.fetch(1, 5)) == 1
    calls = Calls(fails=2)
    with Trigger(broker, "frames", calls, retries=2, backoff=SOON, start=EARLIEST):
        assert until(lambda: len(calls.seen) == 3)
        assert until(lambda: statistics(broker, "calls").succeeded == 1)
    assert list(dead_letters(broker, "frames")) == []
    assert statistics(broker, "calls").buried == 0


def test_a_call_that_takes_too_long_is_made_again(broker: Broker) -> None:
    gate, calls = threading.Event(), []

    def slow(event: Event) -> None:
        calls.append(event.attempt)
        if event.attempt == 1:
            gate.wait(20)

    with Trigger(broker, "frames", slow, timeout=0.2, concurrency=2, backoff=SOON, start=EARLIEST):
        send(broker, "frames", "it")
        assert until(lambda: calls == [1, 2])
        gate.set()
    assert "timed out" in [firing.what for firing in logs(broker, "slow")]


def test_calls_at_once_are_limited(broker: Broker) -> None:
    gate, now, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def hold(_event: Event) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        gate.wait(20)
        with lock:
            now[0] -= 1

    with ThreadPoolExecutor(8) as pool, Trigger(broker, "f.*", hold, executor=pool, concurrency=3, start=EARLIEST):
        for topic in ("f.a", "f.b"):
            send(broker, topic, *range(5))
        assert until(lambda: now[0] == 3)
        gate.set()
        assert until(lambda: statistics(broker, "hold").succeeded == 10)
    assert most[0] == 3


def test_a_pattern_finds_topics_that_come_later(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "beam.*", calls, start=EARLIEST):
        send(broker, "beam.one", 1)
        send(broker, "other", 2)
        send(broker, "beam.two", 3)
        assert until(lambda: len(calls.seen) == 2)
    assert {event.topic for event in calls.seen} == {"beam.one", "beam.two"}


def test_many_runners_are_one_trigger(broker: Broker) -> None:
    one, two = Calls(), Calls()
    with (
        Trigger(broker, "frames", one, group="shared", start=EARLIEST),
        Trigger(broker, "frames", two, group="shared", start=EARLIEST),
    ):
        for number in range(40):
            send(broker, "frames", number)
        assert until(lambda: len(one.seen) + len(two.seen) == 40)
        assert until(lambda: statistics(broker, "shared").succeeded == 40)
    assert sorted(event.object for event in one.seen + two.seen) == list(range(40))
    assert statistics(broker, "shared").runners == 2


def test_it_can_be_disabled_from_elsewhere(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, start=EARLIEST) as trigger:
        disable(broker, "calls")
        assert not trigger.enabled
        assert until(lambda: "disabled" in [firing.what for firing in logs(broker, "calls")])
        send(broker, "frames", "it")
        assert broker.groups("frames")["calls"].lag == 1
        enable(broker, "calls")
        assert until(lambda: calls.seen)
    with pytest.raises(TopicNotFound, match="nobody"):
        disable(broker, "nobody")


def test_no_event_is_taken_when_it_has_said_that_it_is_disabled(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, batch=2, window=90.0, start=EARLIEST):
        send(broker, "frames", "before")
        assert until(lambda: broker.groups("frames")["calls"].pending == 1), "it waits for a second one"
        disable(broker, "calls")
        assert until(lambda: "disabled" in [firing.what for firing in logs(broker, "calls")])
        send(broker, "frames", "after")
        assert until(lambda: calls.seen)
        assert [[event.object for event in batch] for batch in calls.seen] == [["before"]]
        assert until(lambda: broker.groups("frames")["calls"].lag == 1)
        enable(broker, "calls")
        send(broker, "frames", "last")
        assert until(lambda: len(calls.seen) == 2)
    assert [event.object for event in calls.seen[1]] == ["after", "last"]


def test_a_name_is_one_topics(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, start=EARLIEST):
        with pytest.raises(ConfigurationError, match="topic frames.*--forget"):
            Trigger(broker, "others", calls).start()
        with Trigger(broker, "others", calls, group="others", start=EARLIEST):
            disable(broker, "others")
            send(broker, "frames", "it")
            assert until(lambda: calls.seen), "each has a switch of its own"
        assert statistics(broker, "others").fired == 0
    assert forget(broker, "calls")
    assert not forget(broker, "calls")
    assert (statistics(broker, "calls").fired, logs(broker, "calls")) == (0, [])
    with Trigger(broker, "others", calls):
        assert triggers(broker)["calls"]["topic"] == "others"


def test_one_may_begin_disabled_and_stays_as_it_was_left(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, enabled=False) as trigger:
        assert until(lambda: "calls" in triggers(broker))
        assert not trigger.enabled
    with Trigger(broker, "frames", calls) as trigger:
        assert until(lambda: triggers(broker)["calls"]["enabled"] is False)
        assert not trigger.enabled


def test_what_is_known_of_it(broker: Broker) -> None:
    calls = Calls()
    with Trigger(broker, "frames", calls, where="a", batch=2, start=EARLIEST):
        send(broker, "frames", 1, a=1)
        assert until(lambda: statistics(broker, "calls").succeeded == 1)
    said = triggers(broker)["calls"]
    assert (said["topic"], said["where"], said["batch"], said["enabled"]) == ("frames", "a", 2, True)
    what = [firing.what for firing in logs(broker, "calls")]
    assert what == ["started", "succeeded", "stopped"]
    assert logs(broker, "calls")[1].positions == ("frames/0@1",)


def total(event: Event) -> None:
    """In another process: writes what it was called with."""
    with open(event.metadata["place"], "a") as file:
        file.write(f"{event.object.sum()}\n")


def test_on_processes(broker: Broker, tmp_path: Path) -> None:
    place = tmp_path / "sums"
    with (
        Store() as store,
        ProcessPoolExecutor(2) as pool,
        Trigger(broker, "frames", total, executor=pool, concurrency=2, start=EARLIEST),
    ):
        with Producer(broker, "frames", store=store) as out:
            for number in range(4):
                out.send(np.full(20_000, number), place=str(place))
        assert until(lambda: place.exists() and len(place.read_text().splitlines()) == 4)
        assert until(lambda: statistics(broker, "total").succeeded == 4)
    assert sorted(map(int, place.read_text().split())) == [0, 20_000, 40_000, 60_000]


def test_a_broken_pool_leaves_its_events_to_others(broker: Broker) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    calls = Calls()
    with Trigger(broker, "frames", calls, group="g", executor=pool, retries=50, start=EARLIEST) as trigger:
        send(broker, "frames", "it")
        assert until(lambda: trigger.error is not None)
        with Trigger(broker, "frames", calls, group="g", start=EARLIEST, retries=50, backoff=SOON):
            assert until(lambda: calls.seen)


def test_run_blocks_until_it_is_told_to_stop(broker: Broker) -> None:
    calls, stop = Calls(), threading.Event()
    trigger = Trigger(broker, "frames", calls, start=EARLIEST)
    thread = threading.Thread(target=trigger.run, args=(stop,))
    thread.start()
    send(broker, "frames", "it")
    assert until(lambda: calls.seen)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    trigger.stop()


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"concurrency": 0}, {"retries": -1}, {"timeout": 0}, {"window": -1}, {"backoff": -1.0}],
)
def test_what_makes_no_sense_is_refused(broker: Broker, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Trigger(broker, "frames", print, **wrong)


def test_figures_add_up_over_restarts(broker: Broker) -> None:
    calls = Calls()
    began = time.time()
    for number in range(2):
        with Trigger(broker, "frames", calls, start=EARLIEST):
            send(broker, "frames", number)
            assert until(lambda number=number: statistics(broker, "calls").succeeded == number + 1)
    figures = statistics(broker, "calls")
    assert figures.events == 2
    assert figures.last >= began


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ValueError("\udcff"), Unreadable()], ids=["surrogate", "no text"])
def test_what_cannot_be_told_is_buried_all_the_same(broker: Broker, error: Exception) -> None:
    def fails(_event: Event) -> None:
        raise error

    with Trigger(broker, "frames", fails, retries=1, backoff=SOON, start=EARLIEST):
        send(broker, "frames", "it")
        assert until(lambda: list(dead_letters(broker, "frames")))
        assert until(lambda: statistics(broker, "fails").buried == 1)
    assert type(error).__name__ in statistics(broker, "fails").error


def test_a_broken_pool_ends_the_trigger_and_its_events_wait(broker: Broker) -> None:
    pool, calls = ThreadPoolExecutor(1), Calls()
    pool.shutdown()
    with Trigger(broker, "frames", calls, executor=pool, retries=0, start=EARLIEST) as trigger:
        send(broker, "frames", *range(5))
        assert until(lambda: trigger.error is not None)
    with pytest.raises(WorkerDied, match="another executor"):
        Trigger(broker, "frames", calls, executor=pool, retries=1, start=EARLIEST).run()
    assert list(dead_letters(broker, "frames")) == []
    with Trigger(broker, "frames", calls, retries=4, start=EARLIEST):
        assert until(lambda: len(calls.seen) == 5)


def test_a_call_that_takes_too_long_keeps_its_slot(broker: Broker) -> None:
    gate, begun = threading.Event(), []

    def slow(event: Event) -> None:
        begun.append(event.object)
        gate.wait(20)

    with Trigger(broker, "frames", slow, timeout=0.2, retries=0, start=EARLIEST):
        send(broker, "frames", *range(3))
        assert until(lambda: statistics(broker, "slow").failed == 1)
        time.sleep(0.5)  # in which the others would time out, never having begun
        assert (begun, statistics(broker, "slow").failed) == ([0], 1)
        gate.set()
        assert until(lambda: begun == [0, 1, 2])
    assert [letter.get() for letter in dead_letters(broker, "frames")] == [0]


async def soon(_event: Event) -> None: ...


def test_what_makes_no_sense_is_said_at_once(broker: Broker) -> None:
    with pytest.raises(ConfigurationError, match="coroutine"):
        Trigger(broker, "frames", soon)
    with pytest.raises(ConfigurationError, match="calls a function, not 5"):
        Trigger(broker, "frames", 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="broker"):
        Trigger(5, "frames", print)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="start= is .*'latest'"):
        Trigger(broker, "frames", print, start="latest")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="JMESPath"):
        Trigger(broker, "frames", print, where="a > > 1")
    for topic in ("no such/ topic", "", None, 5):
        with pytest.raises(ConfigurationError, match="cannot name a topic"):
            Trigger(broker, topic, print)  # type: ignore[arg-type]
