"""`kafka://host:port,...`: topics in Kafka, through confluent-kafka. The way to MSK and Octopus, and to Redpanda.

Promises: what is published has been acknowledged by all replicas in sync. Records are not acknowledged one by one: a
member tells Kafka of each partition up to where all is done, so that after a member's death what it had finished
beyond comes again. A record that is given back comes again to the same member. An id is known again within the
life of this broker object only, which is less than DEDUP. What members fetched and did not acknowledge counts as
undelivered to others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from proxyfab.brokers.kafka.acls import Acls
from proxyfab.brokers.kafka.client import Client
from proxyfab.brokers.kafka.groups import Groups, begin_all
from proxyfab.brokers.kafka.journal import Journal, KafkaState
from proxyfab.brokers.kafka.member import Member
from proxyfab.brokers.kafka.naming import DESCRIPTION, is_topic, values_topic
from proxyfab.brokers.kafka.place import Place
from proxyfab.brokers.kafka.reader import Reader
from proxyfab.brokers.kafka.sending import Sender
from proxyfab.brokers.kafka.topics import cut, delete_topic, make_topic, pack, settings, unpack
from proxyfab.errors import CapabilityError, ConfigurationError
from proxyfab.events.broker import ACK_WAIT, TIMEOUT, Broker, State, Subscription
from proxyfab.events.engine import same_topic
from proxyfab.events.model import (
    EARLIEST,
    Capability,
    Description,
    Extent,
    Grant,
    GroupInfo,
    Position,
    Record,
    Start,
    Topic,
    check_group,
    check_topic,
)
from proxyfab.fork import on_fork


class KafkaBroker(Broker):
    """Topics in a Kafka.

    Args:
        place: Where it is and how to enter it.
    """

    capabilities: ClassVar[Capability] = (
        Capability.DURABLE
        | Capability.REPLAY
        | Capability.REPLAY_TIME
        | Capability.GROUPS
        | Capability.PARTITIONS
        | Capability.STATE
        | Capability.LAST_VALUE
        | Capability.ACL
        | Capability.CUT
    )

    def __init__(self, place: Place) -> None:
        self.url = place.url
        self.max_record = place.max
        if not place.admin:
            self.capabilities = self.capabilities & ~Capability.ACL & ~Capability.CUT  # type: ignore[misc]  # this one cannot
        self._client = Client(place)
        self._sender = Sender(self._client)
        self._journals: dict[str, Journal] = {}
        self._members: list[Subscription] = []
        self._lock = threading.Lock()
        on_fork(self)

    @classmethod
    def from_url(cls, url: str) -> KafkaBroker:
        """The broker that a URL names."""
        return cls(Place.parse(url))

    def after_fork(self) -> None:
        """Subscriptions are the parent's."""
        self._members = []
        self._lock = threading.Lock()

    # -- topics ------------------------------------------------------------------------------------------------------

    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:
        with self._client.within(timeout):
            config, replicas = settings(topic)
            count = self._client.partitions(topic.name, fresh=True)
            if not count:
                count = make_topic(self._client, topic.name, topic.partitions, config, replicas)
            known = self._kept(topic.name, count)
            if known is None:
                made = replace(topic, partitions=count)
                self._journal(topic.name).put(DESCRIPTION, pack(made), 0)
                known = self._kept(topic.name, count) or made
            begin_all(self._groups(topic.name), known.groups)
            return same_topic(known, topic)

    def describe(self, topic: str, *, timeout: float = TIMEOUT) -> Description:
        with self._client.within(timeout):
            count = self._there(topic)
            bounds = self._client.bounds(topic, range(count))
            extents = {number: Extent(low + 1, high) for number, (low, high) in bounds.items()}
            records = sum([high - low for low, high in bounds.values()])
            return Description(self._kept(topic, count) or Topic(topic, count), extents, records, 0)

    def delete(self, topic: str) -> bool:
        if not self._client.partitions(check_topic(topic), fresh=True):
            return False
        delete_topic(self._client, topic)
        with self._lock:
            journal = self._journals.pop(topic, None)
        if journal is not None:
            journal.close()
        values = values_topic(self._client.place.values, topic)
        if self._client.partitions(values, fresh=True):
            delete_topic(self._client, values)
        return True

    def topics(self) -> list[str]:
        prefix = self._client.place.values
        return sorted(name for name in self._client.topics() if is_topic(name, prefix))

    # -- records -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        with self._client.within(timeout):
            return self._sender.publish(check_topic(topic), records, timeout)

    def cut(self, topic: str, upto: Mapping[int, int], *, timeout: float = TIMEOUT) -> int:
        with self._client.within(timeout):
            return cut(self._client, topic, self._there(topic), upto)

    def subscribe(
        self,
        topic: str,
        *,
        group: str | None,
        start: Start = EARLIEST,
        partitions: Sequence[int] | None = None,
        ack_wait: float = ACK_WAIT,
        member: str = "",
        timeout: float = TIMEOUT,
    ) -> Subscription:
        with self._client.within(timeout):
            return self._subscribe(topic, group, start, partitions, ack_wait, member)

    def _subscribe(
        self, topic: str, group: str | None, start: Start, partitions: Sequence[int] | None, ack_wait: float, name: str
    ) -> Subscription:
        count = self._there(topic)
        if partitions is not None and any(not 0 <= number < count for number in partitions):
            raise ConfigurationError(f"Topic {topic} has {count} partitions; {list(partitions)} are not all there.")
        made: Subscription
        if group is None:
            made = Reader(self._client, topic, start, range(count) if partitions is None else partitions)
        else:
            groups = self._groups(topic)
            groups.ensure(check_group(group), start)
            made = Member(self._client, groups, topic, group, partitions, ack_wait, name)
        with self._lock:
            self._members = [each for each in self._members if not getattr(each, "_closed", False)]
            self._members.append(made)
        return made

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:
        with self._client.within(timeout):
            self._there(topic)
            return self._groups(topic).all()

    def ensure_group(
        self,
        topic: str,
        group: str,
        start: Start = EARLIEST,
        *,
        ack_wait: float = ACK_WAIT,  # noqa: ARG002 - Kafka counts nothing
        timeout: float = TIMEOUT,
    ) -> None:
        with self._client.within(timeout):
            self._there(topic)
            self._groups(topic).ensure(group, start)

    def delete_group(self, topic: str, group: str) -> bool:
        self._there(topic)
        return self._groups(topic).delete(check_group(group))

    def state(self, topic: str = "", *, timeout: float = TIMEOUT) -> State:
        return KafkaState(self._journal(check_topic(topic) if topic else ""), self._client, timeout)

    # -- who may -----------------------------------------------------------------------------------------------------

    def grant(self, principal: str, topic: str, actions: Iterable[str]) -> None:
        self._acls().grant(principal, topic, actions)

    def revoke(self, principal: str, topic: str) -> bool:
        return self._acls().revoke(principal, topic)

    def grants(self) -> list[Grant]:
        return self._acls().grants()

    def _acls(self) -> Acls:
        if not self._client.place.admin:
            raise CapabilityError(f"{self.url} does not manage who may use a topic: ?admin=0 says so.")
        return Acls(self._client)

    # -- the end -----------------------------------------------------------------------------------------------------

    def ping(self, timeout: float = 5.0) -> float:
        started = time.perf_counter()
        self._client.topics(timeout)
        return time.perf_counter() - started

    def close(self) -> None:
        with self._lock:
            members, self._members = self._members, []
            journals, self._journals = list(self._journals.values()), {}
        for member in members:
            member.close()
        for journal in journals:
            journal.close()
        self._client.close()

    @property
    def closed(self) -> bool:
        return self._client.closed

    # -- inside ------------------------------------------------------------------------------------------------------

    def _there(self, topic: str) -> int:
        """How many partitions it has now."""
        count = self._client.partitions(check_topic(topic), fresh=True)
        if not count:
            raise self._client.missing(topic)
        return count

    def _kept(self, topic: str, count: int) -> Topic | None:
        kept = self._journal(topic).get(DESCRIPTION)
        return None if kept is None else unpack(kept.value, count)

    def _journal(self, topic: str) -> Journal:
        with self._lock:
            found = self._journals.get(topic)
            if found is None:
                found = self._journals[topic] = Journal(self._client, self._sender, topic)
            return found

    def _groups(self, topic: str) -> Groups:
        return Groups(self._client, self._journal(topic), topic)
