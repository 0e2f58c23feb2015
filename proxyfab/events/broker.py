"""What every broker promises, batch first and blocking; and a base class for those who implement one.

Rules:
1. Records that `publish` returned positions for are kept as the broker's capabilities say. If it raises, each of the
   batch may or may not be there: who sends it again with the same ids, to a broker with DEDUP, has each of them once.
2. A record that was fetched by a group's member comes again, to any member, when it is not acknowledged, extended or
   given back within `ack_wait`, or as soon as its subscription is closed.
3. Acknowledgements need not be confirmed one by one; `Subscription.flush` and `close` confirm what was said before.
4. Every call has a deadline. Brokers, subscriptions and states are thread-safe; a forked child opens a connection of
   its own, and a subscription stays with the process that made it.
5. A broker pickles as its URL. Secrets are not in it.
"""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from proxyfab.errors import CapabilityError
from proxyfab.events.model import (
    EARLIEST,
    Capability,
    Delivery,
    Description,
    Grant,
    GroupInfo,
    Kept,
    Position,
    Record,
    Start,
    Topic,
    revision_of,
)

if TYPE_CHECKING:
    from typing import Self

TIMEOUT = 60.0
"""Seconds that a call has, unless told otherwise."""
ACK_WAIT = 30.0
"""Seconds that a member has for a record, unless told otherwise."""
opener: list[Callable[[str], Broker]] = []
"""Filled by `brokers`, which stands above: from a URL to this process's live broker for it."""


class State(ABC):
    """Small values beside a topic (or a broker), each with a revision that grows. At most 512 KiB each."""

    @abstractmethod
    def get(self, name: str) -> Kept | None:
        """The value; None without one."""

    @abstractmethod
    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        """Set it; its new revision.

        Args:
            name: Letters, digits, `_`, `=`, `/`, `.` and `-`.
            value: At most 512 KiB.
            revision: Which it must have now, 0 for none at all; None for whatever it has.
            ttl: Seconds after which it is gone unless it is set again.

        Raises:
            Conflict: It has another revision.
        """

    @abstractmethod
    def delete(self, name: str, *, revision: int | None = None) -> bool:
        """Whether there was one to delete; raises Conflict as `put` does."""

    @abstractmethod
    def items(self, prefix: str = "") -> dict[str, Kept]:
        """All values whose names begin so."""

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        """Those of the named values that have another revision than is known (0: none), as soon as one has; or {}.

        A broker without LAST_VALUE looks at growing intervals of 5 to 100 ms.
        """
        until, pause = time.monotonic() + timeout, 0.005
        while True:
            found = {name: kept for name in known if revision_of(kept := self.get(name)) != known[name]}
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.1)


class Subscription(ABC):
    """A group's member, or a reader of its own, at one topic."""

    topic: str
    group: str | None

    @abstractmethod
    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        """Up to `most` records as soon as there is one; [] when `timeout` seconds have passed.

        Of a partition they come in its order, except for those that come again. At a broker that does not answer it is
        [], too, until that is known to be away; with no time at all it answers, or the call fails.
        """

    def fetch_surely(self, most: int, timeout: float) -> list[Delivery]:
        """The same, but what it says when the time is over the broker has said: there is nothing.

        Raises:
            ConnectorError: It did not answer for as long as a call may last.
        """
        return self.fetch(most, timeout) or self.fetch(most, 0.0)

    def ahead(self, most: int) -> bool:  # noqa: ARG002 - for those who gain by it
        """Ask now, without waiting, for up to `most` that are there; whether that was done. Raises nothing.

        They are owed from now on, and come with the next `fetch`, whatever it asks.
        """
        return False

    @abstractmethod
    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """They are done: the group does not get them again."""

    @abstractmethod
    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        """They come again after `delay` seconds, with `note` (at most 1 KiB), if the broker has DELAYED_NACK.

        One that has not delivers them again to this subscription by itself.
        """

    @abstractmethod
    def extend(self, deliveries: Iterable[Delivery]) -> None:
        """The time to acknowledge them begins anew."""

    @abstractmethod
    def seek(self, start: Start) -> None:
        """Where to go on from; for a group this moves all of it, and what was fetched before is not owed any more."""

    @abstractmethod
    def info(self) -> GroupInfo:
        """How far the group, or this reader, is."""

    def pause(self, partitions: Collection[int]) -> None:  # noqa: B027 - a hint
        """Fetch nothing new of these partitions, and again of those that were named the last time and are not now.

        Just for brokers without DELAYED_NACK: to others one can give back what there is no room for.
        """

    def flush(self, timeout: float = TIMEOUT) -> None:  # noqa: B027 - nothing to do where acknowledging confirms
        """Return when the broker knows what was acknowledged."""

    @abstractmethod
    def close(self) -> None:
        """Confirm what was acknowledged and give back what was not, at once. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Uncounted(Subscription):
    """Reads without anybody counting: nothing is owed, so there is nothing to settle."""

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        pass

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        pass

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        pass


class Broker(ABC):
    """A place for topics. Construction does no I/O; the first use connects.

    Attributes:
        url: Names it anywhere.
        capabilities: What it can do.
        max_record: Bytes of a record's body at most.
        one_count: Whether offsets are counted over all partitions of a topic, so that those of one have gaps. Then
            deliveries to groups have a `serial`, and `GroupInfo.reached` tells the last ones.
    """

    capabilities: ClassVar[Capability] = Capability.NONE
    url: str
    max_record: int = 1 << 20
    one_count: ClassVar[bool] = False

    # -- topics ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:
        """Make a topic; what it is, if it exists.

        Raises:
            ConfigurationError: It exists with another number of partitions, or asks for what this broker cannot do.
        """

    @abstractmethod
    def describe(self, topic: str, *, timeout: float = TIMEOUT) -> Description:
        """What a topic is and holds; raises TopicNotFound."""

    @abstractmethod
    def delete(self, topic: str) -> bool:
        """Delete a topic with its records, groups and values; whether there was one. Objects are not its business."""

    @abstractmethod
    def topics(self) -> list[str]:
        """The names of all topics, sorted."""

    def matching(self, pattern: str) -> list[str]:
        """The topics that a pattern means; `*` stands for anything."""
        return [name for name in self.topics() if fnmatchcase(name, pattern)]

    # -- records -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        """Where each of them lies, in order, once the broker has them all. Records of one partition keep their order.

        Raises:
            TopicNotFound: There is no such topic.
            BackPressureError: The topic is full, and rejects.
            CapacityError: A record is larger than `max_record`.
            AccessDenied: Not to us.
            ConnectorError: The broker cannot be reached in time.
        """

    def cut(self, topic: str, upto: Mapping[int, int], *, timeout: float = TIMEOUT) -> int:  # noqa: ARG002 - for those who can
        """Cut off the oldest records of some partitions, for all groups and for good; how many there were.

        Objects are not its business, nor are ids: what is cut off is still known again within the topic's window.

        Args:
            topic: Which has to exist.
            upto: Of each partition the last offset that goes; 0, or less than is there, does nothing.
            timeout: Seconds for the call.

        Raises:
            CapabilityError: The broker has no CUT.
            TopicNotFound: There is no such topic.
            ConfigurationError: It has no such partition.
        """
        raise CapabilityError(f"{self.url} cannot cut records off: they go with the retention of {topic}.")

    @abstractmethod
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
        """A member of a group, which begins at `start` if it is new; None for a reader that nobody counts.

        Args:
            topic: Which has to exist.
            group: Its name.
            start: Where a new group, or this reader, begins.
            partitions: Just these; None for all.
            ack_wait: Seconds until a record that was fetched comes again.
            member: A name to show.
            timeout: Seconds for the call.

        Raises:
            TopicNotFound: There is no such topic.
            ConnectorError: The broker cannot be reached in time.
        """

    # -- groups ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:
        """How far each group of a topic is."""

    @abstractmethod
    def ensure_group(
        self,
        topic: str,
        group: str,
        start: Start = EARLIEST,
        *,
        ack_wait: float = ACK_WAIT,
        timeout: float = TIMEOUT,
    ) -> None:
        """Make a group, to begin at `start`; nothing happens if it exists.

        Args:
            topic: Of which topic.
            group: Its name.
            start: Where it begins.
            ack_wait: Seconds that its members will have for a record.
            timeout: Seconds for the call.
        """

    @abstractmethod
    def delete_group(self, topic: str, group: str) -> bool:
        """Forget a group: nothing is kept for it any more."""

    # -- values ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def state(self, topic: str = "", *, timeout: float = TIMEOUT) -> State:
        """The values beside a topic, which go with it; or beside the broker. `timeout` is for each call of them."""

    # -- who may -----------------------------------------------------------------------------------------------------

    def grant(self, principal: str, topic: str, actions: Iterable[str]) -> None:  # noqa: ARG002 - for those who can
        """Let somebody publish to, subscribe to or administer topics."""
        raise CapabilityError(f"{self.url} does not manage who may use a topic.")

    def revoke(self, principal: str, topic: str) -> bool:  # noqa: ARG002 - as above
        """Take back what was granted; whether there was something."""
        raise CapabilityError(f"{self.url} does not manage who may use a topic.")

    def grants(self) -> list[Grant]:
        """What was granted."""
        raise CapabilityError(f"{self.url} does not manage who may use a topic.")

    # -- the end -----------------------------------------------------------------------------------------------------

    def ping(self, timeout: float = 5.0) -> float:  # noqa: ARG002 - a call has its own deadline
        """Seconds of a round trip; raises ConnectorError or AccessDenied."""
        started = time.perf_counter()
        self.topics()
        return time.perf_counter() - started

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; deletes nothing. Idempotent."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether it was closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[str], Broker], tuple[str]]:
        return received, (self.url,)

    def __repr__(self) -> str:
        return f"<Broker {self.url}{', closed' if self.closed else ''}>"


def received(url: str) -> Broker:
    """Unpickle a broker: this process's live one for its URL."""
    if not opener:
        importlib.import_module("proxyfab.brokers.opening")  # who fills it stands above
    return opener[0](url)
