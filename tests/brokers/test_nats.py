"""nats:// passes the suite; and what only a server can do to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.errors import ConnectorError
from proxyfab.events.model import Record, Topic
from proxyfab.testing import BrokerTests, Child, until
from proxyfab.testing.brokering.flows import take
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


def _takes_and_keeps(connection: Connection, url: str, topic: str) -> None:
    broker = NatsBroker.from_url(url)
    member = broker.subscribe(topic, group="g", ack_wait=0.5)
    connection.send(len(member.fetch(1, 10)))
    connection.recv()


def test_what_a_killed_member_held_comes_in_its_own_time_in_a_group_that_others_made(nats_server: NatsServer) -> None:
    with NatsBroker.from_url(nats_server.url) as broker:
        broker.ensure(Topic("declared", groups=("g",)))
        broker.publish("declared", [Record(b"a")])
        with Child(_takes_and_keeps, nats_server.url, "declared") as child:
            assert child.receive() == 1
            child.kill()
            with broker.subscribe("declared", group="g") as member:
                assert [each.body for each in member.fetch(1, 5)] == [b"a"], "the group's own time would be ten seconds"
        broker.delete("declared")


def test_who_is_patient_keeps_what_he_holds_when_others_are_not(nats_server: NatsServer) -> None:
    with NatsBroker.from_url(nats_server.url) as broker:
        broker.ensure(Topic("patient", groups=("g",)))
        broker.publish("patient", [Record(b"a")])

        def lease() -> float:
            told = broker._run(lambda deadline: broker._link.call("CONSUMER.LIST.pf_patient", None, deadline))
            return min(float(each["config"]["ack_wait"]) for each in told["consumers"]) / 1e9

        with broker.subscribe("patient", group="g") as patient:
            (held,) = patient.fetch(1, 10)
            with broker.subscribe("patient", group="g", ack_wait=0.5) as impatient:
                assert lease() == 10, "not before the other one has had time to see it"
                assert until(lambda: lease() == 0.5)
                assert impatient.fetch(1, 2.0) == [], "it was taken from who lives"
            patient.ack([held])
            patient.flush()
            assert broker.groups("patient")["g"].lag == 0
        broker.delete("patient")


def test_a_value_that_others_change_meanwhile_is_deleted_all_the_same(nats_server: NatsServer) -> None:
    with NatsBroker.from_url(nats_server.url) as broker:
        state, others = broker.state(), iter(range(30))
        state.put("busy", b"first")
        find = state._find

        async def disturbed(name: str, deadline: float) -> object:
            found = await find(name, deadline)
            if next(others, None) is not None:
                await state._say(name, b"another", {}, deadline)
            return found

        state._find = disturbed
        assert state.delete("busy")
        assert next(others, None) is None, "it was not disturbed as often"
        assert state.get("busy") is None


def test_what_was_asked_for_ahead_comes_with_the_next_fetch(nats_server: NatsServer) -> None:
    with NatsBroker.from_url(nats_server.url) as broker:
        broker.ensure(Topic("ahead", partitions=2, groups=("g",)))
        broker.publish("ahead", [Record(b"%d" % number, partition=number % 2) for number in range(8)])
        with broker.subscribe("ahead", group="g") as member:
            first = member.fetch(2, 10)
            assert member.ahead(4)
            assert until(lambda: broker.groups("ahead")["g"].pending == 6), "it is owed as soon as it was asked for"
            found = first + take(member, 6, 10)
            assert sorted(each.body for each in found) == [b"%d" % number for number in range(8)]
            member.ack(found)
            member.flush()
            assert member.ahead(4), "of nothing"
            assert member.fetch(1, 0.2) == []
            broker.publish("ahead", [Record(b"a"), Record(b"b")])
            assert member.fetch(1, 10) and member.ahead(1)
        assert not member.ahead(1)
        with broker.subscribe("ahead", group="g") as another:  # what was asked for ahead is given back
            assert sorted(each.body for each in take(another, 2, 10)) == [b"a", b"b"]
        broker.delete("ahead")


def test_who_waits_in_vain_for_longer_than_a_call_may_take_is_told_that_nothing_came(nats_server: NatsServer) -> None:
    with NatsBroker.from_url(nats_server.url) as broker:
        state = broker.state("", timeout=0.2)
        found = None
        for _ in range(5):  # on a busy machine the last look may take longer than these 0.2 s
            with contextlib.suppress(ConnectorError):
                found = state.wait({"never": 0}, 0.25)
                break
        assert found == {}


def test_who_waits_at_a_broker_that_is_closed_is_told_so(nats_server: NatsServer) -> None:
    broker = NatsBroker.from_url(nats_server.url)
    state = broker.state("")
    state.put("there", b"")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(state.wait, {"never": 0}, 60.0)
        time.sleep(0.1)  # be it under way or not: it is closed
        broker.close()
        assert isinstance(waiting.exception(30), ConnectorError)
