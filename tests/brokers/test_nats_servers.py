"""nats:// when its server is killed, stopped, cut off, or does not let us."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.errors import (
    AccessDenied,
    BackPressureError,
    CapacityError,
    ConfigurationError,
    ConnectorError,
    ProxyfabError,
    TopicNotFound,
)
from proxyfab.events.model import Capability, Record, Topic
from proxyfab.testing import Cable, until
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import free_port


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def records(low: int, high: int) -> list[Record]:
    return [Record(b"%d" % number, f"id-{number}") for number in range(low, high)]


def read(broker: NatsBroker, topic: str, count: int) -> list[int]:
    found: list[int] = []
    end = time.monotonic() + 20
    with broker.subscribe(topic, group=None) as reader:
        while len(found) < count and time.monotonic() < end:
            found += [int(each.body) for each in reader.fetch(500, 0.2)]
    return found


def test_a_killed_server_loses_nothing_that_was_confirmed(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t", groups=("g",)))
        confirmed: list[int] = []
        stop = threading.Event()

        def publish() -> None:
            number = 0
            while not stop.is_set():
                broker.publish("t", records(number, number + 10))
                confirmed.extend(range(number, number + 10))
                number += 10

        thread = threading.Thread(target=publish)
        thread.start()
        for _ in range(3):
            before = len(confirmed)
            assert until(lambda: len(confirmed) > before + 50)  # noqa: B023 - asked at once
            server.kill()
            server.start()
        stop.set()
        thread.join(30)

        assert len(confirmed) > 100
        assert read(broker, "t", len(confirmed)) == confirmed  # each once, as it is known again by its id
        assert broker.groups("t")["g"].undelivered == len(confirmed)


def test_a_waiting_fetch_goes_on_when_the_server_is_started_again(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as broker, NatsBroker.from_url(server.url) as other:
        broker.ensure(Topic("t"))
        found: list[bytes] = []
        with broker.subscribe("t", group="g") as member, broker.subscribe("t", group=None) as reader:
            waiting = [
                threading.Thread(target=lambda each=each: found.extend(d.body for d in each.fetch(1, 30)))
                for each in (member, reader)
            ]
            for thread in waiting:
                thread.start()
            assert until(lambda: member._intake._asked and reader._intake._asked)
            server.kill()
            server.start()
            other.publish("t", [Record(b"after")])
            for thread in waiting:
                thread.join(30)

        assert found == [b"after", b"after"]


def test_acknowledgements_survive_a_restart(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", records(0, 10))
        with broker.subscribe("t", group="g") as member:
            member.ack(member.fetch(4, 5))
            member.flush()
            server.kill()
            server.start()
            rest = [int(each.body) for each in member.fetch(10, 15)]

        assert rest[-6:] == [4, 5, 6, 7, 8, 9]


def test_a_server_that_does_not_answer_is_noticed_in_time(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t"))
        member = broker.subscribe("t", group="g")
        server.stop()
        try:
            for call in (
                lambda: broker.publish("t", [Record(b"x")], timeout=1.0),
                lambda: broker.ping(1.0),
                lambda: member.fetch_surely(1, 1.0),
            ):
                started = time.monotonic()
                with pytest.raises(ConnectorError, match="in time|does not answer|was lost"):
                    call()
                assert time.monotonic() - started < 8
        finally:
            server.go_on()
        assert broker.publish("t", [Record(b"x")], timeout=30)
        member.close()


def test_a_cut_cable_is_mended(server: NatsServer) -> None:
    with Cable(f"127.0.0.1:{server.port}") as cable, NatsBroker.from_url(cable.through(server.url)) as broker:
        broker.ensure(Topic("t"))
        with broker.subscribe("t", group="g") as member:
            for number in range(5):
                broker.publish("t", records(number, number + 1))
                cable.reset()
                found = member.fetch(1, 20)
                assert [int(each.body) for each in found] == [number]
                member.ack(found)
            member.flush()
            assert cable.resets >= 5

        assert broker.groups("t")["g"].lag == 0


def test_who_listens_on_a_connection_that_goes_stops_quietly(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as broker:

        async def work(deadline: float) -> bool:
            session = await broker._link.session(deadline)
            listening = [await session.listen("a.subject", print)]
            await session._client.close()
            await session.deafen(listening)
            return bool(session.alive)

        assert broker._link.run(work, 10.0) is False


def test_a_silent_line_is_given_up(server: NatsServer) -> None:
    with Cable(f"127.0.0.1:{server.port}") as cable, NatsBroker.from_url(cable.through(server.url)) as broker:
        broker.ensure(Topic("t"))
        with broker.subscribe("t", group="g") as member, pytest.raises(ConnectorError):
            cable.black_hole()
            try:
                member.fetch_surely(1, 1.0)
            finally:
                cable.heal()
        assert broker.publish("t", records(0, 1), timeout=30)


def test_nobody_there() -> None:
    with NatsBroker.from_url("nats://127.0.0.1:9") as broker:
        started = time.monotonic()
        with pytest.raises(ConnectorError, match="Cannot connect to nats://127.0.0.1:9"):
            broker.ping(0.5)
        assert time.monotonic() - started < 5


ACCOUNTS = """
authorization {
  users = [
    { user: boss, password: all }
    { user: reader, password: some, permissions: {
        publish: { allow: ["$JS.API.>", "$JS.ACK.>"] }, subscribe: { allow: ["_INBOX.>", "$KV.>"] } } }
    { user: mute, password: none, permissions: {
        publish: { allow: ["$JS.API.>", "$JS.ACK.>"] }, subscribe: { deny: [">"] } } }
  ]
}
"""


def test_what_is_denied_is_said_at_once() -> None:
    with NatsServer(ACCOUNTS) as server:
        at = f"127.0.0.1:{server.port}"
        with NatsBroker.from_url(f"nats://boss:all@{at}") as boss:
            boss.ensure(Topic("t"))
            boss.publish("t", [Record(b"x")])
        with NatsBroker.from_url(f"nats://reader:some@{at}") as reader:
            started = time.monotonic()
            with pytest.raises(AccessDenied, match=r"does not let reader publish to pf\.t\.0"):
                reader.publish("t", [Record(b"y")])
            with pytest.raises(AccessDenied, match="publish to"):
                reader.state("t").put("name", b"value")
            with reader.subscribe("t", group="g") as member:
                assert [each.body for each in member.fetch(5, 5)] == [b"x"]
            assert time.monotonic() - started < 5
        with NatsBroker.from_url(f"nats://mute:none@{at}") as mute:
            started = time.monotonic()
            with pytest.raises(AccessDenied, match="subscribe to"):
                mute.topics()
            assert time.monotonic() - started < 5
        with NatsBroker.from_url(f"nats://boss:wrong@{at}") as wrong, pytest.raises(AccessDenied, match="refused boss"):
            wrong.topics()


ENOUGH = """
authorization {
  users = [
    { user: boss, password: all }
    { user: me, password: mine, permissions: {
        publish: ["pf.frames.*", "$JS.API.>", "$JS.ACK.>", "$KV.pf_frames.>"],
        subscribe: ["_MINE.>", "$KV.pf_frames.>"] } }
  ]
}
"""


def test_what_an_account_needs() -> None:
    with NatsServer(ENOUGH) as server:
        at = f"127.0.0.1:{server.port}"
        with NatsBroker.from_url(f"nats://boss:all@{at}") as boss:
            boss.ensure(Topic("frames"))
            boss.ensure(Topic("others"))
        with NatsBroker.from_url(f"nats://me:mine@{at}?inbox=_MINE") as mine:
            mine.publish("frames", [Record(b"x")])
            with mine.subscribe("frames", group="g") as member:
                member.nack(member.fetch(1, 5), note=b"note")
                (again,) = member.fetch(1, 5)
                assert again.note == b"note"
                member.ack([again])
                member.flush()
            state = mine.state("frames")
            assert state.wait({"name": state.put("name", b"value") - 1}, 5)
            with pytest.raises(AccessDenied, match="pf.others.0"):
                mine.publish("others", [Record(b"x")])


LEAFS = 'server_name: hub\njetstream {{ domain: hub, store_dir: "{store}" }}\nleafnodes {{ port: {port} }}\n'
EDGE = """
server_name: edge
jetstream {{ domain: edge, store_dir: "{store}" }}
leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}
"""


def test_the_domain_of_a_leaf_node_is_reached_through_the_hub(tmp_path: Path) -> None:
    port = free_port()
    hub = NatsServer(LEAFS.format(port=port, store=tmp_path / "hub"))
    edge = NatsServer(EDGE.format(port=port, store=tmp_path / "edge"))
    with hub, edge, NatsBroker.from_url(edge.url) as near, NatsBroker.from_url(f"{hub.url}?domain=edge") as far:
        assert until(lambda: reached(far))
        near.ensure(Topic("t", partitions=2))
        near.publish("t", [Record(b"here")])
        far.publish("t", [Record(b"there", partition=1)])
        with far.subscribe("t", group="g") as member:
            found = member.fetch(10, 5)
            found += member.fetch(10, 5) if len(found) < 2 else []
            member.ack(found)
            member.flush()
        assert {each.body for each in found} == {b"here", b"there"}
        assert near.groups("t")["g"].lag == 0
        near.state("t").put("name", b"value")
        assert [kept.value for kept in far.state("t").items().values()] == [b"value"]


def reached(broker: NatsBroker) -> bool:
    try:
        return broker.ping(1.0) < 1.0
    except ConnectorError:
        return False


def test_secrets_are_remembered_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with NatsServer(token="open-sesame-1234") as server:
        at = f"127.0.0.1:{server.port}"
        with NatsBroker.from_url(f"nats://open-sesame-1234@{at}") as broker:
            assert broker.topics() == []
            assert broker.url == f"nats://{at}"
            assert "sesame" not in repr(broker) + str(broker.__reduce__())
        monkeypatch.setattr("proxyfab.brokers.nats.place._remembered", {})
        with NatsBroker.from_url(f"nats://{at}") as broker, pytest.raises(AccessDenied) as caught:
            broker.topics()
        assert "sesame" not in str(caught.value)
        monkeypatch.setenv("PROXYFAB_NATS_TOKEN", "open-sesame-1234")
        with NatsBroker.from_url(f"nats://{at}") as broker:
            assert broker.topics() == []
        monkeypatch.delenv("PROXYFAB_NATS_TOKEN")
        monkeypatch.setenv("LAB", "open-sesame-1234")
        with NatsBroker.from_url(f"nats://{at}?token=env:LAB") as broker:
            assert broker.topics() == []


def test_encrypted() -> None:
    with NatsServer(tls=True) as server, NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t"))
        assert broker.publish("t", [Record(bytes(100_000))])[0].offset == 1


def test_prefixes_do_not_meet(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as one, NatsBroker.from_url(f"{server.url}?ns=lab") as other:
        one.ensure(Topic("a.b_c-d"))
        other.ensure(Topic("a.b_c-d", partitions=3))

        assert one.topics() == other.topics() == ["a.b_c-d"]
        assert one.describe("a.b_c-d").topic.partitions == 1
        assert other.delete("a.b_c-d")
        assert one.topics() == ["a.b_c-d"]


def test_memory_is_not_durable(server: NatsServer) -> None:
    with NatsBroker.from_url(f"{server.url}?storage=memory") as broker:
        assert Capability.DURABLE not in broker.capabilities
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"x")])
        server.kill()
        server.start()
        with pytest.raises(TopicNotFound):
            broker.describe("t")


def test_too_large_for_this_server(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t"))

        assert broker.max_record > 7 << 20
        broker.publish("t", [Record(bytes(broker.max_record))])
        with pytest.raises(CapacityError, match="is larger than"):
            broker.publish("t", [Record(bytes(broker.max_record + 1))])


def test_what_is_acknowledged_makes_room(server: NatsServer) -> None:
    with NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t", max_bytes=200_000, groups=("slow",)))
        with broker.subscribe("t", group="slow") as member:
            for number in range(10):
                broker.publish("t", [Record(bytes(50_000), f"{number}")])
                member.ack(member.fetch(1, 5))
                member.flush()
            with pytest.raises(BackPressureError, match="is full"):
                broker.publish("t", [Record(bytes(50_000)) for _ in range(5)])


@pytest.mark.parametrize(
    "url",
    [
        "nats://host/path",
        "nats://host?ns=a_b",
        "nats://host?password=secret",
        "nats://host?sync=always",
        "nats://host?ca=/x",
        "nats://host?replicas=0",
        "nats://host:0",
        "nats://auto?sync=never",
        "nats://host?storage=tape",
        "nats://host?what=1",
        "nats://",
    ],
)
def test_urls_that_make_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError):
        NatsBroker.from_url(url)


def test_a_url_says_the_same_again() -> None:
    url = "nats://a:1,[::1]:2?ns=lab&user=me&password=env:P&tls=1&ca=/ca&verify=0&replicas=3&domain=hub&inbox=_IN"

    assert NatsBroker.from_url(NatsBroker.from_url(url).url).url == NatsBroker.from_url(url).url == url
    assert issubclass(TopicNotFound, ProxyfabError)


def test_a_value_whose_topic_is_deleted_while_it_is_read_is_a_topic_that_is_not_there(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NatsBroker.from_url(server.url) as broker, NatsBroker.from_url(server.url) as other:
        broker.ensure(Topic("t"))
        values: Any = broker.state("t")
        values.put("a", b"one", ttl=60)
        described = values._described

        async def deleted(deadline: float) -> Any:
            await asyncio.to_thread(other.delete, "t")
            return await described(deadline)

        monkeypatch.setattr(values, "_described", deleted)
        with pytest.raises(TopicNotFound):
            values.delete("a")
