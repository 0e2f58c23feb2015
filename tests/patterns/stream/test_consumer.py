"""A consumer gets every event until somebody has said what became of it, and knows when there are no more."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from itertools import islice
from typing import Any

import numpy as np
import pytest

from proxyfab import Ref, Store, is_proxy, ref_of
from proxyfab.errors import (
    ConfigurationError,
    ConnectorError,
    IntegrityError,
    ObjectReleased,
    ResolveTimeout,
    SerializationError,
)
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, LATEST, Delivery, Position, Record, Topic
from proxyfab.patterns.stream import supply
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.continuity import Gap
from proxyfab.testing import in_fork, until
from proxyfab.wire.events import OBJECT, Event, Frame, encode
from tests.patterns.stream.doom import Lent
from tests.patterns.stream.frames import Writer


def values(consumer: Consumer) -> list[object]:
    found = []
    for item in consumer:
        found.append(item.get())
        item.ack()
    return found


# -- what is in an item ------------------------------------------------------------------------------------------------


def test_an_item_says_all_that_was_said_of_it(broker: Broker, store: Store) -> None:
    out = Writer(broker)
    out.send(np.arange(3), key="run-1", store=store, exposure=0.2)
    out.end()
    with Consumer(broker, "t") as consumer:
        item = next(iter(consumer))

        assert is_proxy(item.proxy) and list(item.proxy) == [0, 1, 2]
        assert isinstance(item.ref, Ref) and ref_of(item.proxy) == item.ref
        assert item.get().tolist() == [0, 1, 2]
        assert item.metadata == {"exposure": 0.2} and item.metadata is item.metadata
        assert (item.key, item.producer, item.epoch, item.sequence, item.partition) == ("run-1", "p", 0, 0, 0)
        assert (item.id, item.attempt, item.settled) == ("p-0-0-0", 1, False)
        assert item.position == Position("t", 0, 1)
        assert item.time == 1_700_000_000.5
        assert item.nbytes == item.ref.nbytes == 24
        assert item.attributes == {
            "specversion": "1.0",
            "id": "p-0-0-0",
            "source": "//here",
            "type": "proxyfab.event",
            "time": "2023-11-14T22:13:20.500000Z",
            "subject": "run-1",
            "partitionkey": "run-1",
        }
        assert repr(item) == "<Item at t/0@1 of p>"


@pytest.mark.parametrize("value", [None, 0, 1.5, "text", b"bytes", True])
def test_what_stands_in_an_event_comes_as_itself(broker: Broker, value: object) -> None:
    out = Writer(broker)
    out.send(value)
    out.end()
    (item,) = Consumer(broker, "t").fetch()

    assert item.proxy is item.get() or item.proxy == item.get()
    assert item.get() == value and type(item.get()) is type(value)
    assert item.ref is None


def test_given_attributes_win(broker: Broker) -> None:
    Writer(broker).send(1, attributes={"id": "mine", "type": "frame"})
    (item,) = Consumer(broker, "t").fetch()
    assert item.id == "mine" == item.attributes["id"]
    assert item.attributes["type"] == "frame"


def test_a_released_object_says_so_by_topic_and_position_here_and_elsewhere(broker: Broker, store: Store) -> None:
    Writer(broker).send([1], store=store)
    (item,) = Consumer(broker, "t").fetch()
    assert item.ref is not None
    proxies = [item.proxy, pickle.loads(pickle.dumps(item.proxy)), pickle.loads(pickle.dumps(item.ref)).proxy()]
    item.ref.evict()
    for proxy in proxies:
        with pytest.raises(ObjectReleased, match=r"event at t/0@1 is gone: topic t has released it") as caught:
            len(proxy)
        assert ("give the producer's store one" in str(caught.value)) == ("~" in store.url)


def test_a_damaged_reference_breaks_no_iteration(broker: Broker) -> None:
    out = Writer(broker)
    out.publish([Event(OBJECT, [0, "x"])], stores=["memory://"])
    out.send("good")
    out.end()
    with Consumer(broker, "t") as consumer:
        items = iter(consumer)
        with pytest.raises(IntegrityError, match=r"t/0@1.* 2 fields"):
            _ = next(items).proxy
        assert next(items).get() == "good"
    with Consumer(broker, "t") as consumer:
        assert list(consumer.objects()) == ["good"]
        assert consumer.stats()["buried"] == 1


# -- settling ----------------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_does_not_come_again(broker: Broker) -> None:
    out = Writer(broker)
    out.send(*range(10))
    out.send(*range(10, 15))
    out.end()
    assert values(Consumer(broker, "t")) == list(range(15))
    assert broker.groups("t")["default"].lag == 0
    assert values(Consumer(broker, "t")) == []
    assert values(Consumer(broker, "t", group="other")) == list(range(15))


def test_acknowledgements_are_told_within_a_moment(broker: Broker) -> None:
    Writer(broker).send(1)
    consumer = Consumer(broker, "t")
    (item,) = consumer.fetch()
    item.ack()
    item.ack()
    assert item.settled
    assert until(lambda: broker.groups("t")["default"].lag == 0)


def test_a_frame_is_acknowledged_when_all_of_it_is(broker: Broker) -> None:
    Writer(broker).send(1, 2)
    with Consumer(broker, "t") as consumer:
        one, two = consumer.fetch()
        two.ack()
        assert consumer.lag() == 1
        one.ack()
        assert consumer.lag() == 0


def test_what_was_given_back_comes_again_alone(broker: Broker) -> None:
    Writer(broker).send(1, 2, 3)
    with Consumer(broker, "t") as consumer:
        one, two, three = consumer.fetch()
        one.ack()
        two.nack()
        three.ack()
        (again,) = consumer.fetch()
        assert (again.get(), again.attempt, again.id) == (2, 2, two.id)
        again.ack()
        assert consumer.lag() == 0


def test_the_first_verdict_counts(broker: Broker) -> None:
    Writer(broker).send(1, 2)
    with Consumer(broker, "t") as consumer:
        one, two = consumer.fetch()
        one.nack()
        one.ack()
        two.ack()
        two.nack()
        two.reject("no")
        assert [item.get() for item in consumer.fetch()] == [1]


def test_what_is_given_back_comes_after_its_delay(broker: Broker) -> None:
    Writer(broker).send(1)
    with Consumer(broker, "t") as consumer:
        started = time.monotonic()
        consumer.fetch()[0].nack(0.2)
        assert consumer.fetch()[0].get() == 1
        assert time.monotonic() - started >= 0.2
    Writer(broker, "u").send(1)
    (item,) = Consumer(broker, "u").fetch()
    with pytest.raises(ConfigurationError, match="0 or more"):
        item.nack(-1)


def test_a_block_acknowledges_or_gives_back(broker: Broker) -> None:
    Writer(broker).send(1, 2)
    with Consumer(broker, "t") as consumer:
        one, two = consumer.fetch()
        with one as item:
            assert item is one
        with pytest.raises(KeyError), two:
            raise KeyError("x")
        assert [(item.get(), item.attempt) for item in consumer.fetch()] == [(2, 2)]


def test_objects_are_acknowledged_when_the_next_is_asked_for(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2, 3)
    seen = []
    with pytest.raises(KeyError):
        for obj in Consumer(broker, "t").objects():
            seen.append(obj)
            if obj == 2:
                raise KeyError
    out.end()
    seen += Consumer(broker, "t").objects()
    assert seen == [1, 2, 2, 3] or seen == [1, 2, 1, 2, 3]  # a note goes with what is given back by `close` only
    assert broker.groups("t")["default"].lag == 0


def test_closing_gives_back_at_once_and_says_what_is_done(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2)
    out.send(3)
    with Consumer(broker, "t", ack_wait=1000) as consumer:
        items = iter(consumer)
        next(items).ack()
    found = Consumer(broker, "t").fetch()
    assert [(item.get(), item.attempt) for item in found] == [(2, 2), (3, 1)]


def test_a_consumer_that_nobody_has_is_closed_and_its_items_keep_it(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2)
    gc.disable()
    try:
        one, two = Consumer(broker, "t", ack_wait=1000).fetch()
        one.ack()
        two.ack()
        assert until(lambda: broker.groups("t")["default"].lag == 0)
        out.send(3)
        del one, two
        (three,) = Consumer(broker, "t", ack_wait=1000).fetch()
        del three
        (again,) = Consumer(broker, "t", ack_wait=1000).fetch(timeout=30)
    finally:
        gc.enable()
    assert (again.get(), again.attempt) == (3, 2)


def test_who_stood_still_hands_out_nothing_that_others_have_done(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody extends what waits in a process that is stopped; what it held is another's when it goes on."""
    out = Writer(broker)
    for number in range(4):
        out.send(number)
    out.end()
    with Consumer(broker, "t", ack_wait=0.5) as stopped, Consumer(broker, "t") as other:
        monkeypatch.setattr(stopped._desk, "beat", lambda: None)
        assert stopped.fetch(1) + stopped.fetch(1)  # the pace allows two frames by now: one waits, or more
        done = []
        while len(done) < 4:
            (item,) = other.fetch(1, 20)
            done.append(item.get())
            item.ack()
        other.flush()
        assert list(stopped) == []
        assert sorted(done) == [0, 1, 2, 3]


def test_what_came_while_the_process_stood_still_is_given_back(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been delivered long ago: nobody knows how much of its time is left."""
    monkeypatch.setattr(supply, "_LONG", 0.2)
    Writer(broker).send(1)
    with Consumer(broker, "t", ack_wait=0.2) as consumer:
        fetching, stood = consumer._supply.fetching, []
        fetch = fetching.fetch

        def stand_still(most: int, timeout: float) -> list[Delivery]:
            found = fetch(most, timeout)
            if found and not stood:
                stood.append(found)
                time.sleep(timeout + 0.2)
            return found

        monkeypatch.setattr(fetching, "fetch", stand_still)
        (item,) = consumer.fetch(1, 20)
        assert stood
        assert item._hand.delivery.attempt > 1
        item.ack()


def test_what_nobody_settles_comes_again_elsewhere(broker: Broker) -> None:
    Writer(broker).send(1)
    with Consumer(broker, "t", ack_wait=0.2) as first, Consumer(broker, "t", ack_wait=0.2) as second:
        (item,) = first.fetch()
        (again,) = second.fetch(timeout=30)
        assert (again.get(), again.attempt) == (1, 2)
        again.ack()
        item.ack()
        assert second.lag() == 0


def test_long_work_is_extended(broker: Broker) -> None:
    Writer(broker).send(1)
    with Consumer(broker, "t", ack_wait=0.3) as first, Consumer(broker, "t", ack_wait=0.3) as second:
        (item,) = first.fetch()
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            item.extend()
            assert second.fetch(timeout=0.05) == []
        item.ack()
        assert first.lag() == 0


def test_what_waits_is_kept_while_events_are_asked_for_and_given_back_otherwise(broker: Broker) -> None:
    out = Writer(broker)
    for number in range(4):
        out.send(number)
    with Consumer(broker, "t", ack_wait=0.3) as first, Consumer(broker, "t", ack_wait=0.3) as second:
        mine = first.fetch(1)
        mine += first.fetch(1)  # the pace allows two frames by now: one waits, or more
        theirs = {}
        while len(theirs) < 4:
            for item in second.fetch(timeout=0.1):
                theirs[item.get()] = item.attempt
                item.ack()
        assert [item.get() for item in mine] == [0, 1]
        assert theirs == {0: 2, 1: 2, 2: 1, 3: 1}, "what was not handed out was no attempt"


def test_progress_within_a_frame_keeps_it(broker: Broker) -> None:
    out = Writer(broker)
    out.send(*range(8))
    out.end()
    with Consumer(broker, "t", ack_wait=0.3) as consumer:
        found = []
        for item in consumer:
            threading.Event().wait(0.1)
            found.append(item.get())
            item.ack()
        assert found == list(range(8))
        assert consumer.stats()["frames"] == 2, "nothing came twice"


def test_threads_settle_what_one_has_fetched(broker: Broker) -> None:
    out = Writer(broker)
    for first in range(0, 6400, 64):
        out.send(*range(first, first + 64))
    with Consumer(broker, "t") as consumer:
        items = []
        while len(items) < 6400:
            items += consumer.fetch(1000)
        threads = [threading.Thread(target=lambda n=n: [item.ack() for item in items[n::4]]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert consumer.lag() == 0


def test_threads_share_a_consumer(broker: Broker) -> None:
    out = Writer(broker)
    for first in range(0, 3000, 10):
        out.send(*range(first, first + 10))
    out.end()
    found: list[object] = []
    with Consumer(broker, "t") as consumer:
        threads = [threading.Thread(target=lambda: found.extend(values(consumer))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == list(range(3000))  # type: ignore[type-var]


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_stream_with_several_producers_ends_with_the_last(broker: Broker) -> None:
    one, two = Writer(broker, name="one"), Writer(broker, name="two")
    one.send(1)
    one.end()
    two.send(2)
    with Consumer(broker, "t", timeout=0.2) as consumer:
        items = iter(consumer)
        assert [next(items).get(), next(items).get()] == [1, 2]
        with pytest.raises(ResolveTimeout, match=r"No event came to default of t for 0.2 s"):
            next(items)
        two.end()
        assert list(consumer) == []
        assert consumer.over


def test_every_member_sees_the_end(broker: Broker) -> None:
    out = Writer(broker, partitions=2)
    found: list[object] = []
    members = [Consumer(broker, "t") for _ in range(3)]
    threads = [threading.Thread(target=lambda m=m: found.extend(values(m))) for m in members]
    for thread in threads:
        thread.start()
    out.send(1, 2)
    out.send(3, partition=1)
    out.end()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(found) == [1, 2, 3]  # type: ignore[type-var]
    for member in members:
        member.close()


def test_the_end_waits_for_what_another_member_holds(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1)
    with Consumer(broker, "t") as first, Consumer(broker, "t", timeout=0.3) as second:
        (item,) = first.fetch()
        out.end()
        with pytest.raises(ResolveTimeout):
            list(second)
        item.nack()
        first.close()
        assert values(second) == [1]


def test_the_end_does_not_wait_for_what_it_holds_itself(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2)
    out.end()
    with Consumer(broker, "t") as consumer:
        items = list(consumer)
        assert [item.get() for item in items] == [1, 2]
        for item in items:
            item.ack()
        assert consumer.lag() == 0


def test_given_partitions_end_by_themselves(broker: Broker) -> None:
    out = Writer(broker, partitions=2)
    out.send(1)
    out.send(2, partition=1)
    out.end()
    with Consumer(broker, "t", partitions=[1]) as consumer:
        items = iter(consumer)
        next(items).nack()
        assert values(consumer) == [2]
    with pytest.raises(ConfigurationError, match="partitions"):
        Consumer(broker, "t", partitions=[7]).fetch()


# -- where it begins ---------------------------------------------------------------------------------------------------


def test_a_reader_owes_nothing(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2)
    out.end()
    with Consumer(broker, "t", observe=True) as reader:
        items = list(reader)
        items[0].ack()
        items[0].nack()
        items[1].nack()
        items[1].reject("no")
        assert [item.get() for item in items] == [1, 2]
    assert broker.groups("t") == {}
    assert broker.topics() == ["t"]


def test_seeking(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1)
    at = out.send(2, 3, 4)
    with Consumer(broker, "t", observe=True, timeout=0.2) as reader:
        assert [item.get() for item in reader.fetch(2)] == [1, 2]
        reader.seek(at._replace(event=1))
        assert [item.get() for item in reader.fetch()] == [3, 4]
        reader.seek(LATEST)
        out.send(5)
        assert [item.get() for item in reader.fetch()] == [5]
        reader.seek(EARLIEST)
        assert [item.get() for item in islice(reader, 5)] == [1, 2, 3, 4, 5]
        reader.seek(time.time() + 10)
        assert reader.fetch(timeout=0) == []
        reader.seek(0.0)
        assert next(iter(reader)).get() == 1
        with pytest.raises(ConfigurationError, match="topic u"):
            reader.seek(Position("u", 0, 1))


def test_seeking_moves_the_group(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1)
    out.send(2)
    with Consumer(broker, "t") as consumer:
        (old,) = consumer.fetch(1)
        consumer.seek(EARLIEST)
        old.ack()
        consumer.flush()
        assert [item.get() for item in islice(consumer, 2)] == [1, 2]


def test_a_consumer_may_come_first(broker: Broker) -> None:
    with Consumer(broker, "t", start=LATEST) as consumer:
        out = Writer(broker)
        out.send(1)
        assert next(iter(consumer)).get() == 1
    with Consumer(broker, Topic("u", partitions=3)):
        assert broker.describe("u").topic.partitions == 3


def test_leaving_a_loop_amid_a_frame_loses_nothing(broker: Broker) -> None:
    Writer(broker).send(*range(5))
    with Consumer(broker, "t", timeout=5) as consumer:
        assert [item.get() for item in islice(consumer, 1)] == [0]
        assert [item.get() for item in islice(consumer, 2)] == [1, 2]
        assert [each.get() for each in consumer.fetch(1)] == [3]
        assert [each.get() for each in consumer.fetch()] == [4]
        assert consumer.fetch(timeout=0.01) == []


# -- gaps and copies ---------------------------------------------------------------------------------------------------


def test_who_is_told_of_a_gap_may_go_back(broker: Broker) -> None:
    out = Writer(broker)
    start = out.send(0)
    out.numbers[0] = 3
    out.send(1)
    out.end()
    told: list[Gap] = []

    def back(gap: Gap) -> None:
        told.append(gap)
        if len(told) == 1:
            reader.seek(start)

    with Consumer(broker, "t", observe=True, on_gap=back) as reader:
        assert [item.get() for item in reader] == [0, 1, 0, 1]
    assert len(told) == 2


def test_gaps_are_reported_once(broker: Broker) -> None:
    out = Writer(broker)
    out.numbers[0] = 100  # the beginning may be gone: that is no gap
    out.send(1, 2)
    out.numbers[0] += 3
    out.send(3)
    out.end()
    found: list[Gap] = []
    with Consumer(broker, "t", observe=True, on_gap=found.append) as reader:
        assert len(list(reader)) == 3
        assert found == [Gap("p", 0, 0, 102, 3, Position("t", 0, 2))]
        assert (reader.stats()["gaps"], reader.stats()["missing"]) == (1, 3)
    with Consumer(broker, "t", observe=True) as reader:
        assert len(list(reader)) == 3
        assert reader.stats()["gaps"] == 1
    with Consumer(broker, "t", on_gap=found.append) as member:
        assert len(list(member)) == 3, "others may have what a member of a group does not see"
        assert len(found) == 1


def test_what_was_published_twice_comes_once(broker: Broker) -> None:
    out = Writer(broker)
    body = encode(Frame("p", 0, 0, 0, "", [], [Event(0, 1), Event(0, 2)]))
    broker.publish("t", [Record(body), Record(body)])
    out.numbers[0] = 2
    out.send(3, attributes={"id": "x"})
    out.send(3, attributes={"id": "x"})
    out.end()
    with Consumer(broker, "t") as consumer:
        assert values(consumer) == [1, 2, 3]
        assert consumer.stats()["duplicates"] == 3
        assert consumer.lag() == 0


# -- life --------------------------------------------------------------------------------------------------------------


def test_event_loops(broker: Broker) -> None:
    out = Writer(broker)
    out.send(1, 2)
    out.send(3, [4], store=Store("memory://stream-loop"))

    async def work() -> list[object]:
        found = []
        async with Consumer(broker, "t") as consumer:
            async for item in consumer:
                found.append(await item.aget())
                await item.aextend()
                await item.aack()
                if len(found) == 3:
                    break
            (last,) = await consumer.afetch()
            found.append(await last.aget())
            await last.anack()
            (last,) = await consumer.afetch()
            await last.areject("enough")
            out.end()
            assert [item async for item in consumer] == []
        await consumer.aclose()
        return found

    assert asyncio.run(work()) == [1, 2, 3, [4]]
    Store("memory://stream-loop").clear()


def test_a_cancelled_wait_loses_nothing(broker: Broker) -> None:
    out = Writer(broker)

    async def work() -> object:
        async with Consumer(broker, "t") as consumer:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(aiter(consumer)), 0.1)
            out.send(1)
            return (await anext(aiter(consumer))).get()

    assert asyncio.run(work()) == 1


def test_a_closed_consumer_says_so(broker: Broker) -> None:
    consumer = Consumer(broker, "t")
    consumer.close()
    consumer.close()
    assert consumer.closed
    for call in (consumer.fetch, consumer.lag, lambda: next(iter(consumer)), lambda: consumer.seek(EARLIEST)):
        with pytest.raises(ConnectorError, match="consumer of t was closed"):
            call()
    with pytest.raises(SerializationError, match="belongs to the process"):
        pickle.dumps(consumer)


def test_a_forked_child_has_a_closed_copy(broker: Broker) -> None:
    Writer(broker).send(1, 2)
    with Consumer(broker, "t") as consumer:
        items = iter(consumer)
        item = next(items)

        def child() -> bool:
            item.ack()
            next(items).ack()
            return consumer.closed

        assert in_fork(child)
        assert consumer.lag() == 1


class Late(Lent):
    """A broker that cannot be reached at first."""

    def __init__(self, real: Broker, away: int) -> None:
        super().__init__(real)
        self.away = away

    def ensure(self, topic: Topic, **options: Any) -> Topic:
        self.away -= 1
        if self.away >= 0:
            raise ConnectorError("nobody listens")
        return super().ensure(topic, **options)


@pytest.mark.parametrize("ordered", [False, True])
def test_beginning_has_the_patience_that_reading_has(broker: Broker, ordered: bool) -> None:
    broker.ensure(Topic("t"))
    with Consumer(Late(broker, 2), "t", ordered=ordered) as consumer:
        assert consumer.fetch(1, 0) == []
    late = Late(broker, 1000)
    with pytest.raises(ConnectorError, match="Topic t cannot be read: broker memory.*start the broker"):
        Consumer(late, "t", ordered=ordered, patience=0.2).open()
    assert late.away < 999
    with pytest.raises(ConnectorError, match="cannot be read"):
        Consumer(late, "t", ordered=ordered).open(patience=0.0)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"ack_wait": 0}, {"patience": -1}, {"timeout": 0}, {"prefetch": 0}])
def test_arguments_that_make_no_sense(broker: Broker, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        Consumer(broker, "t", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        Consumer(broker, "t t")
    with pytest.raises(ConfigurationError):
        Consumer(broker, "t", group="a b")


@pytest.mark.parametrize(
    "given",
    [{"topic": None}, {"broker": 5}, {"start": "latest"}, {"where": 5}, {"select": "rows"}, {"allocate": bytearray(8)}],
)
def test_an_argument_of_the_wrong_kind_is_named(broker: Broker, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(given))}= is .*not "):
        Consumer(**{"broker": broker, "topic": "t", **given})
    with Consumer(broker, "t") as consumer, pytest.raises(ConfigurationError, match="to= is .*'latest'"):
        consumer.seek("latest")  # type: ignore[arg-type]


def test_a_broker_by_its_url() -> None:
    with Consumer("memory://by-url", "t") as consumer:
        Writer(consumer.broker).send(1)
        assert next(iter(consumer)).get() == 1
        assert repr(consumer) == "<Consumer: default of t at memory://by-url>"
    consumer.broker.delete("t")
    consumer.broker.close()
