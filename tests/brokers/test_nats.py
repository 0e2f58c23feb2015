"""nats:// passes the suite; and what only a server can do to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.events.model import Record, Topic
from proxyfab.testing import BrokerTests
from proxyfab.testing.natsserver import NatsServer


class TestNats(BrokerTests):
    @pytest.fixture
    def broker(self, nats_server: NatsServer) -> Iterator[NatsBroker]:
        with NatsBroker.from_url(nats_server.url) as broker:
            yield broker


def test_who_fetches_one_takes_no_more_from_another_partition(nats_server: NatsServer) -> None:
    with NatsBroker.from_url(nats_server.url) as broker:
        broker.ensure(Topic("shares", partitions=3, groups=("g",)))
        broker.publish("shares", [Record(b"a", partition=0), Record(b"b", partition=1), Record(b"c", partition=1)])
        with broker.subscribe("shares", group="g") as one, broker.subscribe("shares", group="g") as two:
            (first,) = one.fetch(1, 10)
            others = two.fetch(6, 10)
            assert {first.body, *(each.body for each in others)} == {b"a", b"b", b"c"}
        broker.delete("shares")
