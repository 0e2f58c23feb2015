"""kafka:// while its cluster fails: brokers that go and come back, errors, members that leave, topics of others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import TopicPartition

from proxyfab.brokers.kafka import KafkaBroker, journal
from proxyfab.brokers.kafka.member import Member
from proxyfab.errors import (
    AccessDenied,
    CapabilityError,
    CapacityError,
    ConfigurationError,
    ConnectorError,
    TopicNotFound,
)
from proxyfab.events.broker import Subscription
from proxyfab.events.model import EARLIEST, Delivery, Record, Topic
from proxyfab.testing.kafka import KafkaCluster
from proxyfab.testing.processes import at_once, until
from proxyfab.testing.servers import free_port

PRODUCE, HEARTBEAT = 0, 68
TOPIC_AUTHORIZATION_FAILED, UNSUPPORTED_VERSION, NOT_LEADER, INTERNAL, DUPLICATE = 29, 35, 6, -1, 46


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def broker(cluster: KafkaCluster) -> Iterator[KafkaBroker]:
    cluster.create("t", 2)
    with KafkaBroker.from_url(f"{cluster.url}&timeout=10") as broker:
        broker.ensure(Topic("t", 2))
        yield broker


def _publish(broker: KafkaBroker, *numbers: int) -> None:
    broker.publish("t", [Record(b"%d" % number, f"id-{number}", number % 2) for number in numbers], timeout=20)


def _take(member: Subscription, count: int, seconds: float = 20.0) -> list[Delivery]:
    found: list[Delivery] = []
    ends = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < ends:
        found += member.fetch(count - len(found), 0.5)
    return found


def _numbers(found: list[Delivery]) -> list[int]:
    return sorted(int(each.body) for each in found)


def test_where_no_kafka_is_who_was_never_answered_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyfab.brokers.kafka.client._FIRST", 0.5)
    started = time.monotonic()
    with KafkaBroker.from_url(f"kafka://127.0.0.1:{free_port()}") as broker:
        for call in (broker.topics, lambda: broker.ensure(Topic("t")), lambda: broker.subscribe("t", group="g")):
            with pytest.raises(ConnectorError, match="Connection refused"):
                call()
    assert time.monotonic() - started < 30  # and not the 60 s of a call


# -- brokers that go ---------------------------------------------------------------------------------------------------


def test_what_is_published_while_the_broker_is_away_arrives_once(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    with broker.subscribe("t", group="g") as member:
        _publish(broker, 0, 1)
        assert _numbers(_take(member, 2)) == [0, 1]
        cluster.down()
        with pytest.raises(ConnectorError, match="in time"):
            broker.publish("t", [Record(b"2", "id-2")], timeout=0.3)

        def back() -> None:
            assert member.fetch(1, 0.3) == []
            cluster.up()

        _, error = at_once([back, partial(_publish, broker, 2, 3)])  # 2 is still on its way, and not sent again
        assert error is None
        assert _numbers(_take(member, 2)) == [2, 3]
        assert member.fetch(1, 0.3) == []


def test_acknowledgements_survive_a_broker_that_goes(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    _publish(broker, *range(6))
    with broker.subscribe("t", group="g") as member:
        found = _take(member, 6)
        cluster.down()
        member.ack(found)
        with pytest.raises(ConnectorError, match="confirmed"):
            member.flush(0.3)
        cluster.up()
        member.flush(20)
    assert broker.groups("t")["g"].lag == 0


def test_who_is_away_for_good_is_let_go_in_time(
    cluster: KafkaCluster, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyfab.brokers.kafka.client.CLOSING", 0.5)
    _publish(broker, 0)
    member = broker.subscribe("t", group="g")
    member.ack(_take(member, 1))
    cluster.down()
    started = time.monotonic()
    member.close()
    assert time.monotonic() - started < 5
    cluster.up()
    assert until(lambda: not any("kafka-closing" in thread.name for thread in threading.enumerate()))  # by itself


def test_a_broker_that_is_not_there() -> None:
    with KafkaBroker.from_url("kafka://127.0.0.1:1?timeout=1") as broker:
        for use in (
            broker.topics,
            lambda: broker.describe("t"),
            lambda: broker.publish("t", [Record(b"")]),
            broker.ping,
        ):
            started = time.monotonic()
            with pytest.raises(ConnectorError, match=r"127\.0\.0\.1"):
                use()
            assert time.monotonic() - started < 10


# -- errors ------------------------------------------------------------------------------------------------------------


def test_errors_say_what_failed(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    cluster.fail(PRODUCE, TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(AccessDenied, match="Publishing 1 records to t at kafka://"):
        _publish(broker, 0)

    with pytest.raises(CapacityError, match="max="):
        broker.publish("t", [Record(bytes(broker.max_record + 1))])
    with pytest.raises(TopicNotFound, match="partition 7"):
        broker.publish("t", [Record(b"", partition=7)])
    with pytest.raises(CapabilityError, match="admin"):
        broker.delete("t")
    with pytest.raises(CapabilityError, match="admin"):
        broker.grant("alice", "t", {"publish"})


def test_what_passes_is_tried_again(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    cluster.fail(PRODUCE, NOT_LEADER, NOT_LEADER)
    _publish(broker, *range(10))
    with broker.subscribe("t", group="g") as member:
        assert _numbers(_take(member, 10)) == list(range(10))
        assert member.fetch(1, 0.2) == []


@pytest.mark.parametrize("named", [True, False])
def test_what_is_taken_before_its_turn_leaves_nothing_out(cluster: KafkaCluster, named: bool) -> None:
    """The mock takes a batch after one that it refused, as no Kafka does: librdkafka thinks that it has both then."""
    cluster.create("t")
    with KafkaBroker.from_url(f"{cluster.url}&timeout=10&rd.batch.num.messages=1") as broker:
        records = [Record(b"%d" % number, f"id-{number}" if named else "") for number in range(6)]
        broker.publish("t", records[:1], timeout=20)
        cluster.slow(0.2)  # so that all are on their way before the first is answered
        cluster.fail(PRODUCE, NOT_LEADER)
        places = broker.publish("t", records[1:], timeout=20)
        cluster.slow(0)
        with broker.subscribe("t", group=None) as reader:
            found = {int(each.body): each.position for each in _take(reader, 6)}
        assert sorted(found) == list(range(6))
        assert [found[number] for number in range(1, 6)] == places


def test_what_the_cluster_had_already_is_told_where_it_lies(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    """The answer to a repeated record is an error without an offset, as the mock says it here."""
    _publish(broker, *range(400))
    with KafkaBroker.from_url(f"{cluster.url}&timeout=10") as other:  # which knows nothing of these
        other.describe("t")
        for number, offset in ((0, 1), (398, 200)):
            cluster.fail(PRODUCE, DUPLICATE)
            (place,) = other.publish("t", [Record(b"%d" % number, f"id-{number}", 0)], timeout=20)
            assert place.offset == offset
    with KafkaBroker.from_url(f"{cluster.url}&timeout=10") as other:
        other.describe("t")
        cluster.fail(PRODUCE, DUPLICATE)
        (unknown,) = other.publish("t", [Record(b"x", "nobody", 1)], timeout=20)
        assert unknown.offset == 201, "it was not there: it was sent again"


def test_what_cannot_be_found_is_not_said_to_be_there(
    cluster: KafkaCluster, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyfab.brokers.kafka.finding.REACH", 50)
    _publish(broker, *range(400))
    with KafkaBroker.from_url(f"{cluster.url}&timeout=10") as other:
        other.describe("t")
        cluster.fail(PRODUCE, DUPLICATE)
        with pytest.raises(ConnectorError, match="Publish them again"):
            other.publish("t", [Record(b"0", "id-0", 0)], timeout=20)
        (again,) = other.publish("t", [Record(b"0", "id-0", 0)], timeout=20)
        assert again.offset == 201


# -- groups ------------------------------------------------------------------------------------------------------------


def test_partitions_that_go_to_another_take_what_is_owed_along(broker: KafkaBroker) -> None:
    _publish(broker, *range(8))
    with broker.subscribe("t", group="g", ack_wait=600) as one:
        held = _take(one, 8)
        done = [each for each in held if each.position.offset < 3]  # the first two of four, of each partition
        one.ack(done)
        with broker.subscribe("t", group="g", ack_wait=600) as two:
            again: list[Delivery] = []

            def shared() -> bool:
                assert one.fetch(9, 0.05) == []
                again.extend(two.fetch(9, 0.05))
                return len(again) == 2

            assert until(shared, 20)
            assert {each.position.partition for each in again} in ({0}, {1})
            assert [each.position.offset for each in again] == [3, 4]
            two.ack(again)
            one.ack(held)  # its own, and those that are not its any more
    assert broker.groups("t")["g"].lag == 0


def test_nothing_is_told_of_a_partition_that_has_gone(broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka takes what any member tells of any partition: the floor of who has it now would go back."""
    _publish(broker, *range(4))
    with broker.subscribe("t", group="g") as member:
        assert isinstance(member, Member)
        hand, told, read = member._hand, list[str](), threading.Event()
        genuine = hand.news

        def news() -> dict[int, int]:
            floors = genuine()
            if not read.is_set():
                read.set()
                time.sleep(0.2)  # so that the other thread would be faster, if it could
            return floors

        hand.ack(_take(member, 4))
        monkeypatch.setattr(hand, "news", news)
        consumer: Any = Mock()
        consumer.commit = lambda **said: told.append("commit")
        consumer.incremental_unassign = lambda partitions: told.append("gone")
        with monkeypatch.context() as patch:
            patch.setattr(member, "_consumer", consumer)
            telling = threading.Thread(target=member._tell)
            telling.start()
            assert read.wait(20)
            with member._lock:  # as amid a poll
                member._taken(consumer, [TopicPartition("t", number) for number in range(2)])
            telling.join()
        assert told[-1] == "gone"
        assert told[:-1]


def test_who_acknowledges_waits_for_no_poll(broker: KafkaBroker) -> None:
    """What a poll calls may wait for us, and who polls again and again lets no other call in."""
    _publish(broker, *range(4))
    with broker.subscribe("t", group="g") as member:
        assert isinstance(member, Member)
        member._hand.ack(_take(member, 4))
        consumer, polling = member._consumer, threading.Event()
        assert consumer is not None

        def poll() -> None:
            with member._lock:
                polling.set()
                consumer.poll(60)

        other, telling = threading.Thread(target=poll), threading.Thread(target=member._tell)
        other.start()
        assert polling.wait(20)
        time.sleep(0.2)  # until it polls
        telling.start()
        telling.join(20)
        assert not telling.is_alive()
        assert other.is_alive()
        _publish(broker, 4)
        other.join()
        member.flush()
        assert broker.groups("t")["g"].lag == 1


@pytest.mark.parametrize("listed", [True, False])
def test_an_older_kafka_is_spoken_to_in_its_way(cluster: KafkaCluster, broker: KafkaBroker, listed: bool) -> None:
    """It says that it cannot do what it lists, or does not list it, which librdkafka does not make an error of."""
    if listed:
        cluster.fail(HEARTBEAT, UNSUPPORTED_VERSION)
    else:
        cluster.version(HEARTBEAT, -1)
    _publish(broker, *range(4))
    with KafkaBroker.from_url(f"{cluster.url}&timeout=10") as other, other.subscribe("t", group="g") as member:
        found = _take(member, 4, 30)
        assert _numbers(found) == list(range(4))
        member.ack(found)
        member.flush()
        assert other.groups("t")["g"].lag == 0


def test_partitions_by_hand(broker: KafkaBroker) -> None:
    _publish(broker, *range(6))
    with broker.subscribe("t", group="g", partitions=[1]) as odd:
        found = _take(odd, 3)
        assert _numbers(found) == [1, 3, 5]
        odd.ack(found[:2])
    with (
        broker.subscribe("t", group="g", partitions=[1]) as odd,
        broker.subscribe("t", group="g", partitions=[0]) as even,
    ):
        assert _numbers(_take(odd, 1)) == [5]
        assert _numbers(_take(even, 3)) == [0, 2, 4]
    with pytest.raises(ConfigurationError, match="2 partitions"):
        broker.subscribe("t", group="g", partitions=[2])


# -- topics of others --------------------------------------------------------------------------------------------------


def test_a_topic_that_somebody_else_made(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    cluster.create("theirs", 3)
    assert broker.describe("theirs").topic == Topic("theirs", 3)
    assert broker.ensure(Topic("theirs", release="never")) == Topic("theirs", 3, release="never")
    assert broker.topics() == ["t", "theirs"]


def test_a_topic_that_comes_into_being_has_as_many_partitions_as_the_cluster_gives(broker: KafkaBroker) -> None:
    assert broker.ensure(Topic("auto")).partitions == 4
    assert set(broker.describe("auto").extents) == {0, 1, 2, 3}
    with pytest.raises(ConfigurationError, match="4 partitions, not 3"):
        broker.ensure(Topic("auto", 3))


def test_records_that_retention_took_are_passed_over(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    broker.publish("t", [Record(b"%d" % number) for number in range(10)])
    cluster.trim("t", 0, 6)
    assert broker.describe("t").extents[0] == (7, 10)
    for group in ("g", None):
        with broker.subscribe("t", group=group, start={0: 1}) as member:
            assert _numbers(_take(member, 4)) == [6, 7, 8, 9]
            assert member.info().lag == (4 if group else 0)
            member.seek(EARLIEST)
            assert _numbers(_take(member, 4)) == [6, 7, 8, 9]


# -- values ------------------------------------------------------------------------------------------------------------


def test_a_log_of_values_is_cut(cluster: KafkaCluster, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes after the cut, and whoever was there, see the same."""
    cuts: list[int] = []
    monkeypatch.setattr(journal, "CUT", 20)
    monkeypatch.setattr(journal, "request_cut", lambda client, name, before: cuts.append(before))
    with KafkaBroker.from_url(broker.url.replace("admin=0&", "")) as writer, KafkaBroker.from_url(broker.url) as there:
        mine, theirs = writer.state("t"), there.state("t")
        kept = {f"k/{number}": mine.put(f"k/{number}", b"%d" % number) for number in range(10)}
        assert len(theirs.items("k/")) == 10
        for number in range(20):
            kept["n"] = mine.put("n", b"%d" % number, revision=kept.get("n", 0))
        assert len(cuts) == 1
        cluster.trim("_pf.t.state", 0, cuts[0])
        with KafkaBroker.from_url(broker.url) as late:
            assert late.state("t").items() == mine.items() == theirs.items()
            assert {name: each.revision for name, each in mine.items().items()} == kept
            assert late.state("t").put("n", b"last", revision=kept["n"]) > kept["n"]
            assert late.describe("t").topic == Topic("t", 2)
