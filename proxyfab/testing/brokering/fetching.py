"""Fetching and settling: who has what for how long, and what comes again."""

from __future__ import annotations

import time
from functools import partial

import pytest

from proxyfab.errors import CapacityError, ConnectorError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability
from proxyfab.testing.brokering.base import BrokerSuite, Join
from proxyfab.testing.brokering.flows import fill, nothing, numbers, settle, take
from proxyfab.testing.processes import at_once

SHORT = 0.6
"""An `ack_wait` that a test can wait for."""


class FetchTests(BrokerSuite):
    """Rules 2 and 3."""

    # -- fetching ----------------------------------------------------------------------------------------------------

    def test_nothing_comes_in_the_time_given(self, broker: Broker, topic: str) -> None:
        for group in ("g", None):
            with broker.subscribe(topic, group=group) as member:
                started = time.monotonic()
                assert member.fetch(10, 0.3) == []
                assert 0.25 < time.monotonic() - started < 0.3 + self.patience
                assert member.fetch(10, 0) == []

    def test_no_more_than_asked_for(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 10)
        for group in ("g", None):
            with broker.subscribe(topic, group=group) as member:
                found = [member.fetch(3, self.patience) for _ in range(4)]
                assert all(1 <= len(each) <= 3 for each in found)

    def test_who_waits_is_told(self, broker: Broker, join: Join, topic: str) -> None:
        other = join()
        for number, group in enumerate(("g", None)):
            with broker.subscribe(topic, group=group, start={0: number + 1}) as member:
                started = time.monotonic()
                found, _ = at_once([partial(member.fetch, 1, 60), partial(fill, other, topic, 1, number)])
                assert numbers(found) == [number]
                assert time.monotonic() - started < self.patience

    def test_order(self, broker: Broker, topic: str) -> None:
        with broker.subscribe(topic, group="g") as member:
            for start in range(0, 100, 10):
                fill(broker, topic, 10, start)
                assert numbers(settle(member, 10, self.patience)) == list(range(start, start + 10))

    # -- settling ----------------------------------------------------------------------------------------------------

    def test_what_is_acknowledged_does_not_come_again(self, broker: Broker, join: Join, topic: str) -> None:
        fill(broker, topic, 5)
        with broker.subscribe(topic, group="g", ack_wait=SHORT) as member:
            settle(member, 5, self.patience)
        with join().subscribe(topic, group="g", ack_wait=SHORT) as later:
            assert nothing(later, 2 * SHORT)

    def test_flush_and_close_confirm(self, broker: Broker, join: Join, topic: str) -> None:
        fill(broker, topic, 4)
        member = broker.subscribe(topic, group="g")
        found = take(member, 4, self.patience)
        member.ack(found[:2])
        member.flush()
        assert join().groups(topic)["g"].floor[0] >= found[1].position.offset

        member.ack(found[2:])
        member.close()
        assert join().groups(topic)["g"].lag == 0

    def test_acknowledging_twice_is_as_good_as_once(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 2)
        with broker.subscribe(topic, group="g") as member:
            found = take(member, 2, self.patience)
            for _ in range(2):
                member.ack(found)
                member.ack([])
                member.flush()
            assert member.info().lag == 0

    def test_acknowledged_in_any_order(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.PER_EVENT_ACK)
        fill(broker, topic, 4)
        with broker.subscribe(topic, group="g") as member:
            found = take(member, 4, self.patience)
            member.ack([found[3], found[1]])
        with join().subscribe(topic, group="g") as other:
            again = settle(other, 2, self.patience)
            assert sorted(numbers(again)) == [0, 2]
            assert nothing(other)
            assert other.info().lag == 0

    def test_what_a_closed_member_held_comes_at_once(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.GROUPS)
        fill(broker, topic, 3)
        member = broker.subscribe(topic, group="g", ack_wait=600)
        with join().subscribe(topic, group="g", ack_wait=600) as other:
            found = take(member, 3, self.patience)
            mine = [] if len(found) == 3 else take(other, 3 - len(found), self.patience)  # shared from the beginning
            other.ack(mine)
            member.close()
            assert sorted(numbers([*mine, *settle(other, len(found), self.patience)])) == [0, 1, 2]

    def test_a_closed_broker_gives_back_what_it_held(self, broker: Broker, join: Join, topic: str) -> None:
        fill(broker, topic, 3)
        going = join()
        take(going.subscribe(topic, group="g", ack_wait=600), 3, self.patience)
        going.close()
        with broker.subscribe(topic, group="g", ack_wait=600) as other:
            assert sorted(numbers(settle(other, 3, self.patience))) == [0, 1, 2]

    def test_what_is_not_acknowledged_in_time_comes_again(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 2)
        with broker.subscribe(topic, group="g", ack_wait=SHORT) as member:
            first = take(member, 2, self.patience)
            again = take(member, 2, self.patience)
            assert sorted(numbers(again)) == [0, 1]
            assert {each.position for each in again} == {each.position for each in first}
            member.ack(again)

    def test_it_comes_to_another_member(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.PER_EVENT_ACK)
        fill(broker, topic, 2)
        member = broker.subscribe(topic, group="g", ack_wait=SHORT)
        first = take(member, 2, self.patience)
        with join().subscribe(topic, group="g", ack_wait=SHORT) as other:
            again = settle(other, 2, self.patience)
            assert sorted(numbers(again)) == [0, 1]
            assert [each.attempt for each in again] == [2, 2]
            member.ack(first)  # late, and harmless
            member.close()
            assert nothing(other, 2 * SHORT)

    def test_attempts_are_counted(self, broker: Broker, topic: str) -> None:
        self.claim(broker, Capability.PER_EVENT_ACK)
        fill(broker, topic, 1)
        with broker.subscribe(topic, group="g", ack_wait=SHORT) as member:
            (found,) = take(member, 1, self.patience)
            for attempt in (2, 3):
                assert found.attempt == attempt - 1
                (found,) = take(member, 1, self.patience)
            member.nack([found])
            (found,) = settle(member, 1, self.patience)
            assert found.attempt == 4

    def test_who_extends_keeps_it(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.PER_EVENT_ACK)
        fill(broker, topic, 1)
        wait = 1.5
        with broker.subscribe(topic, group="g", ack_wait=wait) as member:
            found = take(member, 1, self.patience)
            ends = time.monotonic() + 2 * wait
            with join().subscribe(topic, group="g", ack_wait=wait) as other:
                while time.monotonic() < ends:
                    member.extend(found)
                    assert other.fetch(1, wait / 5) == []
                assert [each.attempt for each in take(other, 1, self.patience)] == [2]  # nobody extends it any more

    # -- giving back -------------------------------------------------------------------------------------------------

    def test_what_is_given_back_comes_again(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 2)
        with broker.subscribe(topic, group="g") as member:
            first, second = take(member, 2, self.patience)
            member.ack([second])
            member.nack([first])
            (again,) = settle(member, 1, self.patience)
            assert again.position == first.position
            assert nothing(member)

    def test_it_comes_after_the_delay_with_its_note(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.DELAYED_NACK)
        fill(broker, topic, 1)
        with broker.subscribe(topic, group="g") as member, join().subscribe(topic, group="g") as other:
            found = take(member, 1, self.patience)
            started = time.monotonic()
            member.nack(found, delay=0.5, note=b"\0\xffnote")
            member.flush()
            (again,) = take(other, 1, self.patience)
            assert time.monotonic() - started > 0.45
            assert again.note == b"\0\xffnote"
            assert again.attempt == 2
            other.nack([again])
            other.flush()
            (last,) = take(other, 1, self.patience)
            assert last.note == b""

    def test_one_that_is_given_back_does_not_hold_up_the_others(self, broker: Broker, topic: str) -> None:
        self.claim(broker, Capability.DELAYED_NACK)
        fill(broker, topic, 3)
        with broker.subscribe(topic, group="g") as member:
            found = take(member, 1, self.patience)
            member.nack(found, delay=0.5)
            assert numbers(take(member, 3, self.patience)) == [1, 2, 0]

    def test_a_note_has_its_bound(self, broker: Broker, topic: str) -> None:
        self.claim(broker, Capability.DELAYED_NACK)
        fill(broker, topic, 1)
        with broker.subscribe(topic, group="g") as member:
            found = take(member, 1, self.patience)
            with pytest.raises(CapacityError):
                member.nack(found, note=bytes(1025))
            member.nack(found, note=bytes(1024))
            (again,) = take(member, 1, self.patience)
            assert again.note == bytes(1024)

    # -- the end -----------------------------------------------------------------------------------------------------

    def test_a_closed_subscription(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 1)
        for group in ("g", None):
            member = broker.subscribe(topic, group=group)
            found = take(member, 1, self.patience)
            member.close()
            member.close()
            member.ack(found)  # a late one is nobody's loss
            member.nack(found)
            member.extend(found)
            with pytest.raises(ConnectorError, match="closed"):
                member.fetch(1, 1)

    def test_who_waits_at_a_subscription_that_is_closed_returns(self, broker: Broker, topic: str) -> None:
        for group in ("g", None):
            member = broker.subscribe(topic, group=group)
            started = time.monotonic()
            told, _ = at_once([partial(member.fetch, 1, 60), member.close], timeout=50)
            assert told == [] or isinstance(told, ConnectorError), told
            assert time.monotonic() - started < self.patience
