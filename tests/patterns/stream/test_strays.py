"""Objects that were stored for an event which never was: found by their ids, and by nobody's reference."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.brokers import open_broker
from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import ConnectorError
from proxyfab.events.broker import Broker
from proxyfab.patterns.stream import Consumer, Producer, sweep, sweep_strays
from proxyfab.patterns.stream.deadletters import replay
from proxyfab.testing import Child
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import RedisServer

COUNT = 5


@pytest.fixture(params=["memory", "redis", "nats"])
def broker(request: pytest.FixtureRequest, redis_server: RedisServer, nats_server: NatsServer) -> Iterator[Broker]:
    urls = {"memory": "memory://strays", "redis": redis_server.database(), "nats": nats_server.url}
    with open_broker(urls[request.param]) as broker:
        broker.delete("strays")
        yield broker
        broker.delete("strays")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}/objects?ns=strays") as store:
        yield store


def ids(store: Store) -> set[str]:
    return {stat.key.id for stat in store.connector.scan()}  # type: ignore[attr-defined]  # a directory can be listed


def store_and_die(talk: Connection, url: str, store: str) -> None:
    """Send events that wait for others, until killed."""
    with Producer(url, "strays", store=store, above=100, linger=600.0) as out:
        for number in range(COUNT):
            out.send(np.full(100, number))
        talk.send("stored")
        talk.recv()


def stray(broker: Broker, store: Store) -> None:
    """Store objects for events that are never sent."""
    out = Producer(broker, "strays", store=store, above=100, linger=600.0)
    for number in range(COUNT):
        out.send(np.full(100, number))
    keys = [key for draft in out._gathering.pending() for _, key in draft.kept]
    for draft in out._gathering.pending():
        draft.kept.clear()  # as if it had been killed: nobody evicts them
    out.abort()
    assert {key.id for key in keys} == ids(store) and len(keys) == COUNT


def test_what_was_not_sent_is_found_and_what_was_stays(broker: Broker, store: Store) -> None:
    stray(broker, store)
    lost = ids(store)
    mine = store.put([1] * 100)
    with Producer(broker, "strays", store=store, above=100) as out:
        for number in range(COUNT):
            out.send(np.full(100, number))
    kept = ids(store) - lost
    assert len(kept) == COUNT + 1

    assert sweep_strays(broker, "strays") == [], "they might still be sent"
    assert len(sweep_strays(broker, "strays", older=0.0, dry_run=True)) == COUNT
    assert ids(store) == kept | lost
    found = sweep_strays(broker, "strays", older=0.0)
    assert {each.what.partition("@")[0].partition(" ")[0] for each in found} == lost
    assert ids(store) == kept
    with Consumer(broker, "strays") as consumer:
        found_events: list[int] = []
        while len(found_events) < COUNT:
            for item in consumer.fetch(COUNT, 10.0):
                found_events.append(int(item.get()[0]))
                item.ack()
    assert found_events == list(range(COUNT))
    sweep(broker, "strays")
    assert ids(store) == {mine.id}


def test_copies_for_dead_letters(broker: Broker, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose letter never came to be is a stray; one with a letter is not, nor when it was sent once more."""
    broker.delete("strays.dlq")
    with Producer(broker, "strays", store=store, above=100, groups=["archive"]) as out:
        for number in range(2):
            out.send(np.full(100, number))
    mine = ids(store)
    publish: Any = broker.publish

    def fails(topic: str, records: Any, **options: Any) -> Any:
        if topic.endswith(".dlq"):
            raise ConnectorError("gone")
        return publish(topic, records, **options)

    with Consumer(broker, "strays") as consumer:
        first, second = consumer.fetch(2, 10.0)
        monkeypatch.setattr(broker, "publish", fails)
        with pytest.raises(ConnectorError):
            first.reject("no")
        monkeypatch.undo()
        (lost,) = ids(store) - mine
        second.reject("no")
        first.ack()
    (kept,) = ids(store) - mine - {lost}
    assert len(sweep_strays(broker, "strays", older=0.0)) == 1
    assert ids(store) == {*mine, kept}
    assert replay(broker, "strays") == 1
    assert sweep_strays(broker, "strays", older=0.0) == []
    assert ids(store) == {*mine, kept}
    broker.delete("strays.dlq")


@pytest.mark.parametrize("kind", ["redis", "nats"])
def test_a_producer_that_was_killed(
    kind: str, redis_server: RedisServer, nats_server: NatsServer, store: Store
) -> None:
    url = {"redis": redis_server.database(), "nats": nats_server.url}[kind]
    with open_broker(url) as broker:
        with Child(store_and_die, url, store.url) as child:
            assert child.receive() == "stored"
            child.kill()
        assert len(ids(store)) == COUNT
        assert len(sweep_strays(broker, "strays", older=0.0)) == COUNT
        assert ids(store) == set()
        broker.delete("strays")


def test_where_nothing_is_released_nothing_is_a_stray(store: Store) -> None:
    with MemoryBroker() as broker:
        with Producer(broker, "strays", store=store, above=100, release="never") as out:
            out.send(np.zeros(100))
        (key,) = ids(store)
        assert sweep_strays(broker, "strays", older=0.0) == []
        assert ids(store) == {key}


def test_a_topic_that_cannot_be_read_to_its_end_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxyfab.patterns.stream import strays

    with MemoryBroker() as broker:
        with Producer(broker, "strays", store=store, above=100) as out:
            out.send(np.zeros(100))
        kept = ids(store)
        original: Any = broker.subscribe

        def silent(*args: Any, **options: Any) -> Any:
            reader = original(*args, **options)
            monkeypatch.setattr(reader, "fetch", lambda most, timeout: [])
            return reader

        monkeypatch.setattr(broker, "subscribe", silent)
        monkeypatch.setattr(strays, "_WAIT", 0.01)
        with pytest.raises(ConnectorError, match="nothing was evicted"):
            sweep_strays(broker, "strays", older=0.0)
        assert ids(store) == kept
