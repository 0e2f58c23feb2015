"""What never works is kept aside with its cause, can be sent once more, and stops nobody."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from proxyfab import Store, trace
from proxyfab.errors import AccessDenied, ConfigurationError, IntegrityError
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Capability, Position, Record, Topic
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.deadletters import dead_letters, purge, replay
from proxyfab.testing import until
from proxyfab.wire.events import END, Event
from tests.patterns.stream.doom import Lent
from tests.patterns.stream.frames import Writer


def test_what_is_rejected_is_kept_with_its_reason(broker: Broker) -> None:
    before = time.time()
    Writer(broker).send(None, "bad", key="k", run=7)
    with Consumer(broker, "t", group="g") as consumer:
        good, bad = consumer.fetch()
        good.ack()
        bad.reject("it is bad")
        bad.reject("twice")
        assert consumer.lag() == 0
        assert consumer.stats()["buried"] == 1
    (letter,) = dead_letters(broker, "t")
    assert (letter.cause, letter.traceback, letter.group, letter.attempts) == ("it is bad", "", "g", 1)
    assert (letter.id, letter.key, letter.metadata, letter.get()) == ("p-0-0-1", "k", {"run": 7}, "bad")
    assert letter.position == Position("t", 0, 1, 1) and letter.place == Position("t.dlq", 0, 1)
    assert before <= letter.time <= time.time()
    assert not letter.raw


def test_what_fails_again_and_again_is_buried_with_its_traceback(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2)
    out.end()
    seen = []
    with Consumer(broker, "t", attempts=3) as consumer:
        for item in consumer:
            try:
                with item:
                    seen.append((item.get(), item.attempt))
                    if item.get() == 1:
                        raise KeyError("the cause")
            except KeyError:
                pass
    assert seen == [(1, 1), (2, 1), (1, 2), (1, 3)]
    (letter,) = dead_letters(broker, "t")
    assert letter.cause == "given back at attempt 3: KeyError: 'the cause'"
    assert "test_deadletters.py" in letter.traceback and letter.traceback.endswith("KeyError: 'the cause'\n")
    assert letter.attempts == 3


def test_an_interrupt_is_no_fault_of_the_event(broker: Broker) -> None:
    Writer(broker).send(1)
    with Consumer(broker, "t", attempts=1) as consumer:
        (item,) = consumer.fetch()
        with pytest.raises(KeyboardInterrupt), item:
            raise KeyboardInterrupt
        assert [item.get() for item in consumer.fetch()] == [1]
        assert list(dead_letters(broker, "t")) == []


def test_a_long_traceback_keeps_its_end(broker: Broker) -> None:
    Writer(broker).send(1)

    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("x" * 30_000 + str(n))

    with Consumer(broker, "t", attempts=1) as consumer:
        (item,) = consumer.fetch()
        with pytest.raises(ValueError, match="x"), item:
            deep(5)
    (letter,) = dead_letters(broker, "t")
    assert len(letter.traceback) == 8192 and len(letter.cause) < 1000


def test_replaying_sends_the_event_with_its_object_once_more(broker: Broker, store: Store) -> None:
    out = Writer(broker)
    out.send(np.arange(4), key="k", store=store, exposure=0.1)
    with Consumer(broker, "t") as consumer:
        (item,) = consumer.fetch()
        original = item.ref
        assert original is not None and original.key is not None
        item.reject("not now")
        consumer.flush()
        assert until(lambda: not store.exists(original.key)), "the topic has released the original"
        (letter,) = dead_letters(broker, "t")
        assert letter.get().tolist() == [0, 1, 2, 3] and letter.attributes["dlqobject"] == "copied"

        assert replay(broker, "t") == 1
        assert list(dead_letters(broker, "t")) == []
        assert replay(broker, "t") == purge(broker, "t") == 0
        (again,) = consumer.fetch()
        assert again.get().tolist() == [0, 1, 2, 3]
        assert (again.id, again.key, again.metadata) == ("p-0-0-0~1", "k", {"exposure": 0.1})
        assert again.attributes["replayof"] == "p-0-0-0"
        assert not any(name.startswith("dlq") for name in again.attributes)
        copy = again.ref
        again.ack()
        consumer.flush()
        assert copy is not None and until(lambda: not copy.exists()), "its object is the topic's again"
        assert consumer.stats().get("gaps", 0) == 0


def test_a_replay_that_was_interrupted_sends_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "capabilities", broker.capabilities & ~Capability.CUT)  # so that the letter stays
    Writer(broker).send(1)
    with Consumer(broker, "t") as consumer:
        consumer.fetch()[0].reject("no")
        replay(broker, "t")
        broker.state("t.dlq").delete("letters/gone")  # as if it had died before it said so
        assert replay(broker, "t") == 1
        consumer.fetch()[0].ack()
        assert consumer.lag() == 0


def test_purging_deletes_letters_and_copies(broker: Broker, store: Store) -> None:
    out = Writer(broker)
    out.send([1], [2], store=store)
    out.send([3], store=store, attributes={"keep": "1"})
    with Consumer(broker, "t") as consumer:
        items = consumer.fetch()
        theirs = items[2].ref
        for item in items:
            item.reject("no")
    letters = list(dead_letters(broker, "t"))
    refs = [letter.ref for letter in letters]
    assert refs[2] == theirs, "what is somebody else's is not copied"

    assert purge(broker, "t", where=lambda letter: letter.position.event == 1) == 1
    assert [letter.get() for letter in dead_letters(broker, "t")] == [[1], [3]]
    assert broker.describe("t.dlq").records == 3, "one amid others waits for those before it"
    assert purge(broker, "t", most=1) == 1
    assert broker.describe("t.dlq").records == 1
    assert purge(broker, "t") == 1
    assert broker.describe("t.dlq").records == broker.describe("t.dlq").nbytes == 0
    assert [ref.exists() for ref in refs] == [False, False, True]
    assert list(dead_letters(broker, "t")) == []


@pytest.mark.parametrize("purged", [True, False])
def test_what_is_buried_again_has_one_letter_and_one_copy(broker: Broker, store: Store, purged: bool) -> None:
    """Also within the time that its id is known: what was purged, or replayed, does not hide the next."""
    out = Writer(broker)
    broker.ensure_group("t", "archive")  # which keeps the objects
    out.send([1], store=store)
    with Consumer(broker, "t") as consumer:
        for _ in range(3):
            consumer.seek(EARLIEST)
            (item,) = consumer.fetch()
            item.reject("no")
            consumer.flush()
            (letter,) = dead_letters(broker, "t")
            assert letter.get() == [1]
            there = list(store.connector.scan())  # type: ignore[attr-defined]  # memory can be listed
            assert len(there) == 2, "the object, and the copy of it that the letter has"
            if purged:
                assert purge(broker, "t") == 1
                assert list(dead_letters(broker, "t")) == []


def test_an_object_that_is_gone_is_no_obstacle(broker: Broker, store: Store) -> None:
    Writer(broker).send([1], store=store)
    with Consumer(broker, "t") as consumer:
        (item,) = consumer.fetch()
        assert item.ref is not None
        item.ref.evict()
        item.reject("its object is gone")
    (letter,) = dead_letters(broker, "t")
    assert letter.attributes["dlqobject"].startswith("not copied: Nothing lies under")
    assert purge(broker, "t") == 1


HOSTILE = [b"", b"\xef", b"not a frame", b"\xefE\x7f...", b"\xefE\x01\xff\xff", b"\xefE\x01\x90", b"\x00" * 100_000]


class Readable(Lent):
    """A broker where this process may make no dead letters."""

    def ensure(self, topic: Topic, **options: Any) -> Topic:
        if topic.name.endswith(".dlq"):
            raise AccessDenied("Not you.")
        return super().ensure(topic, **options)


def test_who_may_not_bury_is_told_what_that_needs(broker: Broker) -> None:
    Writer(broker).send(1)
    with Consumer(Readable(broker), "t") as consumer:
        (item,) = consumer.fetch()
        with pytest.raises(AccessDenied, match=r"t\.dlq.*grant of publish.*Not you"):
            item.reject("no")
        assert not item.settled


def test_what_is_no_frame_stops_nobody(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1)
    broker.publish("t", [Record(body) for body in HOSTILE])
    Writer(broker, name="empty").publish([])
    Writer(broker, name="empty").end()
    out.send(2)
    out.end()
    with Consumer(broker, "t") as consumer:
        found = [(item.get(), item.ack())[0] for item in consumer]
        assert found == [1, 2]
        assert consumer.stats()["malformed"] == len(HOSTILE)
    letters = list(dead_letters(broker, "t"))
    assert [letter.get() for letter in letters] == HOSTILE
    assert all(letter.raw and "frame" in letter.cause for letter in letters)
    assert replay(broker, "t", most=2) == 2
    with Consumer(broker, "t") as consumer:
        assert list(consumer) == []
        assert consumer.stats()["malformed"] == 2
    assert broker.groups("t")["default"].lag == 0


def test_without_dead_letters_it_is_dropped_and_told(broker: Broker) -> None:
    out = Writer(broker)
    broker.publish("t", [Record(b"junk")])
    out.send(1)
    told: list[BaseException | None] = []
    stop = trace.listen(lambda span: told.append(span.error) if span.operation == "drop" else None)
    with Consumer(broker, "t", dead_letter=False) as consumer:
        for item in consumer.fetch():
            item.reject("bad")
        assert (consumer.stats()["dropped"], consumer.lag()) == (2, 0)
    stop()
    assert broker.topics() == ["t"]
    assert [str(error) for error in told][1] == "The event at t/0@2 was dropped: bad."
    assert isinstance(told[0], IntegrityError)


def test_what_strangers_write_among_dead_letters_is_left_out(broker: Broker) -> None:
    Writer(broker).send(1)
    with Consumer(broker, "t") as consumer:
        consumer.fetch()[0].reject("no")
    broker.publish("t.dlq", [Record(b"junk")])
    out = Writer(broker, "t.dlq")
    out.send(2, attributes={"dlqposition": "nowhere", "dlqattempts": "x"})
    assert [letter.get() for letter in dead_letters(broker, "t")] == [1]
    assert list(dead_letters(broker, "unknown")) == []


# -- who dies ----------------------------------------------------------------------------------------------------------


def test_an_event_that_kills_its_consumers_is_buried_and_its_neighbours_are_not(broker: Broker) -> None:
    out = Writer(broker)
    out.send("a", "b", "poison", "c")
    out.send("d")
    out.end()
    done: list[object] = []
    deaths = 0
    while deaths < 20:
        consumer = Consumer(broker, "t", attempts=5, ack_wait=1000)
        died = False
        for item in consumer:
            if item.get() == "poison":
                died = True
                break
            done.append(item.get())
            item.ack()
        if not died:
            break
        deaths += 1
        consumer._supply.fetching._subscription.close()  # the broker notices, and nobody says a word
        consumer._supply.desk.subscription = None
    else:
        pytest.fail("it never was buried")
    assert deaths == 5
    assert [letter.get() for letter in dead_letters(broker, "t")] == ["poison"]
    assert next(iter(dead_letters(broker, "t"))).cause == "delivered 5 times and never settled"
    assert done == ["a", "b"] * 3 + ["c", "d"], "what is settled before it is not done again from the third time on"
    consumer.close()
    assert broker.state("t").items("trials/") == {}


@pytest.mark.parametrize("ordered", [False, True])
def test_events_that_were_sent_together_fail_each_for_itself(broker: Broker, ordered: bool) -> None:
    out = Writer(broker)
    out.send(*range(6))
    out.end()
    seen = Counter[int]()
    with Consumer(broker, "t", attempts=3, ordered=ordered) as consumer:
        for item in consumer:
            seen[item.get()] += 1
            assert (item.attempt, item.failures) == (seen[item.get()], seen[item.get()] - 1)
            item.ack() if seen[item.get()] > 2 and item.get() != 5 else item.nack()
    assert seen == dict.fromkeys(range(6), 3)
    assert [(letter.get(), letter.cause) for letter in dead_letters(broker, "t")] == [(5, "given back at attempt 3")]


def test_consumers_that_take_one_event_and_go_bury_none_of_the_others(broker: Broker) -> None:
    out = Writer(broker)
    out.send(*range(6))
    failed: list[object] = []
    done: list[object] = []
    while len(done) < 6:
        with Consumer(broker, "t", attempts=2) as consumer:
            (item,) = consumer.fetch(1, 20)
            if item.get() in failed:
                done.append(item.get())
                item.ack()
            else:
                failed.append(item.get())
                item.nack()
    assert done == failed == list(range(6))
    assert list(dead_letters(broker, "t")) == []


def lost(consumer: Consumer) -> None:
    """Its process is killed: the broker notices, and nobody says a word."""
    consumer._supply.fetching._subscription.close()
    consumer._supply.desk.subscription = None


def test_what_was_given_back_and_then_kills_is_buried_too(broker: Broker) -> None:
    """On brokers that keep the note of who gave it back, and on others."""
    out = Writer(broker)
    out.send("poison")
    out.end()
    with Consumer(broker, "t", attempts=3) as consumer:
        consumer.fetch(1)[0].nack()
    for _ in range(8):
        consumer = Consumer(broker, "t", attempts=3, ack_wait=1000)
        if not consumer.fetch(1):
            break
        lost(consumer)
    assert [letter.get() for letter in dead_letters(broker, "t")] == ["poison"]
    consumer.close()


def test_who_was_only_held_by_two_that_died_is_not_blamed_with_the_third(broker: Broker) -> None:
    Writer(broker).send("held")
    for _ in range(2):
        with broker.subscribe("t", group="default", ack_wait=1000) as member:
            assert len(member.fetch(1, 5)) == 1
    consumer = Consumer(broker, "t", attempts=3, ack_wait=1000)
    assert consumer.fetch(1)[0].get() == "held"
    lost(consumer)
    with Consumer(broker, "t", attempts=3, ack_wait=1000) as consumer:
        assert [item.get() for item in consumer.fetch(1, 20)] == ["held"]


@pytest.mark.parametrize("attempts", [1, 2])
def test_who_was_only_held_by_one_that_died_is_tried_twice(broker: Broker, attempts: int) -> None:
    """With few attempts, too: the first one that died may never have handed it out."""
    out = Writer(broker)
    out.send("held")
    out.end()
    for _ in range(3):
        consumer = Consumer(broker, "t", attempts=attempts, ack_wait=1000)
        assert consumer.fetch(1)[0].get() == "held"
        consumer._supply.fetching._subscription.close()
        consumer._supply.desk.subscription = None
    with Consumer(broker, "t", attempts=attempts, ack_wait=1000) as consumer:
        assert list(consumer) == []
    assert [letter.cause for letter in dead_letters(broker, "t")] == ["delivered 3 times and never settled"]


def test_many_deaths_bury_no_innocent(broker: Broker) -> None:
    out = Writer(broker)
    for first in range(0, 160, 8):
        out.send(*range(first, first + 8))
    out.end()
    done: set[object] = set()
    for _ in range(60):
        consumer = Consumer(broker, "t", ack_wait=1000)
        ended = True
        for count, item in enumerate(consumer):
            if count >= 9:
                ended = False
                break
            done.add(item.get())
            item.ack()
        if ended:
            consumer.close()
            break
        consumer._supply.desk.flush()
        consumer._supply.fetching._subscription.close()
        consumer._supply.desk.subscription = None
    assert done == set(range(160))
    assert list(dead_letters(broker, "t")) == []
    assert broker.state("t").items("trials/") == {}


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("exposure > `0.1`", [2, 3]),
        ("key == 'b'", [3]),
        ("contains(tags, 'x')", [1]),
        ("subject == 'a' && type == 'proxyfab.event'", [1, 2]),
        (lambda item: item.metadata["exposure"] > 0.25, [3]),
        (None, [1, 2, 3]),
    ],
)
def test_filters(broker: Broker, where: object, wanted: list[int]) -> None:
    out = Writer(broker)
    out.send(1, key="a", exposure=0.1, tags=["x"])
    out.send(2, key="a", exposure=0.2, tags=[])
    out.send(3, key="b", exposure=0.3, tags=5)
    out.end()
    with Consumer(broker, "t", where=where) as consumer:  # type: ignore[arg-type]
        found = [(item.get(), item.ack())[0] for item in consumer]
        assert found == wanted
        assert consumer.lag() == 0
    assert list(dead_letters(broker, "t")) == []


def test_a_filter_that_fails_buries_what_it_failed_on(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, exposure=0.1)
    out.send(2)
    out.end()
    with Consumer(broker, "t", where=lambda item: item.metadata["exposure"]) as consumer:
        assert [(item.get(), item.ack())[0] for item in consumer] == [1]
    (letter,) = dead_letters(broker, "t")
    assert letter.cause == "its filter failed: KeyError: 'exposure'" and "lambda" in letter.traceback


@pytest.mark.parametrize("where", ["exposure >", "nonsense(exposure)", ""])
def test_an_expression_that_makes_no_sense(broker: Broker, where: str) -> None:
    with pytest.raises(ConfigurationError, match="no JMESPath expression"):
        Consumer(broker, "t", where=where)


def test_the_end_is_not_filtered(broker: Broker) -> None:
    out = Writer(broker)
    out.publish([Event(END)])
    out.end()
    assert list(Consumer(broker, "t", where="key")) == []
