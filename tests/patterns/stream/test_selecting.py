"""A consumer's selector takes nothing, all, or a part of an object, and only that moves."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.errors import ObjectReleased
from proxyfab.events.broker import Broker
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.producer import Producer
from proxyfab.testing.servers import RedisServer


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    with Store(redis_server.database(), cache=0) as store:
        yield store
        store.clear()


def send(broker: Broker, store: Store, *objects: Any) -> None:
    with Producer(broker, "frames", store=store) as out:
        for n, obj in enumerate(objects):
            out.send(obj, n=n)
        out.end()


IMAGE = np.arange(500_000.0).reshape(1000, 500)


def test_only_what_is_selected_moves(broker: Broker, store: Store) -> None:
    send(broker, store, *[IMAGE + n for n in range(10)])
    choice: dict[int, Any] = {0: slice(0, 10), 1: [slice(5, 10), range(900, 910, 5)], 2: slice(None, None, 100), 3: ...}
    before = moved(store)

    with Consumer(broker, "frames", select=lambda metadata, _: choice.get(metadata["n"])) as consumer:
        found = {}
        for item in consumer:
            found[item.metadata["n"]] = item.proxy
            if item.metadata["n"] in (0, 1):
                np.asarray(found[item.metadata["n"]])
        np.testing.assert_array_equal(found[0], IMAGE[:10])
        np.testing.assert_array_equal(found[1], np.concatenate([IMAGE[5:10], IMAGE[900:910:5]]) + 1)
        assert moved(store) - before < 20 * IMAGE[0].nbytes + 30_000
        np.testing.assert_array_equal(found[2], IMAGE[::100] + 2)
        np.testing.assert_array_equal(found[3], IMAGE + 3)
        assert [found[n] for n in range(4, 10)] == [None] * 6


def moved(store: Store) -> float:
    stats = store.stats()
    return sum(stats[name]["bytes"] for name in ("get", "get_range") if name in stats)


def test_what_travels_in_events_is_cut_too(broker: Broker, store: Store) -> None:
    send(broker, store, b"0123456789", 7, np.arange(10))

    with Consumer(broker, "frames", select=lambda *_: [slice(0, 2), slice(8, None)]) as consumer:
        first, second, third = [item.get(5) for item in consumer]

    assert (first, second) == (b"0189", 7)
    np.testing.assert_array_equal(third, [0, 1, 8, 9])


def test_it_lands_where_it_should(broker: Broker, store: Store) -> None:
    send(broker, store, *[IMAGE + n for n in range(3)])
    ring = np.zeros((3, 10, 500))

    with Consumer(
        broker, "frames", select=lambda *_: slice(10, 20), allocate=lambda metadata, _: ring[metadata["n"]]
    ) as consumer:
        found = [item.get() for item in consumer]

    np.testing.assert_array_equal(ring, [IMAGE[10:20] + n for n in range(3)])
    assert np.shares_memory(found[1], ring)


def test_a_part_travels_and_tells_when_its_object_is_released(broker: Broker, store: Store) -> None:
    send(broker, store, IMAGE)

    with Consumer(broker, "frames", select=lambda *_: slice(0, 3)) as consumer:
        (item,) = consumer
        sent = pickle.dumps(item.proxy)
        np.testing.assert_array_equal(pickle.loads(sent), IMAGE[:3])
        item.ack()
    with pytest.raises(ObjectReleased, match="frames/0@1 is gone"):
        np.asarray(pickle.loads(sent))
    whole = pickle.loads(pickle.dumps(item.ref))
    with pytest.raises(ObjectReleased, match="frames/0@1 is gone"):
        whole.resolve()


def test_a_selector_that_fails_fails_where_the_object_is_asked_for(broker: Broker, store: Store) -> None:
    send(broker, store, IMAGE)

    with Consumer(broker, "frames", select=lambda metadata, _: metadata["missing"]) as consumer:
        (item,) = consumer
        with pytest.raises(KeyError, match="missing"):
            _ = item.proxy
