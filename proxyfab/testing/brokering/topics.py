"""Topics: made, told, deleted, missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from proxyfab.errors import ConfigurationError, ConnectorError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Capability, Record, Topic
from proxyfab.testing.brokering.base import BrokerSuite, Join, Make
from proxyfab.testing.brokering.flows import fill, numbers, take
from proxyfab.testing.processes import at_once, until

MISSING = "suite.never-made"


def _uses(broker: Broker, topic: str) -> list[Callable[[], Any]]:
    return [
        lambda: broker.describe(topic),
        lambda: broker.publish(topic, [Record(b"x")]),
        lambda: broker.subscribe(topic, group="g").fetch(1, 1),
        lambda: broker.subscribe(topic, group=None).fetch(1, 1),
        lambda: broker.groups(topic),
        lambda: broker.ensure_group(topic, "g"),
        lambda: broker.delete_group(topic, "g"),
    ]


class TopicTests(BrokerSuite):
    """What a topic is, is the same for all who ask."""

    def test_a_topic_is_told_as_it_was_made(self, broker: Broker, make: Make, join: Join) -> None:
        said: dict[str, Any] = {"release": "never", "groups": ("a", "b"), "options": {"k": [1, "é", None], "m": {}}}
        name = make(**said)
        wanted = Topic(name, **said)

        assert broker.describe(name).topic == wanted
        assert join().describe(name).topic == wanted
        assert join().ensure(Topic(name)) == wanted  # who asks for nothing particular gets what is there

    def test_numbers_of_a_topic_are_kept(self, broker: Broker, make: Make, join: Join) -> None:
        name = make(window=30.0)

        assert broker.describe(name).topic.window == 30.0
        assert join().describe(name).topic == broker.describe(name).topic

    def test_partitions_are_what_they_were_made(self, broker: Broker, make: Make) -> None:
        self.claim(broker, Capability.PARTITIONS)
        name = make(partitions=3)

        assert broker.ensure(Topic(name)).partitions == 3
        assert broker.ensure(Topic(name, partitions=3)).partitions == 3
        with pytest.raises(ConfigurationError, match="3"):
            broker.ensure(Topic(name, partitions=4))

    def test_more_partitions_than_it_can_have_are_refused(self, broker: Broker) -> None:
        if Capability.PARTITIONS not in broker.capabilities:
            with pytest.raises(ConfigurationError):
                broker.ensure(Topic("suite.wide", partitions=2))

    def test_of_many_who_make_it_one_does(self, broker: Broker, make: Make, join: Join) -> None:
        name = make()
        broker.delete(name)
        clients = [broker, join(), join(), join()]
        made = at_once([partial(each.ensure, Topic(name, options={"by": n})) for n, each in enumerate(clients)])

        assert all(isinstance(each, Topic) for each in made), made
        assert len({each.options["by"] for each in made}) == 1, made

    def test_names_of_topics(self, broker: Broker, make: Make) -> None:
        one, two = make(), make()

        assert {one, two} <= set(broker.topics())
        assert broker.topics() == sorted(broker.topics())
        assert broker.matching(one) == [one]
        assert {one, two} <= set(broker.matching("suite.*"))
        assert broker.matching("nothing-like-*") == []

    def test_an_empty_topic(self, broker: Broker, topic: str) -> None:
        found = broker.describe(topic)

        assert found.records == 0
        assert set(found.extents) == {0}
        assert (found.extents[0].first, found.extents[0].last) == (1, 0)

    def test_what_a_topic_holds(self, broker: Broker, make: Make) -> None:
        name = make(partitions=2 if Capability.PARTITIONS in broker.capabilities else 1)
        positions = fill(broker, name, 3)
        found = broker.describe(name)

        assert found.records == 3
        assert found.extents[0].first == positions[0].offset
        assert found.extents[0].last == positions[-1].offset
        assert all(extent.first == extent.last + 1 for number, extent in found.extents.items() if number)
        assert found.nbytes >= 0

    def test_the_oldest_records_are_cut_off(self, broker: Broker, make: Make, join: Join) -> None:
        """For groups and readers as if retention had taken them; offsets go on, and others' partitions stay."""
        self.claim(broker, Capability.CUT, Capability.PARTITIONS)
        name = make(partitions=2)
        broker.ensure_group(name, "behind")
        positions = fill(broker, name, 5)
        (other,) = fill(broker, name, 1, 9, partition=1)

        assert broker.cut(name, {0: positions[2].offset}) == 3
        assert broker.cut(name, {0: positions[2].offset, 1: 0}) == 0
        found = join().describe(name)
        assert found.records == 3
        assert found.extents[0].first == positions[3].offset
        assert found.extents[1].last == other.offset
        for group in ("behind", "new", None):
            with broker.subscribe(name, group=group) as member:
                assert sorted(numbers(take(member, 3, self.patience))) == [3, 4, 9]

        assert broker.cut(name, {0: positions[-1].offset + 100}) == 2
        (last,) = fill(broker, name, 1, 5)
        assert last.offset > positions[-1].offset
        with broker.subscribe(name, group=None, partitions=[0]) as reader:
            assert numbers(take(reader, 1, self.patience)) == [5]

    def test_what_cannot_be_cut(self, broker: Broker, topic: str) -> None:
        self.claim(broker, Capability.CUT)
        fill(broker, topic, 1)

        with pytest.raises((ConfigurationError, TopicNotFound)):
            broker.cut(topic, {7: 1})
        with pytest.raises(TopicNotFound, match=MISSING):
            broker.cut(MISSING, {0: 1})
        assert broker.describe(topic).records == 1

    def test_what_a_member_held_and_was_cut_off_is_not_owed(self, broker: Broker, topic: str) -> None:
        self.claim(broker, Capability.CUT, Capability.GROUPS)
        positions = fill(broker, topic, 3)
        with broker.subscribe(topic, group="g") as member:
            found = take(member, 2, self.patience)
            broker.cut(topic, {0: positions[1].offset})
            member.ack(found)
            (last,) = take(member, 1, self.patience)
            member.ack([last])
            member.flush()
            assert until(lambda: broker.groups(topic)["g"].lag == 0)

    def test_a_topic_is_deleted(self, broker: Broker, topic: str, join: Join) -> None:
        fill(broker, topic, 3)

        assert broker.delete(topic) is True
        assert broker.delete(topic) is False
        assert topic not in join().topics()
        with pytest.raises(TopicNotFound):
            join().describe(topic)

    def test_a_topic_made_again_is_another_one(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 3)
        broker.ensure_group(topic, "g")
        if Capability.STATE in broker.capabilities:
            broker.state(topic).put("k", b"v")
        broker.delete(topic)
        broker.ensure(Topic(topic))

        assert broker.describe(topic).records == 0
        assert broker.groups(topic) == {}
        if Capability.STATE in broker.capabilities:
            assert broker.state(topic).get("k") is None
        with broker.subscribe(topic, group="g") as member:
            fill(broker, topic, 1, 7)
            assert numbers(take(member, 1, self.patience)) == [7]

    @pytest.mark.parametrize("which", range(7))
    def test_a_topic_that_is_not_there(self, broker: Broker, which: int) -> None:
        with pytest.raises(TopicNotFound, match=MISSING):
            _uses(broker, MISSING)[which]()

    @pytest.mark.parametrize("which", range(7))
    def test_a_topic_that_was_there(self, broker: Broker, join: Join, topic: str, which: int) -> None:
        """Whatever a client remembers of it."""
        other = join()
        fill(broker, topic, 1)
        with broker.subscribe(topic, group="g") as member:
            take(member, 1, self.patience)
        other.delete(topic)

        with pytest.raises(TopicNotFound):
            _uses(broker, topic)[which]()

    def test_who_waits_at_a_topic_that_is_deleted_is_told(self, broker: Broker, join: Join, topic: str) -> None:
        for group in ("g", None):
            broker.ensure(Topic(topic))
            member, other = broker.subscribe(topic, group=group), join()
            told, _ = at_once([partial(member.fetch, 1, 60), partial(other.delete, topic)])
            assert isinstance(told, TopicNotFound), told
            member.close()

    def test_who_waits_for_a_group_that_is_deleted_is_told(self, broker: Broker, join: Join, topic: str) -> None:
        member, other = broker.subscribe(topic, group="g"), join()
        told, deleted = at_once([lambda: member.fetch(1, 60), lambda: other.delete_group(topic, "g")])

        assert deleted is True
        assert isinstance(told, TopicNotFound), told
        member.close()

    def test_a_name_that_no_topic_has(self, broker: Broker) -> None:
        for name in ("", "a b", "a/b", "../up", "é", ".a", "a..b", "x" * 200):
            with pytest.raises((ConfigurationError, TopicNotFound)):
                broker.describe(name)

    def test_a_broker_can_be_asked_whether_it_is_there(self, broker: Broker) -> None:
        assert 0 < broker.ping(10) < 10

    # -- the end -----------------------------------------------------------------------------------------------------

    def test_close_deletes_nothing(self, broker: Broker, join: Join, topic: str) -> None:
        other = join()
        fill(other, topic, 2)
        other.close()
        other.close()

        assert other.closed
        assert not broker.closed
        assert broker.describe(topic).records == 2

    @pytest.mark.parametrize("which", range(7))
    def test_what_is_closed_is_not_used(self, join: Join, topic: str, which: int) -> None:
        other = join()
        other.topics()
        other.close()

        with pytest.raises(ConnectorError):
            _uses(other, topic)[which]()

    def test_what_is_closed_says_so(self, join: Join, topic: str) -> None:
        other = join()
        assert "closed" not in repr(other)
        other.close()

        assert "closed" in repr(other)
        for use in (other.topics, lambda: other.ensure(Topic(topic)), lambda: other.delete(topic), other.ping):
            with pytest.raises(ConnectorError, match="closed"):
                use()

    def test_a_broker_that_was_never_used_is_closed(self, join: Join) -> None:
        join().close()

    def test_who_waits_at_a_broker_that_is_closed_returns(self, join: Join, topic: str) -> None:
        other = join()
        member = other.subscribe(topic, group="g", start=EARLIEST)
        told, _ = at_once([lambda: member.fetch(1, 60), other.close])

        assert told == [] or isinstance(told, ConnectorError), told
        assert until(lambda: other.closed)
        member.close()
