"""Processes that are killed at any moment: outputs are there once, and in the end no object is left behind."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.brokers import open_broker
from proxyfab.events.broker import Broker
from proxyfab.events.model import Topic
from proxyfab.patterns.stream import Consumer, Producer, releaser, sweep
from proxyfab.testing import Child, until
from proxyfab.testing.content import held
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.processes import ChildFailed
from proxyfab.testing.servers import RedisServer
from tests.patterns.stream.checkpoint_roles import consume, copy, sum_up

COUNT = 90
KILLS = 4


class World(NamedTuple):
    broker: Broker
    topic: str
    place: str
    stores: dict[str, Store]


@pytest.fixture(params=["redis", "nats"])
def world(request: pytest.FixtureRequest, redis_server: RedisServer, nats_server: NatsServer) -> Iterator[World]:
    broker = open_broker({"redis": redis_server.url, "nats": nats_server.url}[request.param])
    topic = f"t{uuid.uuid4().hex[:8]}"
    place = redis_server.database()
    stores = {name: Store(place, name=name) for name in ("inputs", "outputs", "copies")}
    yield World(broker, topic, place, stores)
    for store in stores.values():
        store.clear()
        store.close()
    for name in broker.matching(f"{topic}*"):
        broker.delete(name)
    broker.close()


def feed(world: World, *, groups: tuple[str, ...] = ()) -> None:
    world.broker.ensure(Topic(world.topic))
    for group in groups:
        world.broker.ensure_group(world.topic, group, ack_wait=1.0)
    with Producer(world.broker, world.topic, store=world.stores["inputs"], above=100) as out:
        for number in range(COUNT):
            out.send(np.full(500, number))
            if number % 7 == 0:
                out.flush()
        out.end()


def objects(world: World, name: str) -> int:
    return held(world.stores[name])


def live(messages: int | None, role: Any, *args: Any) -> bool:
    """One life, which is cut off after so many messages, if it was not over; whether it was."""
    with Child(role, *args) as child:
        while messages is None or messages > 0:
            try:
                child.receive(30)
            except ChildFailed as error:
                if "returned" not in str(error):
                    raise
                return True
            messages = None if messages is None else messages - 1
        child.kill()
    return False


def test_outputs_are_there_once_whoever_is_killed(world: World) -> None:
    draw = random.Random(world.broker.url)
    output = f"{world.topic}-out"
    feed(world)
    world.broker.ensure(Topic(output))
    args = (sum_up, world.broker.url, world.topic, output, world.place, 3)

    for _ in range(KILLS):
        if live(draw.randrange(1, 9), *args):
            break
    with Child(*args) as child:
        assert child.result(60) == sum(range(COUNT))

    with Consumer(world.broker, output, group="check") as consumer:
        found = []
        for item in consumer:
            found.append(item.metadata["n"])
            assert int(item.proxy[0]) == item.metadata["n"]
            item.ack()
    assert sorted(found) == list(range(COUNT))
    assert world.broker.groups(world.topic)["sum"].lag == 0
    assert until(lambda: _swept(world, world.topic) and objects(world, "inputs") == 0, 20)
    assert until(lambda: _swept(world, output) and objects(world, "outputs") == 0, 20)


def _swept(world: World, topic: str) -> bool:
    sweep(world.broker, topic)
    return True


def test_objects_go_when_the_last_group_is_through_whoever_is_killed(world: World) -> None:
    draw = random.Random(7)
    feed(world, groups=("a", "b"))
    for group in ("a", "b"):
        for _ in range(KILLS // 2):
            if live(draw.randrange(1, 9), consume, world.broker.url, world.topic, group):
                break
            if group == "a":
                assert objects(world, "inputs") == COUNT, "b has read nothing yet"
        assert live(None, consume, world.broker.url, world.topic, group)
    assert until(lambda: _swept(world, world.topic) and objects(world, "inputs") == 0, 20)


def test_frames_are_copied_once_whoever_is_killed(world: World) -> None:
    draw = random.Random(11)
    feed(world)
    to = f"{world.topic}-copy"
    args = (copy, world.broker.url, world.topic, world.broker.url, to, world.place)

    for _ in range(KILLS // 2):
        if live(draw.randrange(1, 9), *args):
            break
    assert live(None, *args)

    assert world.broker.describe(to).records == world.broker.describe(world.topic).records
    with Consumer(world.broker, to) as consumer:
        found = []
        for item in consumer:
            found.append(int(item.proxy[0]))
            item.ack()
    assert found == list(range(COUNT))
    assert until(lambda: _swept(world, to) and objects(world, "copies") == 0, 20)


def test_whoever_reads_alone_leaves_nothing_to_sweep(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.broker.ensure(Topic(world.topic, partitions=3))
    feed(world)
    readers = []
    original = type(world.broker).subscribe

    def counted(self: Broker, topic: str, *, group: str | None, **options: Any) -> Any:
        readers.append(group)
        return original(self, topic, group=group, **options)

    monkeypatch.setattr(type(world.broker), "subscribe", counted)
    monkeypatch.setattr(releaser, "EVERY", 60.0)  # who is held up amid events for a second may have some read again
    with Consumer(world.broker, world.topic) as consumer:
        for item in consumer:
            item.ack()

    assert objects(world, "inputs") == 0
    assert readers == ["default"], "nothing was read twice"
