"""Deadlines of kafka:// at a cluster that is stopped (SIGSTOP)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from proxyfab.brokers.kafka.broker import KafkaBroker
from proxyfab.errors import ConnectorError
from proxyfab.events.model import LATEST, Record
from proxyfab.testing.kafka import KafkaCluster
from proxyfab.testing.processes import until
from tests.stopping import DEADLINE, LATE, in_time, stopped


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    cluster = KafkaCluster()
    cluster.start()
    cluster.create("t")
    yield cluster
    cluster.kill()


@pytest.fixture
def broker(cluster: KafkaCluster) -> Iterator[KafkaBroker]:
    with KafkaBroker.from_url(cluster.url) as broker:
        yield broker
        cluster.go_on()


def _fails_in_time(call: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectorError):
        call()
    assert time.monotonic() - began < DEADLINE + LATE


def test_calls_keep_their_deadline(cluster: KafkaCluster, broker: KafkaBroker) -> None:
    state, short = broker.state("t"), broker.state("t", timeout=DEADLINE)
    state.put("x", b"y")
    with KafkaBroker.from_url(cluster.url) as other, broker.subscribe("t", group=None, start=LATEST) as reader:
        assert reader.fetch(1, 0.1) == []
        with stopped(cluster):
            in_time(lambda: state.wait({"not-there": 0}, DEADLINE))
            _fails_in_time(lambda: other.publish("t", [Record(b"x")], timeout=DEADLINE))
            _fails_in_time(lambda: broker.describe("t", timeout=DEADLINE))
            _fails_in_time(lambda: short.get("x"))  # librdkafka says -1001 of an offset that it was not told in time
            _fails_in_time(lambda: short.items())
        assert state.wait({"x": 0}, 60)
        (position,) = broker.publish("t", [Record(b"y")])
        assert [each.position for each in reader.fetch(1, 60)] == [position]


def test_a_fetch_does_not_wait_long_for_whether_there_still_is_a_topic(
    cluster: KafkaCluster, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics, asked = broker._client.topics, list[float]()

    def spied(timeout: float) -> dict[str, int]:
        asked.append(timeout)
        return topics(timeout)

    with broker.subscribe("t", group=None, start=LATEST) as reader:
        reader.fetch(1, 0.05)
        monkeypatch.setattr(broker._client, "topics", spied)
        with stopped(cluster):
            assert until(lambda: reader.fetch(1, 0.05) == [] and asked)
        assert max(asked) <= 0.3


def test_a_call_has_its_time_once_however_much_it_asks(broker: KafkaBroker) -> None:
    client = broker._client
    with client.within(600), client.within(30):
        assert 20 < client.timeout <= 30
        with client.within(0.2), client.within(50):
            time.sleep(0.1)
            assert client.timeout <= 0.1
        with client.within(0.01):
            time.sleep(0.02)
            assert 0 < client.timeout < 0.1
    assert client.timeout == client.place.timeout
