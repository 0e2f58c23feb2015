"""Producers: what is sent arrives, once, in order, and as it was when it was sent."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from proxyfab import Store, is_proxy
from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import (
    CapacityError,
    ConfigurationError,
    ConnectorError,
    LifetimeEnded,
    ResolveTimeout,
    SerializationError,
    StaleEpoch,
)
from proxyfab.events.model import Position, Record, Topic
from proxyfab.patterns import Future
from proxyfab.patterns.stream import Consumer, Producer
from proxyfab.patterns.stream.references import ref_in
from proxyfab.testing.processes import in_fork, until
from proxyfab.wire.events import END, EVENTS, VALUE, encode
from tests.patterns.stream_reading import PATIENCE, Moody, events, frames, metadata, objects


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


def producers(broker: MemoryBroker) -> dict[str, tuple[int, bool]]:
    values = broker.state("frames").items("producers/")
    found = {name: msgspec.msgpack.decode(kept.value) for name, kept in values.items()}
    return {name.partition("/")[2]: (value["epoch"], value["ended"]) for name, value in found.items()}


# -- what arrives ----------------------------------------------------------------------------------------------------


class Littered(MemoryBroker):
    """Amid making a topic the collector ends something, whose finalizer sends."""

    def ensure(self, topic: Topic, **options: Any) -> Topic:
        if self.ends:
            self.ends.pop()()
        return super().ensure(topic, **options)

    ends: list[Callable[[], object]]


@pytest.mark.parametrize("name", [None, "p"])
def test_a_finalizer_may_send_while_its_thread_begins_to(name: str | None) -> None:
    with Littered() as broker:
        broker.ends = []
        out = Producer(broker, "frames", name=name)
        broker.ends = [lambda: out.send("last words")]
        out.send("first words")
        out.end()
        with Consumer(broker, "frames") as consumer:
            assert sorted([item.get() for item in consumer]) == ["first words", "last words"]
        assert [epoch for epoch, _ in producers(broker).values()] == [0]


def test_objects_of_every_kind_come_out_as_they_went_in(broker: Moody, store: Store) -> None:
    sent = [
        None,
        True,
        7,
        2.5,
        "text",
        b"bytes",
        [1, (2,)],
        np.arange(9),
        np.arange(50_000),
        "é" * 50_000,
        b"x" * 99_000,
    ]
    with Producer(broker, "frames", store=store) as out:
        for obj in sent:
            out.send(obj)

    came = objects(broker, "frames")

    for obj, other in zip(sent, came, strict=True):
        assert type(other) is type(obj)
        np.testing.assert_equal(other, obj)


def test_only_what_is_large_goes_to_the_store(broker: Moody, store: Store) -> None:
    with Producer(broker, "frames", store=store, above="10 KB") as out:
        out.send(np.zeros(1000))
        out.send(np.zeros(2000))

    small, large = (event.data for _, event in events(broker, "frames"))

    assert (len(small), len(large)) == (6, 7)
    assert store.stats()["put"]["count"] == 1


def test_an_object_may_be_changed_as_soon_as_it_was_sent(broker: Moody, store: Store) -> None:
    broker.gate.clear()
    small, large, said = np.arange(10), np.arange(50_000), {"n": [1]}
    with Producer(broker, "frames", store=store) as out:
        out.send(small, metadata=said)
        out.send(large)
        small[:], large[:], said["n"][0] = 0, 0, 9
        broker.gate.set()

    first, second = objects(broker, "frames")

    np.testing.assert_equal(first, np.arange(10))
    np.testing.assert_equal(second, np.arange(50_000))
    assert metadata(broker, "frames")[0] == {"n": [1]}


def test_one_object_sent_twice_is_two_objects(broker: Moody, store: Store) -> None:
    array = np.arange(50_000)
    with Producer(broker, "frames", store=store) as out:
        out.send(array)
        out.send(array)

    first, second = (ref_in(event.data, frame.stores) for frame, event in events(broker, "frames"))

    assert first.key != second.key


def test_a_reference_goes_as_it_is_and_is_marked(broker: Moody, store: Store) -> None:
    with Store("memory://") as other:
        ref = other.ref(np.arange(5000))
        small = other.ref([1, 2])
        changed = other.proxy(list(range(5000)))
        changed.append(7)
        with Producer(broker, "frames", store=store) as out:
            out.send(ref)
            out.send(ref.proxy())
            out.send(small)
            out.send(changed)

        came = [(ref_in(event.data, frame.stores), event.attributes) for frame, event in events(broker, "frames")]

        assert came[0] == came[1] == (ref, {"keep": "1"})
        assert came[2] == (small, None)
        assert came[3][0].resolve()[-1] == 7
        other.clear()


def test_a_future_can_be_sent_before_it_is_there(broker: Moody, store: Store) -> None:
    future: Future[list[int]] = Future(store)
    with Producer(broker, "frames", store=store) as out:
        out.send(future.proxy())
    future.set_result([1, 2])

    (came,) = objects(broker, "frames")

    assert is_proxy(came)
    assert came == [1, 2]


def test_without_a_store_everything_travels_inside_or_is_refused(broker: Moody) -> None:
    broker.max_record = 100_000
    with Producer(broker, "frames") as out:
        out.send(np.arange(10))
        with pytest.raises(SerializationError, match="give the producer a store"):
            out.send(np.arange(50_000))
        with pytest.raises(SerializationError, match="give the producer a store"):
            out.send(b"x" * 100_000)
        with pytest.raises(CapacityError, match="larger than"):
            out.send(1, text="x" * 100_000)
        out.send(2)

    assert len(objects(broker, "frames")) == 2
    assert frames(broker, "frames")[0].stores == ["memory://"]


def test_nothing_of_a_sealed_stores_objects_travels_in_the_clear(
    broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYFAB_KEY_LAB", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    with Store("memory://", seal="encrypt:lab") as store, Producer(broker, "frames", store=store) as out:
        for obj in (b"secret", "secret", ["secret"]):
            out.send(obj)
        out.flush()

        assert all(b"secret" not in record.body for call in broker.calls for record in call)
        assert objects(broker, "frames") == [b"secret", "secret", ["secret"]]


# -- metadata, keys, partitions --------------------------------------------------------------------------------------


def test_metadata_and_attributes(broker: Moody) -> None:
    with Producer(broker, "frames", source="//beamline") as out:
        out.send(1, key="run-1", exposure=0.2, n=np.int64(3))
        out.send(2, metadata={"key": "k", "exposure": 1}, exposure=2)
        out.send(3, id="mine", type="scan", subject="s", attributes={"site": "edge"})
        with pytest.raises(SerializationError, match="metadata are plain"):
            out.send(4, what=object())
        with pytest.raises(ConfigurationError, match="attribute"):
            out.send(5, attributes={"Bad": "x"})

    (frame, first), (_, second), (_, third) = events(broker, "frames")

    assert metadata(broker, "frames") == [{"exposure": 0.2, "n": 3}, {"key": "k", "exposure": 2}, {}]
    assert (first.key, second.key, frame.source) == ("run-1", None, "//beamline")
    assert third.attributes == {"id": "mine", "type": "scan", "subject": "s", "site": "edge"}
    assert first.time <= second.time <= third.time


def test_numbers_have_no_gaps_and_frames_are_full_while_something_is_under_way(broker: Moody) -> None:
    with Producer(broker, "frames", partitions=3) as out:
        out.send(0).result(PATIENCE)
        broker.gate.clear()
        out.send(1)
        assert broker.waits.acquire(timeout=PATIENCE)
        assert broker.waits.acquire(timeout=PATIENCE)
        for number in range(2, 1000):
            out.send(number)
        broker.gate.set()

    found = frames(broker, "frames")

    assert sorted(objects(broker, "frames")) == list(range(1000))
    for partition in range(3):
        mine = [frame for frame in found if frame.partition == partition]
        assert [frame.first for frame in mine] == [sum(len(f.events) for f in mine[:n]) for n in range(len(mine))]
    assert [len(frame.events) for frame in found].count(EVENTS) == 998 // EVENTS
    assert len({frame.partition for frame in found}) == 3


def test_events_of_one_key_go_to_one_partition_in_order(broker: Moody) -> None:
    with Producer(broker, "frames", partitions=4) as out:
        for number in range(500):
            out.send(number, key=f"run-{number % 7}")

    for run in range(7):
        mine = [(frame.partition, event.data) for frame, event in events(broker, "frames") if event.key == f"run-{run}"]
        assert len({partition for partition, _ in mine}) == 1
        assert [number for _, number in mine] == list(range(run, 500, 7))


def test_a_partition_can_be_named(broker: Moody) -> None:
    with Producer(broker, "frames", partitions=4) as out:
        assert out.send(1, partition=2).result(PATIENCE).partition == 2
        with pytest.raises(ConfigurationError, match="partition 4"):
            out.send(1, partition=4)


def test_threads_send_side_by_side(broker: Moody) -> None:
    with Producer(broker, "frames", most_events=500) as out:

        def send(thread: int) -> None:
            for number in range(1000):
                out.send(number, thread=thread)

        threads = [threading.Thread(target=send, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    came = list(zip(metadata(broker, "frames"), objects(broker, "frames"), strict=True))

    for number in range(4):
        assert [obj for said, obj in came if said == {"thread": number}] == list(range(1000))


# -- receipts --------------------------------------------------------------------------------------------------------


def test_a_receipt_tells_where_the_event_lies(broker: Moody) -> None:
    with Producer(broker, "frames") as out:
        broker.gate.clear()
        first, second, third = out.send(1), out.send(2), out.send(3)
        assert not first.done()
        with pytest.raises(TimeoutError, match="still tried"):
            first.result(0.01)
        broker.gate.set()

        last = third.result(PATIENCE)

    assert first.done()
    assert first.result() == Position("frames", 0, 1, 0)
    assert last.offset == second.result().offset + (last.event == 0)


def test_coroutines(broker: Moody, store: Store) -> None:
    async def main() -> list[Position]:
        async with Producer(broker, "frames", store=store) as out:
            receipts = [await out.asend(obj) for obj in (b"one", np.arange(50_000), b"two")]
            found = [await receipt for receipt in receipts]
            await out.aflush(PATIENCE)
            await out.aend()
            return found

    found = asyncio.run(main())

    assert found == sorted(found)
    assert len(objects(broker, "frames")) == 3
    assert events(broker, "frames")[-1][1].kind == END


# -- ends and epochs -------------------------------------------------------------------------------------------------


def test_an_end_goes_to_every_partition_and_is_kept(broker: Moody) -> None:
    with Producer(broker, "frames", name="detector", partitions=3) as out:
        out.send(b"x")
        out.flush()
        assert producers(broker) == {"detector": (0, False)}
        out.end()
        out.end()
        with pytest.raises(LifetimeEnded, match="has ended"):
            out.send(b"y")

    assert producers(broker) == {"detector": (0, True)}
    ends = [frame.partition for frame, event in events(broker, "frames") if event.kind == END]
    assert sorted(ends) == [0, 1, 2]


def test_a_producer_that_sent_nothing_can_end(broker: Moody) -> None:
    with Producer(broker, "frames", name="idle") as out:
        out.end()

    assert producers(broker) == {"idle": (0, True)}


def test_a_name_that_is_used_again_has_the_next_epoch(broker: Moody) -> None:
    for _ in range(2):
        with Producer(broker, "frames", name="detector") as out:
            out.send(1)
            out.end()
    with Producer(broker, "frames", name="detector") as old:
        old.send(2)
    with Producer(broker, "frames", name="detector") as new:
        new.send(3)
        new.flush()
        old.end()

        assert producers(broker) == {"detector": (3, False)}
    assert [frame.epoch for frame in frames(broker, "frames") if frame.events[0].kind == VALUE] == [0, 1, 2, 3]
    assert len({frame.id for frame in frames(broker, "frames")}) == len(frames(broker, "frames"))


def test_a_block_that_raises_tells_its_own_story_and_sends_what_was_sent(broker: Moody) -> None:
    with pytest.raises(ZeroDivisionError), Producer(broker, "frames") as out:
        out.send(1)
        1 / 0

    assert objects(broker, "frames") == [1]
    with pytest.raises(LifetimeEnded, match="was closed"):
        out.send(2)


def test_a_topic_is_taken_as_it_is(broker: Moody) -> None:
    broker.ensure(Topic("frames", partitions=4, release="never"))
    with Producer(broker, "frames") as out:
        out.send(1)
        out.flush()
    with pytest.raises(ConfigurationError, match="4 partitions"), Producer(broker, "frames", partitions=2) as out:
        out.send(1)
    with Producer(
        broker, "others", partitions=2, retention=60, max_bytes="1 MB", release="first_ack", groups=["a"]
    ) as out:
        out.send(1)
        out.flush()

    assert broker.describe("others").topic == Topic("others", 2, 60, 1_000_000, release="first_ack", groups=("a",))


def test_arguments_that_make_no_sense(broker: Moody) -> None:
    for wrong in ({"full": "perhaps"}, {"timeout": 0}, {"most_events": 0}, {"name": "a/b"}, {"linger": -1}):
        with pytest.raises(ConfigurationError):
            Producer(broker, "frames", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="said by the Topic"):
        Producer(broker, Topic("frames"), partitions=3)


@pytest.mark.parametrize(
    ("what", "given"),
    [("topic", {"topic": None}), ("broker", {"broker": 5}), ("store", {"store": 5}), ("groups", {"groups": "archive"})]
    + [("retention", {"retention": wrong}) for wrong in ("1h", 0, float("nan"))],
)
def test_an_argument_of_the_wrong_kind_is_named(broker: Moody, what: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{what}= is .*not "):
        Producer(**{"broker": broker, "topic": "frames", **given})


def test_groups_that_are_one_text_are_not_taken_for_its_letters() -> None:
    with pytest.raises(ConfigurationError, match=r"such as \('archive',\)"):
        Topic("frames", groups="archive")  # type: ignore[arg-type]


# -- without a close -------------------------------------------------------------------------------------------------


def test_a_producer_that_nobody_holds_has_sent_what_was_sent(broker: Moody) -> None:
    out = Producer(broker, "frames", linger=60)
    for number in range(100):
        out.send(number)
    del out
    gc.collect()

    assert until(lambda: broker.topics() and objects(broker, "frames") == list(range(100)), PATIENCE)


def test_an_interpreter_that_ends_has_sent_what_was_sent() -> None:
    script = """
import atexit
from tests.patterns.stream_reading import Moody, objects

broker = Moody()
atexit.register(lambda: print(objects(broker, "frames")))  # later: the last to register is the first to be called
from proxyfab.patterns.stream import Consumer, Producer
out = Producer(broker, "frames", linger=60)
out.send(1)
out.send(2)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "[1, 2]\n", done.stderr


def test_a_forked_child_is_another_producer_and_sends_nothing_of_its_parents(broker: Moody) -> None:
    broker.gate.clear()
    with Producer(broker, "frames", name="detector") as out:
        receipt = out.send(b"parent")

        def child() -> tuple[str, list[object], str]:
            broker.gate.set()
            with pytest.raises(ConnectorError, match="parent"):
                receipt.result(PATIENCE)
            out.send(b"child").result(PATIENCE)
            return out.name, objects(broker, "frames"), repr(producers(broker))

        name, there, _ = in_fork(child)
        broker.gate.set()

    assert name.startswith("detector.")
    assert there == [b"child"]
    assert objects(broker, "frames") == [b"parent"]


@pytest.mark.parametrize("partition", [None, 0])
@pytest.mark.parametrize("key", [5, b"k"])
def test_a_key_that_is_no_text_is_refused(broker: Moody, key: object, partition: int | None) -> None:
    with Producer(broker, "frames") as out:
        with pytest.raises(SerializationError, match="key is text"):
            out.send(1, key=key, partition=partition)  # type: ignore[arg-type]
        out.send(2)


def test_a_producer_that_was_replaced_is_told_and_does_not_count(broker: Moody) -> None:
    old = Producer(broker, "frames", name="detector")
    old.send("before").result(10)
    with Producer(broker, "frames", name="detector") as new:
        new.send("new")
        new.end()
    late = old.send("after")
    with pytest.raises(StaleEpoch, match="detector.*epoch 1.*epoch 0"):
        late.result(10)
    with pytest.raises(StaleEpoch):
        old.flush()
    for again in (lambda: old.send("more"), old.end):
        with pytest.raises(StaleEpoch, match="two names"):
            again()
    old.close()

    assert producers(broker) == {"detector": (1, True)}
    with Consumer(broker, "frames", timeout=10) as consumer:
        assert list(consumer.objects()) == ["before", "new"]
        assert consumer.stats()["stale"] == 1
        assert consumer.lag() == 0


def test_one_that_was_replaced_cannot_end_the_stream(broker: Moody) -> None:
    old = Producer(broker, "frames", name="detector")
    old.send("before").result(10)
    with Producer(broker, "frames", name="detector") as new:
        new.send("new").result(10)
        with pytest.raises(StaleEpoch):
            old.end()
        assert producers(broker) == {"detector": (1, False)}


def test_what_was_acknowledged_before_counts_wherever_it_lies(broker: Moody) -> None:
    """As where a topic was copied: a frame of an earlier epoch may lie behind one of a later one."""
    with Moody() as source:
        for name in ("one", "two"):
            with Producer(source, "frames", name="detector") as out:
                out.send(name)
                out.end()
        bodies = [Record(encode(frame), frame.id) for frame in frames(source, "frames")]
    broker.ensure(Topic("frames"))
    broker.publish("frames", bodies[::-1])
    with Consumer(broker, "frames", timeout=0.2) as consumer, pytest.raises(ResolveTimeout):
        seen = []
        for item in consumer:
            seen.append(item.proxy)
            item.ack()
    assert seen == ["two", "one"]


def test_one_that_nobody_waits_for_has_no_end(broker: Moody) -> None:
    with Producer(broker, "frames", awaited=False) as out:
        out.send("before").result(10)
        with pytest.raises(ConfigurationError, match="close it"):
            out.end()
    assert producers(broker) == {}
    with Producer(broker, "frames") as out:
        out.end()
    with Consumer(broker, "frames", timeout=10) as consumer:
        assert list(consumer.objects()) == ["before"]
    with pytest.raises(ConfigurationError, match="no name"):
        Producer(broker, "frames", awaited=False, name="detector")


def test_a_partition_is_a_number(broker: Moody) -> None:
    with Producer(broker, "frames", partitions=3) as out:
        for wrong in ("a", 1.0, [0]):
            with pytest.raises(ConfigurationError, match="whole number"):
                out.send(1, partition=wrong)  # type: ignore[arg-type]  # what is tested
        assert out.send(2, partition=np.int64(2)).result(10).partition == 2  # type: ignore[arg-type]  # as from arrays
