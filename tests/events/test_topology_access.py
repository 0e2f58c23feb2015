"""What is granted and what is not, said by a real nats-server that was told so by a topology."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.brokers.nats import values
from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.errors import AccessDenied
from proxyfab.events.model import Record, Topic
from proxyfab.events.topology import Topology
from proxyfab.events.topology_text import render
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.producer import Producer
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import free_port

ONE = """
namespace = "of-lab"
[servers.lab]
role = "hub"
address = "127.0.0.1:{port}"
store = "{store}"

[principals.operator]
password = "env:OPERATOR"
grants = {{ "*" = ["admin"] }}

[principals.camera]
password = "env:CAMERA"
grants = {{ "lab.frames" = ["publish"] }}

[principals.viewer]
password = "env:VIEWER"
grants = {{ "lab.frames" = ["subscribe"] }}

[principals.stranger]
password = "env:STRANGER"
account = "elsewhere"
grants = {{ "*" = ["admin", "publish", "subscribe"] }}
"""
WHO = ("operator", "camera", "viewer", "stranger")


@pytest.fixture
def brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, NatsBroker]]:
    """One for each principal, at a server with two topics."""
    port = free_port()
    topology = Topology.parse(ONE.format(port=port, store=tmp_path))
    for who in WHO:
        monkeypatch.setenv(who.upper(), f"word-of-{who}")
    server = NatsServer(render(topology, "lab"))
    server.port = port
    with server:
        found = {who: NatsBroker.from_url(topology.url("lab", who)) for who in WHO}
        found["operator"].ensure(Topic("lab.frames", partitions=2))
        found["operator"].ensure(Topic("lab.others"))
        yield found
        for broker in found.values():
            broker.close()


def test_who_may_publish_cannot_read(brokers: dict[str, NatsBroker]) -> None:
    camera = brokers["camera"]
    with Producer(camera, "lab.frames", name="cam") as producer:
        producer.send(1)
        producer.end()
    with pytest.raises(AccessDenied), camera.subscribe("lab.frames", group="g") as member:
        member.fetch(1, 2)
    with pytest.raises(AccessDenied), camera.subscribe("lab.frames", group=None) as reader:
        reader.fetch(1, 2)
    with pytest.raises(AccessDenied):
        camera.publish("lab.others", [Record(b"x")])
    with pytest.raises(AccessDenied):
        camera.ensure(Topic("mine"))
    with pytest.raises(AccessDenied):
        camera.delete("lab.frames")


def test_who_may_subscribe_cannot_publish(brokers: dict[str, NatsBroker]) -> None:
    with Producer(brokers["camera"], "lab.frames", name="cam") as producer:
        for number in range(100):
            producer.send(number)
        producer.end()
    viewer = brokers["viewer"]
    with Consumer(viewer, "lab.frames", group="g") as consumer:
        assert sorted(consumer.objects()) == list(range(100))
    with Consumer(viewer, "lab.frames", observe=True) as consumer:
        assert sorted(consumer.objects()) == list(range(100))
    with viewer.subscribe("lab.frames", group="h") as member:
        first = member.fetch(1, 5)
        member.nack(first, note=b"later")
        member.flush()
    with pytest.raises(AccessDenied):
        viewer.publish("lab.frames", [Record(b"x")])
    with pytest.raises(AccessDenied), viewer.subscribe("lab.others", group=None) as reader:
        reader.fetch(1, 2)
    with pytest.raises(AccessDenied):
        viewer.delete("lab.frames")


def test_who_waits_for_a_value_is_told(brokers: dict[str, NatsBroker], monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not only find it when he looks again, which is later than this lasts."""
    monkeypatch.setattr(values, "_LOOK", 100.0)
    state = brokers["viewer"].state("lab.frames")
    revision = state.put("name", b"value")
    timer = threading.Timer(0.1, lambda: brokers["camera"].state("lab.frames").put("name", b"other"))
    timer.start()
    started = time.monotonic()
    try:
        found = state.wait({"name": revision}, 60)["name"]
    finally:
        timer.join()
    assert found is not None and found.value == b"other"
    assert time.monotonic() - started < 50


def test_an_account_sees_nothing_of_another(brokers: dict[str, NatsBroker]) -> None:
    stranger = brokers["stranger"]

    assert stranger.topics() == []
    stranger.ensure(Topic("lab.frames"))
    stranger.publish("lab.frames", [Record(b"mine")])
    assert brokers["operator"].describe("lab.frames").records == 0
    assert brokers["operator"].topics() == ["lab.frames", "lab.others"]
