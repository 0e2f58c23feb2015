"""Forwarding: a topic at another broker, each frame once, whatever dies when."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import ConfigurationError, Conflict, ConnectorError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Record, Topic
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.forwarding import Forwarded, forward
from proxyfab.patterns.stream.producer import Producer
from proxyfab.testing import until
from proxyfab.testing.content import held
from tests.patterns.stream.doom import Crash, Doom, DoomedBroker
from tests.patterns.stream.events_at_hand import publish


@pytest.fixture
def edge() -> Iterator[Broker]:
    with MemoryBroker() as broker:
        yield broker


@pytest.fixture
def site() -> Iterator[Broker]:
    with MemoryBroker() as broker:
        yield broker


@pytest.fixture
def near() -> Iterator[Store]:
    with Store("memory://", inline_below=0) as store:
        yield store
        store.clear()


@pytest.fixture
def far() -> Iterator[Store]:
    with Store("memory://", inline_below=0) as store:
        yield store
        store.clear()


def test_everything_is_there_in_order_and_the_end_too(edge: Broker, site: Broker) -> None:
    with Producer(edge, Topic("t", partitions=3), name="camera") as out:
        for n in range(500):
            out.send(n, key=f"k{n % 7}", exposure=n)
        out.end()

    done = forward(edge, "t", site)

    assert done.events == 500 + 3
    assert site.describe("t").topic.partitions == 3
    items = list(Consumer(site, "t"))
    assert sorted(item.proxy for item in items) == list(range(500))
    for key in {item.key for item in items}:
        mine = [item.proxy for item in items if item.key == key]
        assert mine == sorted(mine)
    assert {item.id for item in items} == {item.id for item in Consumer(edge, "t", group="other")}
    assert edge.groups("t")["forward-forward"].lag == 0
    assert forward(edge, "t", site) == Forwarded()


def test_another_name_and_fewer_partitions(edge: Broker, site: Broker) -> None:
    site.ensure(Topic("other"))
    with Producer(edge, Topic("t", partitions=3)) as out:
        for n in range(30):
            out.send(n, partition=n % 3)
        out.end()

    forward(edge, "t", site, "other")

    assert sorted(item.proxy for item in Consumer(site, "other")) == list(range(30))


def test_a_crash_at_every_step() -> None:
    for at in range(200):
        with MemoryBroker() as edge, MemoryBroker() as site:
            edge.ensure(Topic("t"))
            site.ensure(Topic("t", window=0.0))  # which forgets ids at once
            for n in range(5):
                publish(edge, "t", [n], first=n)
            doom = Doom(at)
            with contextlib.suppress(Crash):
                forward(DoomedBroker(edge, doom), "t", DoomedBroker(site, doom))
            finished = not doom.dead
            if finished:
                doom.die()
            forward(edge, "t", site)
            with Consumer(site, "t", observe=True) as reader:
                assert [item.proxy for item in reader.fetch(10, 0.1)] == [0, 1, 2, 3, 4], doom.last
            assert site.describe("t").records == 5, doom.last
            if finished:
                assert at > 15
                return
    raise AssertionError("it never ended")


def test_a_second_forwarder_takes_over(edge: Broker, site: Broker) -> None:
    edge.ensure(Topic("t"))
    stopped: list[Conflict] = []
    gate = threading.Event()

    def first() -> None:
        try:
            forward(edge, "t", site, follow=True, stop=lambda: gate.wait(0) and False)
        except Conflict as error:
            stopped.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    until(lambda: "t" in site.topics() and site.state("t").get("forward/forward") is not None, 5)
    forward(edge, "t", site)
    publish(edge, "t", ["x"])
    thread.join(10)

    assert "has taken over" in str(stopped[0])
    forward(edge, "t", site)
    assert site.describe("t").records == 1


def test_objects_are_copied(edge: Broker, site: Broker, near: Store, far: Store) -> None:
    theirs = near.ref(np.arange(50))
    with Producer(edge, "t", store=near, above=100) as out:
        for n in range(3):
            out.send(np.full(1000, n))
        out.send(theirs)
        out.send([1, 2])
        out.end()

    done = forward(edge, "t", site, copy_objects=True, store=far)

    assert (done.objects, held(far)) == (4, 4)
    assert held(near) == 1, "those of the source go with its last acknowledgement; somebody else's stays"
    with Consumer(site, "t") as consumer:
        found = []
        for item in consumer:
            found.append(item.get())
            item.ack()
    np.testing.assert_array_equal(found[2], np.full(1000, 2))
    np.testing.assert_array_equal(found[3], np.arange(50))
    assert found[4] == [1, 2]
    assert until(lambda: held(far) == 0, 5)
    assert theirs.exists()


def test_a_topic_that_was_made_anew_is_not_taken_for_the_one_before(edge: Broker, site: Broker) -> None:
    for numbers in (range(5), range(100, 103)):
        edge.delete("t")
        with Producer(edge, "t") as out:
            for number in numbers:
                out.send(number)
            out.end()
        if 0 in numbers:
            assert forward(edge, "t", site).events == 5 + 1
    with pytest.raises(ConfigurationError, match="made anew"):
        forward(edge, "t", site)
    assert edge.groups("t")["forward-forward"].lag > 0, "nothing of it is acknowledged"
    assert forward(edge, "t", site, to="u").events == 3 + 1
    assert [item.get() for item in Consumer(site, "u")] == [100, 101, 102]


def test_a_second_target_has_a_name_of_its_own(edge: Broker, site: Broker) -> None:
    publish(_with(edge), "t", ["x"])
    assert forward(edge, "t", site).frames == 1
    publish(edge, "t", ["y"])

    with MemoryBroker() as other:
        with pytest.raises(ConfigurationError, match="each would get a part"):
            forward(edge, "t", other)
        assert edge.groups("t")["forward-forward"].lag == 1, "the first one's"
        assert forward(edge, "t", other, name="other").frames == 2
    with pytest.raises(ConfigurationError, match="--name"):
        forward(edge, "t", site, to="u")
    assert forward(edge, "t", site).frames == 1


def test_a_target_that_was_made_anew_is_not_left_without_what_was_before(edge: Broker, site: Broker) -> None:
    publish(_with(edge), "t", ["x"])
    forward(edge, "t", site)
    site.delete("t")

    with pytest.raises(ConfigurationError, match="made anew"):
        forward(edge, "t", site)
    assert forward(edge, "t", site, name="again").frames == 1


def test_a_topic_is_not_forwarded_to_itself(edge: Broker) -> None:
    publish(_with(edge), "t", ["x"])

    with pytest.raises(ConfigurationError, match="to itself"):
        forward(edge, "t", edge)
    assert (edge.describe("t").records, edge.groups("t")) == (1, {})
    assert forward(edge, "t", edge, to="u").frames == 1


def test_references_travel_where_they_stay(edge: Broker, site: Broker, near: Store) -> None:
    with Producer(edge, Topic("t", release="never"), store=near, above=100) as out:
        out.send(np.arange(1000))
        out.end()

    forward(edge, "t", site)

    site_release = site.describe("t").topic.release
    with Consumer(site, "t") as consumer:
        for item in consumer:
            np.testing.assert_array_equal(item.get(), np.arange(1000))
            item.ack()
    assert site_release == "never"
    assert held(near) == 1


def test_references_that_would_be_released_are_refused(edge: Broker, site: Broker, near: Store) -> None:
    publish(_with(edge), "t", [np.arange(1000)], store=near)

    with pytest.raises(ConfigurationError, match="copy_objects=True"):
        forward(edge, "t", site)
    with pytest.raises(ConfigurationError, match="a store is needed"):
        forward(edge, "t", site, copy_objects=True)
    assert edge.groups("t")["forward-forward"].lag == 1


def _with(broker: Broker) -> Broker:
    broker.ensure(Topic("t"))
    return broker


def test_what_is_gone_travels_as_a_reference(edge: Broker, site: Broker, near: Store, far: Store) -> None:
    publish(_with(edge), "t", [np.arange(1000)], store=near)
    near.clear()
    edge.publish("t", [Record(b"no frame")])

    done = forward(edge, "t", site, copy_objects=True, store=far)

    assert (done.missing, done.frames, site.describe("t").records) == (1, 2, 2)


def test_what_cannot_be_reached_is_said_and_goes_on(
    edge: Broker, site: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(_with(edge), "t", ["x"])
    original = type(site).publish

    def away(*_: object, **__: object) -> list[object]:
        raise ConnectorError("away")

    monkeypatch.setattr(type(site), "publish", away)
    with pytest.raises(ConnectorError):
        forward(edge, "t", site)
    monkeypatch.setattr(type(site), "publish", original)
    assert forward(edge, "t", site).frames == 1
