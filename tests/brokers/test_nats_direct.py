"""What nats:// needs of nats-py that nobody promises, and that it does without."""

from __future__ import annotations

import logging

import pytest

from proxyfab.brokers.nats import direct
from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.events.model import Record, Topic
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.producer import Producer
from proxyfab.testing.brokering.flows import take
from proxyfab.testing.natsserver import NatsServer

RENAMED = "_transport._io_writer.renamed"


def _lacks(broker: NatsBroker) -> list[str]:
    broker.topics()
    session = broker._link._session
    assert session is not None
    return direct.lacking(session._client)


def test_this_nats_py_is_as_we_know_it(nats_server: NatsServer) -> None:
    """If this fails, events still go through NATS, but at half the rate: look at `direct.NEEDED`."""
    with NatsBroker.from_url(nats_server.url) as broker:
        assert _lacks(broker) == []


def test_without_it_all_is_the_same(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(direct.NEEDED, RENAMED, str)
    monkeypatch.setattr(direct, "_told", set())
    with (
        caplog.at_level(logging.WARNING, "proxyfab"),
        NatsServer() as server,
        NatsBroker.from_url(server.url) as broker,
    ):
        assert _lacks(broker) == [RENAMED]
        with Producer(broker, "t", name="p") as producer:
            for number in range(300):
                producer.send(number)
            producer.send(bytes(1 << 20))
            producer.end()
        with Consumer(broker, "t", group="g") as consumer:
            found = list(consumer.objects())
        assert found == [*range(300), bytes(1 << 20)]
        broker.ensure(Topic("raw"))
        broker.publish("raw", [Record(b"%d" % number, f"id-{number}") for number in range(3)])
        with broker.subscribe("raw", group="g") as member:
            first = take(member, 3, 20)
            member.ack(first[:2])
            member.flush()
            server.kill()
            server.start()
            broker.publish("raw", [Record(b"2", "id-2"), Record(b"3", "id-3")], timeout=20)  # the first is known
            member.nack(first[2:], note=b"again")
            rest = take(member, 2, 20)
            assert sorted((each.body, each.note) for each in rest) == [(b"2", b"again"), (b"3", b"")]
            assert broker.state("raw").put("k", b"v") == broker.state("raw").items()["k"].revision
    said = [each.getMessage() for each in caplog.records if RENAMED in each.getMessage()]
    assert len(said) == 1, "once, however many sessions"
