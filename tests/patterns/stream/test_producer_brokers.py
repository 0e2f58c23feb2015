"""Producers at real brokers: killed at any moment they lose nothing acknowledged, and go on under their name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab import Store
from proxyfab.brokers import open_broker
from proxyfab.events.broker import Broker
from proxyfab.patterns import Producer
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.processes import Child
from proxyfab.testing.servers import RedisServer
from tests.patterns.stream_reading import PATIENCE, frames, objects
from tests.patterns.stream_roles import send_for_ever


@pytest.fixture(scope="module")
def nats_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(params=["redis", "nats"])
def broker(request: pytest.FixtureRequest, redis_server: RedisServer, nats_server: NatsServer) -> Iterator[Broker]:
    url = redis_server.database() if request.param == "redis" else nats_server.url
    with open_broker(url) as broker:
        broker.delete("frames")
        yield broker
        broker.delete("frames")


def test_a_killed_producer_loses_nothing_that_was_acknowledged(broker: Broker) -> None:
    acknowledged = []
    for _ in range(3):
        with Child(send_for_ever, broker.url, "detector") as child:
            told = [child.receive() for _ in range(250)]
            child.kill()
        acknowledged.append(told)

    found = frames(broker, "frames")

    for epoch, told in enumerate(acknowledged):
        mine = [frame for frame in found if frame.epoch == epoch]
        sent = [event.data for frame in mine for event in frame.events]
        assert set(told) <= set(sent)
        assert sent == list(range(len(sent)))
        assert [frame.first for frame in mine] == [sum(len(f.events) for f in mine[:n]) for n in range(len(mine))]


def test_objects_and_values_in_order(broker: Broker) -> None:
    with Store("memory://") as store, Producer(broker, "frames", store=store, above=1000, partitions=1) as out:
        for number in range(300):
            out.send([number] * (1000 if number % 50 == 0 else 1), number=number)
        assert out.send(b"last").result(PATIENCE).topic == "frames"
        out.end()

        assert [obj[0] for obj in objects(broker, "frames")[:-1]] == list(range(300))
        store.clear()
