"""A broker around another one: everything goes to that, but for what a subclass does otherwise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from proxyfab.events.broker import ACK_WAIT, TIMEOUT, Broker, State, Subscription
from proxyfab.events.model import (
    EARLIEST,
    Description,
    Grant,
    GroupInfo,
    Position,
    Record,
    Start,
    Topic,
)


class Around(Broker):
    """Passes on what it is asked. A subclass says how it ends."""

    @property
    @abstractmethod
    def own(self) -> Broker:
        """The broker that is asked."""

    # -- topics ------------------------------------------------------------------------------------------------------

    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:
        return self.own.ensure(topic, timeout=timeout)

    def describe(self, topic: str, *, timeout: float = TIMEOUT) -> Description:
        return self.own.describe(topic, timeout=timeout)

    def delete(self, topic: str) -> bool:
        return self.own.delete(topic)

    def topics(self) -> list[str]:
        return self.own.topics()

    def matching(self, pattern: str) -> list[str]:
        return self.own.matching(pattern)

    # -- records -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        return self.own.publish(topic, records, timeout=timeout)

    def cut(self, topic: str, upto: Mapping[int, int], *, timeout: float = TIMEOUT) -> int:
        return self.own.cut(topic, upto, timeout=timeout)

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
        return self.own.subscribe(
            topic, group=group, start=start, partitions=partitions, ack_wait=ack_wait, member=member, timeout=timeout
        )

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:
        return self.own.groups(topic, timeout=timeout)

    def ensure_group(
        self,
        topic: str,
        group: str,
        start: Start = EARLIEST,
        *,
        ack_wait: float = ACK_WAIT,
        timeout: float = TIMEOUT,
    ) -> None:
        self.own.ensure_group(topic, group, start, ack_wait=ack_wait, timeout=timeout)

    def delete_group(self, topic: str, group: str) -> bool:
        return self.own.delete_group(topic, group)

    def state(self, topic: str = "", *, timeout: float = TIMEOUT) -> State:
        return self.own.state(topic, timeout=timeout)

    # -- who may -----------------------------------------------------------------------------------------------------

    def grant(self, principal: str, topic: str, actions: Iterable[str]) -> None:
        self.own.grant(principal, topic, actions)

    def revoke(self, principal: str, topic: str) -> bool:
        return self.own.revoke(principal, topic)

    def grants(self) -> list[Grant]:
        return self.own.grants()

    # -- is it there -------------------------------------------------------------------------------------------------

    def ping(self, timeout: float = 5.0) -> float:
        return self.own.ping(timeout)
