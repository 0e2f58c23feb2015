"""kafka://, a group's member: what it tells, and what it gets when it joins anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from proxyfab.brokers.kafka import KafkaBroker
from proxyfab.brokers.kafka.member import Member
from proxyfab.events.model import Delivery, Record, Topic
from proxyfab.testing.brokering.flows import take
from proxyfab.testing.kafka import KafkaCluster

PATIENCE = 20.0


@pytest.fixture
def broker() -> Iterator[KafkaBroker]:
    with KafkaCluster() as cluster:
        cluster.create("t", 1)
        with KafkaBroker.from_url(f"{cluster.url}&timeout=10") as broker:
            broker.ensure(Topic("t"))
            yield broker


def publish(broker: KafkaBroker, *bodies: bytes) -> None:
    broker.publish("t", [Record(body) for body in bodies], timeout=20)


def test_a_group_that_begins_anew_is_told_nothing_of_before(
    broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread acknowledges while this one seeks."""
    publish(broker, b"0", b"1")
    with broker.subscribe("t", group="g") as member:
        assert isinstance(member, Member)
        genuine, former, latter = member._hand.news, Mock(), Mock()
        member.ack(take(member, 2, PATIENCE))

        def news() -> dict[int, int]:
            floors = genuine() or {0: 1}
            member._consumer = latter
            return floors

        with monkeypatch.context() as patch:
            patch.setattr(member, "_consumer", former)
            patch.setattr(member._hand, "news", news)
            member._tell()
        former.commit.assert_called_once()
        latter.commit.assert_not_called()


def test_who_joins_anew_gets_nothing_twice(broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One broker of several, which is heard of later than what others have, does not know the newer protocol."""
    publish(broker, b"0")
    with broker.subscribe("t", group="g") as member:
        assert isinstance(member, Member)
        member.nack(take(member, 1, PATIENCE))
        publish(broker, b"1")
        genuine = member._poll

        def poll(*given: Any) -> list[Delivery]:
            found = genuine(*given)
            member._ear.unable = True
            monkeypatch.undo()
            return found

        monkeypatch.setattr(member, "_poll", poll)
        assert [each.body for each in take(member, 2, PATIENCE)] == [b"0", b"1"]
