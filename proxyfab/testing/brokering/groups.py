"""Groups, where they begin, how far they are; and readers that nobody counts."""

from __future__ import annotations

import time

import pytest

from proxyfab.errors import ConfigurationError
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, LATEST, Capability, Start
from proxyfab.testing.brokering.base import BrokerSuite, Join, Make
from proxyfab.testing.brokering.flows import fill, nothing, numbers, settle, take


class GroupTests(BrokerSuite):
    """Each record goes to one member of each group."""

    def test_groups_are_independent(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 3)
        with broker.subscribe(topic, group="a") as one, broker.subscribe(topic, group="b") as two:
            assert numbers(settle(one, 3, self.patience)) == [0, 1, 2]
            assert numbers(settle(two, 3, self.patience)) == [0, 1, 2]
            assert broker.groups(topic).keys() == {"a", "b"}

    def test_members_share(self, broker: Broker, join: Join, make: Make) -> None:
        self.claim(broker, Capability.GROUPS)
        several = Capability.PARTITIONS in broker.capabilities
        name = make(partitions=4 if several else 1)
        with broker.subscribe(name, group="g") as one, join().subscribe(name, group="g") as two:
            for start in range(0, 100, 5):
                fill(broker, name, 5, start, partition=start // 5 % 4 if several else 0)
            found: list[int] = []
            until = time.monotonic() + self.patience
            while len(found) < 100 and time.monotonic() < until:
                for member in (one, two):
                    got = member.fetch(7, 0.1)
                    member.ack(got)
                    found += numbers(got)
            assert sorted(found) == list(range(100))
            assert nothing(one)
            assert nothing(two)

    def test_both_members_get_something(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.PER_EVENT_ACK)
        fill(broker, topic, 10)
        with broker.subscribe(topic, group="g") as one, join().subscribe(topic, group="g") as two:
            first = take(one, 5, self.patience)
            second = take(two, 5, self.patience)
            assert sorted(numbers([*first, *second])) == list(range(10))

    def test_how_far_a_group_is(self, broker: Broker, join: Join, topic: str) -> None:
        positions = [each.offset for each in fill(broker, topic, 6)]
        with broker.subscribe(topic, group="g") as member:
            at_first = member.info()
            assert at_first.floor[0] < positions[0]
            assert at_first.lag == 6

            found = take(member, 4, self.patience)
            assert member.info().lag == 6
            member.ack(found[:2])
            member.flush()
            for info in (member.info(), join().groups(topic)["g"]):
                assert positions[1] <= info.floor[0] < positions[2]
                assert info.lag == 4
                assert 2 <= info.pending <= 4

            settle(member, 2, self.patience)
            member.ack(found[2:])
            member.flush()
            assert member.info().lag == 0
            assert member.info().floor[0] >= positions[-1]

    def test_deliveries_are_counted_where_offsets_have_gaps(self, broker: Broker, make: Make) -> None:
        self.claim(broker, "one_count", Capability.PARTITIONS)
        topic = make(partitions=2)
        position = [fill(broker, topic, 1, partition=partition)[0] for partition in (0, 1, 0, 1, 0)][-1]
        with broker.subscribe(topic, group="g", partitions=[0]) as member:
            found = take(member, 3, self.patience)
            assert [each.serial for each in found] == [1, 2, 3]
            assert member.info().reached == {0: (3, position.offset), 1: (0, 0)}
            member.nack(found[1:2])
            (again,) = take(member, 1, self.patience)
            assert (again.position, again.serial) == (found[1].position, 4)
            assert broker.groups(topic)["g"].reached == {0: (4, position.offset), 1: (0, 0)}

    def test_the_floor_waits_for_the_slowest(self, broker: Broker, topic: str) -> None:
        self.claim(broker, Capability.PER_EVENT_ACK)
        positions = [each.offset for each in fill(broker, topic, 3)]
        with broker.subscribe(topic, group="g") as member:
            found = take(member, 3, self.patience)
            member.ack(found[1:])
            member.flush()
            info = member.info()
            assert info.floor[0] < positions[0]
            assert (info.undelivered, info.pending) == (0, 1)
            member.nack(found[:1], delay=60.0)
            member.flush()
            assert member.info().floor[0] < positions[0]
            assert member.info().lag == 1

    def test_floors_have_all_partitions(self, broker: Broker, make: Make) -> None:
        self.claim(broker, Capability.PARTITIONS)
        name = make(partitions=3)
        (where,) = fill(broker, name, 1, partition=1)
        with broker.subscribe(name, group="g") as member:
            settle(member, 1, self.patience)
            floor = member.info().floor
            assert floor.keys() == {0, 1, 2}
            assert floor[1] >= where.offset
            assert floor[0] < 1
            assert floor[2] < 1
            fill(broker, name, 1, partition=2)
            assert member.info().lag == 1

    def test_groups_from_the_beginning(self, broker: Broker, make: Make) -> None:
        name = make(groups=("a", "b"))
        fill(broker, name, 2)

        assert {group: info.lag for group, info in broker.groups(name).items()} == {"a": 2, "b": 2}

    def test_a_group_that_is_there_is_not_moved(self, broker: Broker, join: Join, topic: str) -> None:
        fill(broker, topic, 3)
        broker.ensure_group(topic, "g", LATEST)
        broker.ensure_group(topic, "g", EARLIEST)
        assert broker.groups(topic)["g"].lag == 0
        fill(broker, topic, 1, 3)
        with join().subscribe(topic, group="g", start=EARLIEST) as member:
            assert numbers(take(member, 1, self.patience)) == [3]

    def test_a_group_is_forgotten(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 2)
        with broker.subscribe(topic, group="g") as member:
            settle(member, 2, self.patience)

        assert broker.delete_group(topic, "g") is True
        assert broker.delete_group(topic, "g") is False
        assert broker.groups(topic) == {}
        with broker.subscribe(topic, group="g") as member:
            assert numbers(take(member, 2, self.patience)) == [0, 1]

    @pytest.mark.parametrize("group", ["a", "Group_1-x", "~0f", "x" * 64, "9"])
    def test_names_of_groups(self, broker: Broker, topic: str, group: str) -> None:
        fill(broker, topic, 1)
        with broker.subscribe(topic, group=group, member="me, myself") as member:
            assert member.group == group
            assert member.topic == topic
            assert numbers(settle(member, 1, self.patience)) == [0]
        assert list(broker.groups(topic)) == [group]

    @pytest.mark.parametrize("group", ["", "a b", "a.b", "é", "x" * 65, "a/b", "a*"])
    def test_a_name_that_no_group_has(self, broker: Broker, topic: str, group: str) -> None:
        with pytest.raises(ConfigurationError):
            broker.subscribe(topic, group=group)
        with pytest.raises(ConfigurationError):
            broker.ensure_group(topic, group)

    # -- where to begin ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("group", ["g", None])
    def test_from_the_beginning(self, broker: Broker, topic: str, group: str | None) -> None:
        fill(broker, topic, 3)
        with broker.subscribe(topic, group=group, start=EARLIEST) as member:
            assert numbers(take(member, 3, self.patience)) == [0, 1, 2]

    @pytest.mark.parametrize("group", ["g", None])
    def test_from_now_on(self, broker: Broker, topic: str, group: str | None) -> None:
        """Now is when `subscribe` returns, not when something is fetched for the first time."""
        fill(broker, topic, 3)
        with broker.subscribe(topic, group=group, start=LATEST) as member:
            fill(broker, topic, 2, 3)
            assert numbers(take(member, 2, self.patience)) == [3, 4]

    @pytest.mark.parametrize("group", ["g", None])
    def test_from_an_offset(self, broker: Broker, make: Make, group: str | None) -> None:
        self.claim(broker, Capability.REPLAY)
        several = Capability.PARTITIONS in broker.capabilities
        name = make(partitions=2 if several else 1)
        positions = fill(broker, name, 5)
        if several:
            fill(broker, name, 2, 10, partition=1)
        with broker.subscribe(name, group=group, start={0: positions[3].offset}) as member:
            expected = [3, 4, 10, 11] if several else [3, 4]
            assert sorted(numbers(take(member, len(expected), self.patience))) == expected
            assert nothing(member)

    @pytest.mark.parametrize("group", ["g", None])
    def test_from_a_moment(self, broker: Broker, topic: str, group: str | None) -> None:
        self.claim(broker, Capability.REPLAY_TIME)
        fill(broker, topic, 3)
        with broker.subscribe(topic, group=None) as reader:  # a moment as the broker counts it
            last = max(each.time for each in take(reader, 3, self.patience))
            while True:
                fill(broker, topic, 1, 3)
                (found,) = take(reader, 1, self.patience)
                if found.time > last + 0.02:
                    break
        with broker.subscribe(topic, group=group, start=last + 0.01) as member:
            assert numbers(take(member, 1, self.patience)) == [3]
            assert next(iter(member.info().floor.values())) <= found.position.offset

    @pytest.mark.parametrize("group", ["g", None])
    def test_from_the_future(self, broker: Broker, topic: str, group: str | None) -> None:
        self.claim(broker, Capability.REPLAY_TIME)
        fill(broker, topic, 3)
        with broker.subscribe(topic, group=group, start=time.time() + 3600) as member:
            assert nothing(member)

    # -- partitions --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("group", ["g", None])
    def test_some_partitions_only(self, broker: Broker, make: Make, group: str | None) -> None:
        self.claim(broker, Capability.PARTITIONS)
        name = make(partitions=3)
        for partition in range(3):
            fill(broker, name, 4, 10 * partition, partition=partition)
        with broker.subscribe(name, group=group, partitions=[0, 2]) as member:
            assert sorted(numbers(take(member, 8, self.patience))) == [0, 1, 2, 3, 20, 21, 22, 23]
            assert nothing(member)

    # -- going elsewhere ---------------------------------------------------------------------------------------------

    def test_a_group_begins_anew(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.REPLAY)
        fill(broker, topic, 4)
        with broker.subscribe(topic, group="g", ack_wait=600) as member:
            settle(member, 2, self.patience)
            held = take(member, 2, self.patience)
            member.seek(EARLIEST)
            assert join().groups(topic)["g"].lag == 4
            member.extend(held)  # owed no more, and no mistake
            assert numbers(settle(member, 4, self.patience)) == [0, 1, 2, 3]
            assert nothing(member)

    @pytest.mark.parametrize("group", ["g", None])
    def test_seeking(self, broker: Broker, topic: str, group: str | None) -> None:
        self.claim(broker, Capability.REPLAY)
        positions = fill(broker, topic, 5)
        with broker.subscribe(topic, group=group) as member:
            steps: list[tuple[Start, list[int]]] = [
                ({0: positions[3].offset}, [3, 4]),
                (EARLIEST, [0, 1, 2, 3, 4]),
                ({0: positions[1].offset}, [1, 2, 3, 4]),
                (LATEST, []),
            ]
            for start, expected in steps:
                member.seek(start)
                assert numbers(take(member, len(expected), self.patience)) == expected
            fill(broker, topic, 1, 9)
            assert numbers(take(member, 1, self.patience)) == [9]

    # -- readers -----------------------------------------------------------------------------------------------------

    def test_readers_are_not_counted(self, broker: Broker, join: Join, topic: str) -> None:
        fill(broker, topic, 3)
        with broker.subscribe(topic, group=None) as one, join().subscribe(topic, group=None) as two:
            assert one.group is None
            for reader in (one, two):
                found = take(reader, 3, self.patience)
                assert numbers(found) == [0, 1, 2]
                reader.ack(found)
                reader.nack(found)
                reader.extend(found)
                reader.flush()
                assert nothing(reader)
            assert broker.groups(topic) == {}

    def test_how_far_a_reader_is(self, broker: Broker, topic: str) -> None:
        positions = fill(broker, topic, 4)
        with broker.subscribe(topic, group=None) as reader:
            assert reader.info().undelivered == 4
            take(reader, 2, self.patience)
            info = reader.info()
            assert (info.undelivered, info.pending) == (2, 0)
            assert positions[1].offset <= info.floor[0] < positions[2].offset
