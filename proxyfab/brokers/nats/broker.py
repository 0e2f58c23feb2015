"""The broker `nats://`: what is asked of it, handed to the loop's thread in one piece."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from proxyfab.brokers.nats import groups, topics
from proxyfab.brokers.nats.holding import LEASE
from proxyfab.brokers.nats.link import Link, Refusal, now
from proxyfab.brokers.nats.members import Member, Reader
from proxyfab.brokers.nats.naming import Names
from proxyfab.brokers.nats.place import Place
from proxyfab.brokers.nats.publishing import Batch
from proxyfab.brokers.nats.topics import Desk
from proxyfab.brokers.nats.values import Values
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError
from proxyfab.events.broker import ACK_WAIT, TIMEOUT, Broker, State, Subscription
from proxyfab.events.model import (
    EARLIEST,
    Capability,
    Description,
    GroupInfo,
    Position,
    Record,
    Start,
    Topic,
    check_group,
    check_topic,
)
from proxyfab.members import Members

T = TypeVar("T")
_EVERYTHING = (
    Capability.DURABLE
    | Capability.REPLAY
    | Capability.REPLAY_TIME
    | Capability.GROUPS
    | Capability.PER_EVENT_ACK
    | Capability.DELAYED_NACK
    | Capability.DEDUP
    | Capability.PARTITIONS
    | Capability.STATE
    | Capability.LAST_VALUE
    | Capability.FEDERATION
    | Capability.CUT
)


class NatsBroker(Broker):
    """Topics on a NATS server with JetStream, 2.11 or newer.

    What was confirmed outlives the server's process; a power cut can take what the server had not yet brought to the
    disk, which it does every two minutes unless its `sync_interval` says otherwise (`?sync=always` for `nats://auto`).

    Args:
        place: Where it is.
    """

    one_count: ClassVar[bool] = True  # a stream's sequence
    capabilities: ClassVar[Capability] = _EVERYTHING
    max_record = (1 << 20) - 1024

    def __init__(self, place: Place) -> None:
        self.url = place.url()
        if place.storage == "memory":
            self.capabilities = _EVERYTHING & ~Capability.DURABLE  # type: ignore[misc]  # this one's own
        self._link = Link(place)
        self._desk = Desk(self._link, Names(place.ns))
        self._subscriptions: Members[Subscription] = Members()

    @classmethod
    def from_url(cls, url: str) -> NatsBroker:
        """The broker that a URL names."""
        return cls(Place.parse(url))

    # -- topics ------------------------------------------------------------------------------------------------------

    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:
        return self._run(lambda deadline: topics.ensure(self._desk, topic, deadline), timeout)

    def describe(self, topic: str, *, timeout: float = TIMEOUT) -> Description:
        check_topic(topic)
        return self._run(lambda deadline: topics.describe(self._desk, topic, deadline), timeout)

    def delete(self, topic: str) -> bool:
        check_topic(topic)
        return self._run(lambda deadline: topics.delete(self._desk, topic, deadline))

    def topics(self) -> list[str]:
        return self._run(lambda deadline: topics.listed(self._desk, deadline))

    # -- records -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        check_topic(topic)
        for record in records:
            if len(record.body) > 64 << 20:
                raise CapacityError(f"A record of {len(record.body)} bytes is larger than any NATS server takes.")
        if not records:
            return []
        return self._run(Batch(self._desk, topic, records).publish, timeout)

    def cut(self, topic: str, upto: Mapping[int, int], *, timeout: float = TIMEOUT) -> int:
        check_topic(topic)
        return self._run(lambda deadline: topics.cut(self._desk, topic, upto, deadline), timeout)

    def subscribe(
        self,
        topic: str,
        *,
        group: str | None,
        start: Start = EARLIEST,
        partitions: Sequence[int] | None = None,
        ack_wait: float = ACK_WAIT,
        member: str = "",  # noqa: ARG002 - consumers of JetStream do not know their members
        timeout: float = TIMEOUT,
    ) -> Subscription:
        check_topic(topic)
        if group is not None:
            check_group(group)

        async def work(deadline: float) -> Subscription:
            known, _ = await topics.look(self._desk, topic, deadline)
            wanted = list(range(known.partitions)) if partitions is None else list(partitions)
            if not wanted or any(not 0 <= number < known.partitions for number in wanted):
                raise ConfigurationError(
                    f"Topic {topic} has {known.partitions} partitions; {wanted} are not all there."
                )
            if group is None:
                return await Reader(self._desk, known, start, wanted).begin(deadline)
            lease = min(LEASE, ack_wait)
            there = await groups.occupied(self._link, self._desk.names, known, group, deadline, start, lease)
            return await Member(self._desk, known, group, wanted, ack_wait).begin(there.values(), lease, deadline)

        made = self._run(work, timeout)
        self._subscriptions.add(made)
        return made

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:
        async def work(deadline: float) -> dict[str, GroupInfo]:
            known, _ = await topics.look(self._desk, check_topic(topic), deadline)
            return await groups.infos(self._link, self._desk.names, known, deadline)

        return self._run(work, timeout)

    def ensure_group(
        self,
        topic: str,
        group: str,
        start: Start = EARLIEST,
        *,
        ack_wait: float = ACK_WAIT,
        timeout: float = TIMEOUT,
    ) -> None:
        check_group(group)

        async def work(deadline: float) -> None:
            known, _ = await topics.look(self._desk, check_topic(topic), deadline)
            await groups.occupied(self._link, self._desk.names, known, group, deadline, start, min(LEASE, ack_wait))

        self._run(work, timeout)

    def delete_group(self, topic: str, group: str) -> bool:
        check_topic(topic)
        return self._run(lambda deadline: groups.delete(self._link, self._desk.names, topic, group, deadline))

    def state(self, topic: str = "", *, timeout: float = TIMEOUT) -> State:
        return Values(self._desk, check_topic(topic) if topic else "", timeout)

    # -- the end -----------------------------------------------------------------------------------------------------

    def ping(self, timeout: float = 5.0) -> float:
        async def work(deadline: float) -> float:
            await self._link.session(deadline)
            started = now()
            await self._link.call("INFO", None, deadline)
            return now() - started

        return self._run(work, timeout)

    def account(self) -> dict[str, Any]:
        """What JetStream says of this account: what it uses, and its limits."""
        return self._run(lambda deadline: self._link.call("INFO", None, deadline), 5.0)

    def close(self) -> None:
        for each in list(self._subscriptions):  # what they hold is for others
            each.close()
        self._link.close()

    @property
    def closed(self) -> bool:
        return self._link.closed

    def _run(self, work: Callable[[float], Coroutine[Any, Any, T]], timeout: float = TIMEOUT) -> T:
        try:
            return self._link.run(work, timeout)
        except Refusal as refusal:
            raise ConnectorError(f"{self._link.place.label} refuses: {refusal} ({refusal.number}).") from refusal
        finally:
            self.max_record = max(self.max_record, self._link.max_payload - 1024)
