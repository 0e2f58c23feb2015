"""kafka:// passes the suite on librdkafka's mock cluster; what that cannot do runs where PROXYFAB_KAFKA names a Kafka.

The mock has no requests to make, cut or delete a topic: here they go to the cluster itself, all else is as anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from proxyfab.brokers.kafka import KafkaBroker, topics
from proxyfab.events.broker import Broker
from proxyfab.events.model import Grant
from proxyfab.testing import BrokerTests
from proxyfab.testing.brokering.base import Join
from proxyfab.testing.brokering.flows import fill, take
from proxyfab.testing.kafka import KafkaCluster

REAL = os.environ.get("PROXYFAB_KAFKA", "")
needs_kafka = [
    pytest.mark.needs_kafka,
    pytest.mark.skipif(not REAL, reason="PROXYFAB_KAFKA names no Kafka"),
]


def only_real(test: object) -> object:
    """A test that the mock cluster cannot pass."""
    for mark in needs_kafka:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def kafka(cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the Kafka to test with; the mock cluster makes and deletes topics by itself."""
    if REAL:
        return REAL
    monkeypatch.setattr(
        topics, "request_topic", lambda client, said, wanted: cluster.create(wanted.topic, wanted.num_partitions)
    )
    monkeypatch.setattr(topics, "request_end", lambda client, said, name: cluster.delete(name))
    monkeypatch.setattr(
        topics, "request_cut", lambda client, name, before, partition=0: cluster.trim(name, partition, before)
    )
    return cluster.url.replace("admin=0&", "")


class TestKafka(BrokerTests):
    bounds = False  # by the bytes of whole segments, and never by refusing
    retains = False  # by whole segments, after minutes
    patience = 60.0 if REAL else 20.0

    @pytest.fixture
    def broker(self, kafka: str) -> Iterator[KafkaBroker]:
        with KafkaBroker.from_url(kafka) as broker:
            yield broker

    def test_how_far_a_group_is(self, broker: Broker, join: Join, topic: str) -> None:
        """Others do not know what a member has fetched; all that is not acknowledged is undelivered to them."""
        positions = [each.offset for each in fill(broker, topic, 6)]
        with broker.subscribe(topic, group="g") as member:
            found = take(member, 4, self.patience)
            member.ack([found[0], found[2]])
            member.flush()

            mine, theirs = member.info(), join().groups(topic)["g"]
            assert mine.floor == theirs.floor == {0: positions[0]}
            assert (mine.pending, mine.undelivered) == (2, 2)
            assert (theirs.pending, theirs.undelivered) == (0, 5)

    def test_what_a_closed_member_held_comes_at_once(self, broker: Broker, join: Join, topic: str) -> None:
        """The one partition may be the other's from the beginning: then the first waits in vain, but not for long."""
        self.patience = 5.0  # type: ignore[misc]
        super().test_what_a_closed_member_held_comes_at_once(broker, join, topic)

    @only_real
    @pytest.mark.parametrize("group", ["g", None])
    def test_from_a_moment(self, broker: Broker, topic: str, group: str | None) -> None:
        super().test_from_a_moment(broker, topic, group)

    @pytest.mark.parametrize("which", [0, pytest.param(1, marks=needs_kafka), 2, 3, 4, 5, 6])
    def test_a_topic_that_was_there(self, broker: Broker, join: Join, topic: str, which: int) -> None:
        """The mock makes a topic that is published to."""
        super().test_a_topic_that_was_there(broker, join, topic, which)

    @only_real
    def test_grants(self, broker: Broker, topic: str) -> None:
        broker.grant("somebody", topic, {"publish", "subscribe"})
        assert Grant("somebody", topic, frozenset({"publish", "subscribe"})) in broker.grants()
        assert broker.revoke("somebody", topic)
        assert not broker.revoke("somebody", topic)
