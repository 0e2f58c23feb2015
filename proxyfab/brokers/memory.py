"""`memory://`: topics in this process, for threads, tests and single scripts. `memory://name` is shared by name.

Promises: everything of the protocol but what only a server can do. A topic is gone with the process; a forked child
inherits what lay there at the fork, as a copy of its own.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, TypeVar

from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, TopicNotFound
from proxyfab.events.broker import ACK_WAIT, TIMEOUT, Broker, State, Subscription
from proxyfab.events.engine import Log, same_topic
from proxyfab.events.model import (
    EARLIEST,
    Capability,
    Delivery,
    Description,
    GroupInfo,
    Kept,
    Position,
    Record,
    Start,
    Topic,
    check_group,
    check_name,
    check_topic,
)
from proxyfab.events.values import Values
from proxyfab.spec import ConnectorSpec
from proxyfab.spec import check_name as check_space
from proxyfab.trace import here

T = TypeVar("T")
_members = itertools.count(1)
MAX_VALUE = 512 << 10
MAX_NOTE = 1 << 10


class Space:
    """The topics of one name in this process. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.logs: dict[str, Log] = {}
        self.values: dict[str, Values] = {}

    def log(self, name: str) -> Log:
        """A topic's; raises TopicNotFound."""
        found = self.logs.get(check_topic(name))
        if found is None:
            raise TopicNotFound(f"There is no topic {name} here; make it with ensure(Topic({name!r})).")
        return found

    def ensure(self, topic: Topic) -> Topic:
        """Make a topic, or tell what it is."""
        with self.lock:
            log = self.logs.get(topic.name)
            if log is None:
                log = self.logs[topic.name] = Log(topic)
                self.values[topic.name] = Values()
                return topic
        return same_topic(log.topic, topic)

    def delete(self, name: str) -> bool:
        """Whether there was such a topic."""
        with self.lock:
            log = self.logs.pop(check_topic(name), None)
            self.values.pop(name, None)
        if log is not None:
            log.end()
        return log is not None

    def values_of(self, topic: str) -> Values:
        """The values beside a topic, or beside the broker."""
        if topic:
            self.log(topic)
        with self.lock:
            return self.values.setdefault(topic, Values())


_spaces: dict[str, Space] = {}
_ancestors = {os.getpid()}


class MemoryBroker(Broker):
    """Topics in this process's own memory.

    Args:
        name: Shared by all brokers of this process with that name; without one they are this broker's own.
    """

    capabilities: ClassVar[Capability] = (
        Capability.REPLAY
        | Capability.REPLAY_TIME
        | Capability.GROUPS
        | Capability.PER_EVENT_ACK
        | Capability.DELAYED_NACK
        | Capability.DEDUP
        | Capability.PARTITIONS
        | Capability.STATE
        | Capability.LAST_VALUE
    )
    max_record = 16 << 20

    def __init__(self, name: str | None = None, *, home: str = "") -> None:
        self.name = f"~{os.urandom(6).hex()}" if name is None else name
        self._home = home or f"{os.getpid()}.{here()}"
        self.url = f"memory://{self.name}?home={self._home}" if name is None else f"memory://{self.name}"
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> MemoryBroker:
        """The broker that a URL names."""
        spec = ConnectorSpec.parse(url)
        options = spec.take("home")
        if spec.host and not spec.host.startswith("~"):
            return cls(check_space(spec.host))
        self = cls(home=options.get("home", ""))
        if spec.host:
            self.name, self.url = spec.host, url
        return self

    @property
    def _space(self) -> Space:
        if self._closed:
            raise ConnectorError(f"{self.url} was closed.")
        if self.name.startswith("~") and self.name not in _spaces and not self._is_home():
            raise ConnectorError(
                f"{self.url} lies in the memory of process {self._home}, which is not this one: use a broker that "
                "other processes reach, as open_broker() starts one."
            )
        return _spaces.setdefault(self.name, Space())

    def _is_home(self) -> bool:
        return self._home == f"{os.getpid()}.{here()}"

    # -- topics ------------------------------------------------------------------------------------------------------

    def ensure(self, topic: Topic) -> Topic:
        return self._space.ensure(topic)

    def describe(self, topic: str) -> Description:
        return self._space.log(topic).describe()

    def delete(self, topic: str) -> bool:
        return self._space.delete(topic)

    def topics(self) -> list[str]:
        return sorted(self._space.logs)

    # -- records -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:  # noqa: ARG002 - nothing to wait for
        for record in records:
            if len(record.body) > self.max_record:
                raise CapacityError(f"A record of {len(record.body)} bytes is larger than {self.max_record}.")
        return self._space.log(topic).publish(records)

    def subscribe(
        self,
        topic: str,
        *,
        group: str | None,
        start: Start = EARLIEST,
        partitions: Sequence[int] | None = None,
        ack_wait: float = ACK_WAIT,
        member: str = "",  # noqa: ARG002 - nobody looks
    ) -> Subscription:
        log = self._space.log(topic)
        wanted = list(range(log.topic.partitions)) if partitions is None else list(partitions)
        if any(not 0 <= number < log.topic.partitions for number in wanted):
            raise ConfigurationError(
                f"Topic {topic} has {log.topic.partitions} partitions; {wanted} are not all there."
            )
        if group is None:
            return _Reader(log, log.cursors(start, wanted))
        log.ensure_group(check_group(group), start)
        return _Member(log, group, wanted, ack_wait)

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self, topic: str) -> dict[str, GroupInfo]:
        return self._space.log(topic).groups()

    def ensure_group(self, topic: str, group: str, start: Start = EARLIEST) -> None:
        self._space.log(topic).ensure_group(check_group(group), start)

    def delete_group(self, topic: str, group: str) -> bool:
        return self._space.log(topic).delete_group(group)

    def state(self, topic: str = "") -> State:
        return _State(lambda: self._space.values_of(topic))

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.name.startswith("~") and self._is_home():
            _spaces.pop(self.name, None)

    @property
    def closed(self) -> bool:
        return self._closed


class _Member(Subscription):
    """A group's member."""

    def __init__(self, log: Log, group: str, partitions: list[int], ack_wait: float) -> None:
        self.topic = log.topic.name
        self.group = group
        self._log = log
        self._partitions = partitions
        self._ack_wait = ack_wait
        self._number = next(_members)
        self._closed = False

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        assert self.group is not None
        _open(self._closed, self.topic)
        return self._log.fetch(
            self.group, self._number, most, timeout, self._ack_wait, self._partitions, lambda: not self._closed
        )

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        assert self.group is not None
        self._log.ack(self.group, [_spot(each) for each in deliveries])

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        assert self.group is not None
        if len(note) > MAX_NOTE:
            raise CapacityError(f"A note has {len(note)} bytes, more than {MAX_NOTE}.")
        self._log.nack(self.group, self._number, [_spot(each) for each in deliveries], delay, note)

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        assert self.group is not None
        self._log.extend(self.group, self._number, [_spot(each) for each in deliveries], self._ack_wait)

    def seek(self, start: Start) -> None:
        assert self.group is not None
        self._log.seek_group(self.group, start)

    def info(self) -> GroupInfo:
        assert self.group is not None
        found = self._log.groups().get(self.group)
        if found is None:
            raise TopicNotFound(f"Topic {self.topic} has no group {self.group!r}: it was deleted.")
        return found

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            assert self.group is not None
            self._log.leave(self.group, self._number)


class _Reader(Subscription):
    """Reads without anybody counting."""

    def __init__(self, log: Log, cursors: dict[int, int]) -> None:
        self.topic = log.topic.name
        self.group = None
        self._log = log
        self._cursors = cursors
        self._closed = False

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        _open(self._closed, self.topic)
        return self._log.read(self._cursors, most, timeout, lambda: not self._closed)

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        pass

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        pass

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        pass

    def seek(self, start: Start) -> None:
        self._cursors.update(self._log.cursors(start, list(self._cursors)))

    def info(self) -> GroupInfo:
        extents = self._log.describe().extents
        left = [max(0, extents[number].last + 1 - cursor) for number, cursor in self._cursors.items()]
        return GroupInfo({number: cursor - 1 for number, cursor in self._cursors.items()}, sum(left), 0)

    def close(self) -> None:
        self._closed = True
        self._log.wake()


class _State(State):
    def __init__(self, values: Callable[[], Values]) -> None:
        self._values = values

    def get(self, name: str) -> Kept | None:
        return self._values().get(check_name(name))

    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        if len(value) > MAX_VALUE:
            raise CapacityError(f"The value {name} has {len(value)} bytes, more than {MAX_VALUE}.")
        return self._values().put(check_name(name), bytes(value), revision, ttl)

    def delete(self, name: str, *, revision: int | None = None) -> bool:
        return self._values().delete(check_name(name), revision)

    def items(self, prefix: str = "") -> dict[str, Kept]:
        return self._values().items(prefix)

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        return self._values().wait(known, timeout)


def _spot(delivery: Delivery) -> tuple[int, int]:
    return delivery.position.partition, delivery.position.offset


def _open(closed: bool, topic: str) -> None:
    if closed:
        raise ConnectorError(f"This subscription to {topic} was closed.")
