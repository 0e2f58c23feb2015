"""Publishing: where records lie, their order, sizes and ids, and what happens when a topic is full."""

from __future__ import annotations

import time

import pytest

from proxyfab.errors import BackPressureError, CapacityError, ConfigurationError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Capability, Position, Record
from proxyfab.testing.brokering.base import BrokerSuite, Join, Make
from proxyfab.testing.brokering.flows import bodies, fill, numbers, records, settle, take
from proxyfab.testing.processes import until

KILO = 1000


class PublishTests(BrokerSuite):
    """What publish returned a position for is there, once, in order."""

    def test_positions_ascend(self, broker: Broker, topic: str) -> None:
        positions = [*fill(broker, topic, 5), *fill(broker, topic, 5, 5)]
        offsets = [each.offset for each in positions]

        assert all(isinstance(each, Position) for each in positions)
        assert {(each.topic, each.partition, each.event) for each in positions} == {(topic, 0, 0)}
        assert offsets == sorted(set(offsets))
        assert offsets[0] >= 1

    def test_a_record_comes_as_it_was_published(self, broker: Broker, join: Join, topic: str) -> None:
        before = time.time()
        body = bytes(range(256))
        where = join().publish(topic, [Record(body, "an-id-0", 0, "key ü \u2603")])
        with broker.subscribe(topic, group="g") as member:
            (found,) = take(member, 1, self.patience)

        assert bytes(found.body) == body
        assert [found.position] == where
        assert found.id == "an-id-0"
        assert before - 5 < found.time < time.time() + 5
        assert (found.attempt, found.note) == (1, b"")

    def test_bodies_of_all_sizes(self, broker: Broker, topic: str) -> None:
        sent = [b"", b"\0", b"x" * 1023, bytes(range(256)) * 300, b"", b"\r\n*1\r\n$", "é\u2603\U0001f600".encode()]
        broker.publish(topic, [Record(body) for body in sent])
        with broker.subscribe(topic, group="g") as member:
            assert bodies(take(member, len(sent), self.patience)) == sent

    def test_a_body_may_be_as_large_as_the_broker_says(self, broker: Broker, topic: str) -> None:
        body = bytes(broker.max_record - 1) + b"\xff"
        broker.publish(topic, [Record(body)])
        with broker.subscribe(topic, group="g") as member:
            (found,) = settle(member, 1, self.patience)
            assert bytes(found.body) == body

    def test_a_larger_one_is_refused(self, broker: Broker, topic: str) -> None:
        with pytest.raises(CapacityError, match=str(broker.max_record)):
            broker.publish(topic, [Record(b"small"), Record(bytes(broker.max_record + 1))])
        fill(broker, topic, 1, 7)  # and the next one is not
        with broker.subscribe(topic, group="g") as member:
            last = take(member, 1, self.patience)
            if bodies(last) == [b"small"]:
                last = take(member, 1, self.patience)
            assert numbers(last) == [7]

    def test_nothing_to_publish(self, broker: Broker, topic: str) -> None:
        assert broker.publish(topic, []) == []

    def test_a_large_batch(self, broker: Broker, topic: str) -> None:
        positions = fill(broker, topic, 1500)

        assert len({each.offset for each in positions}) == 1500
        with broker.subscribe(topic, group="g") as member:
            assert numbers(settle(member, 1500, self.patience)) == list(range(1500))

    def test_what_nobody_waits_for_is_kept(self, broker: Broker, join: Join, topic: str) -> None:
        fill(broker, topic, 3)
        with join().subscribe(topic, group="late", start=EARLIEST) as member:
            assert numbers(take(member, 3, self.patience)) == [0, 1, 2]

    def test_partitions_have_their_own_order(self, broker: Broker, make: Make) -> None:
        self.claim(broker, Capability.PARTITIONS)
        name = make(partitions=3)
        mixed = [Record(b"%d" % number, partition=number % 3) for number in range(60)]
        positions = broker.publish(name, mixed)

        assert [each.partition for each in positions] == [number % 3 for number in range(60)]
        with broker.subscribe(name, group="g") as member:
            found = take(member, 60, self.patience)
        assert sorted(numbers(found)) == list(range(60))
        for partition in range(3):
            mine = [each for each in found if each.position.partition == partition]
            assert numbers(mine) == list(range(partition, 60, 3))

    @pytest.mark.parametrize("partition", [1, 77, -1])
    def test_a_partition_that_is_not_there(self, broker: Broker, topic: str, partition: int) -> None:
        with pytest.raises((TopicNotFound, ConfigurationError)):
            broker.publish(topic, [Record(b"x", partition=partition)])
        with pytest.raises(ConfigurationError):
            broker.subscribe(topic, group="g", partitions=[partition])

    # -- ids ---------------------------------------------------------------------------------------------------------

    def test_an_id_is_taken_once(self, broker: Broker, join: Join, topic: str) -> None:
        self.claim(broker, Capability.DEDUP)
        first = broker.publish(topic, [Record(b"1", "a"), Record(b"2", "b")])
        again = join().publish(topic, [Record(b"1", "a"), Record(b"2", "b"), Record(b"3", "c")])

        assert again[:2] == first
        with broker.subscribe(topic, group="g") as member:
            assert numbers(take(member, 3, self.patience)) == [1, 2, 3]
            assert member.fetch(5, 0.2) == []

    def test_an_id_twice_in_a_batch(self, broker: Broker, topic: str) -> None:
        self.claim(broker, Capability.DEDUP)
        one, two, three = broker.publish(topic, [Record(b"1", "a"), Record(b"1", "a"), Record(b"2", "b")])

        assert one == two
        assert three.offset > one.offset
        assert broker.describe(topic).records == 2

    def test_without_an_id_all_are_taken(self, broker: Broker, topic: str) -> None:
        positions = broker.publish(topic, [Record(b"1")] * 3)

        assert len(set(positions)) == 3

    def test_ids_of_topics_do_not_meet(self, broker: Broker, make: Make) -> None:
        one, two = make(), make()
        for name in (one, two):
            broker.publish(name, [Record(b"1", "same")])

        assert broker.describe(one).records == broker.describe(two).records == 1

    def test_an_id_is_forgotten_after_the_window(self, broker: Broker, make: Make) -> None:
        """Counted from when it was taken: asking again does not begin the window anew."""
        self.claim(broker, Capability.DEDUP)
        name = make(window=0.5)
        started = time.monotonic()
        first = broker.publish(name, [Record(b"1", "a")])

        assert until(lambda: broker.publish(name, [Record(b"1", "a")]) != first, self.patience)
        assert time.monotonic() - started > 0.4

    # -- limits ------------------------------------------------------------------------------------------------------

    def test_a_full_topic_rejects(self, broker: Broker, make: Make) -> None:
        self.claim(broker, "bounds", Capability.GROUPS)
        name = make(max_bytes=64 * KILO, groups=("g",))
        with pytest.raises(BackPressureError, match=name):  # noqa: PT012 - which of them does not fit is the broker's
            for number in range(200):
                broker.publish(name, records(1, number, nbytes=KILO))
        assert 30 <= (held := broker.describe(name).records) <= 64

        with broker.subscribe(name, group="g") as member:  # what all groups have acknowledged makes room
            assert numbers(settle(member, held, self.patience)) == list(range(held))
        assert until(lambda: self._publishes(broker, name), self.patience)

    @staticmethod
    def _publishes(broker: Broker, name: str) -> bool:
        try:
            broker.publish(name, records(1, 500, nbytes=KILO))
        except BackPressureError:
            return False
        return True

    def test_a_full_topic_drops_the_oldest(self, broker: Broker, make: Make) -> None:
        self.claim(broker, "bounds", Capability.REPLAY)
        name = make(max_bytes=64 * KILO, full="drop_oldest", groups=("g",))
        for number in range(200):
            broker.publish(name, records(1, number, nbytes=KILO))
        held = broker.describe(name).records

        assert 30 <= held <= 130  # an engine may drop in larger pieces
        for group in (None, "g"):
            with broker.subscribe(name, group=group) as reader:
                assert numbers(take(reader, held, self.patience)) == list(range(200 - held, 200))

    def test_retention_takes_what_is_old(self, broker: Broker, make: Make) -> None:
        self.claim(broker, "retains")
        name = make(retention=1.0)
        (old,) = fill(broker, name, 1)

        assert until(lambda: broker.describe(name).extents[0].first > old.offset, self.patience)
        (new,) = fill(broker, name, 1, 1)
        assert new.offset > old.offset
        with broker.subscribe(name, group=None) as reader:
            assert numbers(take(reader, 1, self.patience)) == [1]
