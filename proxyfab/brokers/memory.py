"""`memory://`: topics in this process, for threads, tests and single scripts. `memory://name` is shared by name.

Promises: everything of the protocol but what only a server can do. A topic is gone with the process; a forked child
inherits what lay there at the fork, as a copy of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from proxyfab.errors import CapacityError, ConnectorError
from proxyfab.events.broker import ACK_WAIT, TIMEOUT, Broker, State, Subscription, Uncounted
from proxyfab.events.cursor import NEVER, Spot
from proxyfab.events.engine import Log
from proxyfab.events.model import (
    EARLIEST,
    IN_MEMORY,
    Delivery,
    Description,
    GroupInfo,
    Kept,
    Position,
    Record,
    Start,
    Topic,
    check_group,
)
from proxyfab.events.shared import Shared, Space
from proxyfab.events.values import Values
from proxyfab.spec import ConnectorSpec
from proxyfab.spec import check_name as check_space
from proxyfab.trace import here

_members = itertools.count(1)
MAX_NOTE = 1 << 10
_spaces: dict[str, Space] = {}


class MemoryBroker(Broker):
    """Topics in this process's own memory.

    Args:
        name: Shared by all brokers of this process with that name; without one they are this broker's own, and of
            those that were made from its URL, until the last of them is closed.
    """

    capabilities = IN_MEMORY
    max_record = 16 << 20

    def __init__(self, name: str | None = None, *, home: str = "") -> None:
        self.name = f"~{os.urandom(6).hex()}" if name is None else name
        self._home = home or f"{os.getpid()}.{here()}"
        self.url = f"memory://{self.name}?home={self._home}" if name is None else f"memory://{self.name}"
        self._closed = False
        self._subscriptions: set[Subscription] = set()
        self._known: Space | None = None
        if not home:
            self._join()

    @classmethod
    def from_url(cls, url: str) -> MemoryBroker:
        """The broker that a URL names."""
        spec = ConnectorSpec.parse(url)
        options = spec.take("home")
        if spec.host and not spec.host.startswith("~"):
            return cls(check_space(spec.host))
        if not spec.host:
            return cls()
        self = cls(home=options.get("home", "elsewhere"))
        self.name, self.url = spec.host, url
        if self.name in _spaces:
            self._join()
        return self

    def _join(self) -> Space:
        self._known = _spaces.setdefault(self.name, Space())
        self._known.users.add(self)
        return self._known

    @property
    def _space(self) -> Space:
        if self._closed:
            raise ConnectorError(f"{self.url} was closed.")
        if self._known is not None:
            return self._known
        if self.name not in _spaces and self._home != f"{os.getpid()}.{here()}":
            raise ConnectorError(
                f"{self.url} lies in the memory of process {self._home}, which is not this one: use a broker that "
                "other processes reach, as open_broker() starts one."
            )
        return self._join()

    # -- topics ------------------------------------------------------------------------------------------------------

    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:  # noqa: ARG002 - nothing to wait for
        return self._space.ensure(topic)

    def describe(self, topic: str, *, timeout: float = TIMEOUT) -> Description:  # noqa: ARG002 - nothing to wait for
        return self._space.log(topic).look(Log.describe)

    def delete(self, topic: str) -> bool:
        return self._space.delete(topic)

    def topics(self) -> list[str]:
        return sorted(self._space.logs)

    # -- records -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:  # noqa: ARG002 - nothing to wait for
        for record in records:
            if len(record.body) > self.max_record:
                raise CapacityError(f"A record of {len(record.body)} bytes is larger than {self.max_record}.")
        return self._space.log(topic).change(lambda log: log.publish(records))

    def cut(self, topic: str, upto: Mapping[int, int], *, timeout: float = TIMEOUT) -> int:  # noqa: ARG002 - nothing to wait for
        return self._space.log(topic).change(lambda log: log.cut(upto))

    def subscribe(
        self,
        topic: str,
        *,
        group: str | None,
        start: Start = EARLIEST,
        partitions: Sequence[int] | None = None,
        ack_wait: float = ACK_WAIT,
        member: str = "",  # noqa: ARG002 - nobody looks
        timeout: float = TIMEOUT,  # noqa: ARG002 - nothing to wait for
    ) -> Subscription:
        log = self._space.log(topic)
        wanted = log.thing.wanted(partitions)
        made: Subscription
        if group is None:
            cursors = log.look(lambda there: there.cursors(start))
            made = _Reader(log, {number: cursors[number] for number in wanted}, self._subscriptions.discard)
        else:
            name = check_group(group)
            log.change(lambda there: there.ensure_group(name, start))
            made = _Member(log, name, wanted, ack_wait, self._subscriptions.discard)
        self._subscriptions.add(made)
        return made

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:  # noqa: ARG002 - nothing to wait for
        return self._space.log(topic).look(Log.groups)

    def ensure_group(
        self,
        topic: str,
        group: str,
        start: Start = EARLIEST,
        *,
        ack_wait: float = ACK_WAIT,  # noqa: ARG002 - said with each fetch
        timeout: float = TIMEOUT,  # noqa: ARG002 - nothing to wait for
    ) -> None:
        check_group(group)
        self._space.log(topic).change(lambda log: log.ensure_group(group, start))

    def delete_group(self, topic: str, group: str) -> bool:
        return self._space.log(topic).change(lambda log: log.delete_group(group))

    def state(self, topic: str = "", *, timeout: float = TIMEOUT) -> State:  # noqa: ARG002 - nothing to wait for
        return _State(lambda: self._space.values(topic))

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        for subscription in list(self._subscriptions):
            subscription.close()
        self._closed = True
        if self._known is not None:
            self._known.users.discard(self)
            if self.name.startswith("~") and not list(self._known.users):
                _spaces.pop(self.name, None)

    @property
    def closed(self) -> bool:
        return self._closed


class _Member(Subscription):
    """A group's member."""

    def __init__(
        self,
        log: Shared[Log],
        group: str,
        partitions: frozenset[int],
        ack_wait: float,
        closing: Callable[[Subscription], None],
    ) -> None:
        self.topic = log.thing.topic.name
        self.group: str = group
        self._log = log
        self._partitions = partitions
        self._ack_wait = ack_wait
        self._number = next(_members)
        self._closing = closing
        self._closed = False

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        def find(log: Log) -> list[Delivery] | None:
            if self._closed:
                return None
            return log.fetch(self.group, self._number, most, self._ack_wait, self._partitions)

        _open(self._closed, self.topic)
        return _fetched(self._log, find, timeout, lambda log: log.next_change(self.group))

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        spots = _spots(deliveries)
        self._log.change(lambda log: log.ack(self.group, spots))

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        if len(note) > MAX_NOTE:
            raise CapacityError(f"A note has {len(note)} bytes, more than {MAX_NOTE}.")
        spots = _spots(deliveries)
        self._log.change(lambda log: log.nack(self.group, self._number, spots, delay, note))

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        spots = _spots(deliveries)
        self._log.look(lambda log: log.extend(self.group, self._number, spots, self._ack_wait))

    def seek(self, start: Start) -> None:
        self._log.change(lambda log: log.seek_group(self.group, start))

    def info(self) -> GroupInfo:
        return self._log.look(lambda log: log.info(self.group))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._closing(self)
            self._log.change(lambda log: log.leave(self.group, self._number))


class _Reader(Uncounted):
    """Reads without anybody counting."""

    def __init__(self, log: Shared[Log], cursors: dict[int, int], closing: Callable[[Subscription], None]) -> None:
        self.topic = log.thing.topic.name
        self.group = None
        self._log = log
        self._cursors = cursors
        self._closing = closing
        self._closed = False

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        _open(self._closed, self.topic)
        return _fetched(
            self._log,
            lambda log: None if self._closed else log.read(self._cursors, most),
            timeout,
            lambda _: NEVER,
        )

    def seek(self, start: Start) -> None:
        def go(log: Log) -> None:
            found = log.cursors(start)
            self._cursors.update({number: found[number] for number in self._cursors})

        self._log.change(go)

    def info(self) -> GroupInfo:
        return self._log.look(lambda log: log.read_info(self._cursors))

    def close(self) -> None:
        self._closed = True
        self._closing(self)
        self._log.wake()


class _State(State):
    def __init__(self, values: Callable[[], Shared[Values]]) -> None:
        self._values = values

    def get(self, name: str) -> Kept | None:
        return self._values().look(lambda values: values.get(name))

    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        return self._values().change(lambda values: values.put(name, bytes(value), revision, ttl))

    def delete(self, name: str, *, revision: int | None = None) -> bool:
        return self._values().change(lambda values: values.delete(name, revision))

    def items(self, prefix: str = "") -> dict[str, Kept]:
        return self._values().look(lambda values: values.items(prefix))

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        return self._values().wait(lambda values: values.changed(known), timeout, lambda values: values.next_end(known))


def _fetched(
    log: Shared[Log],
    find: Callable[[Log], list[Delivery] | None],
    timeout: float,
    again: Callable[[Log], float],
) -> list[Delivery]:
    """What is found in time; [] at once when the subscription was closed meanwhile, which `find` says by None."""

    def look(there: Log) -> list[Delivery] | bool:
        found = find(there)
        return True if found is None else found

    found = log.wait(look, timeout, again)
    return found if isinstance(found, list) else []


def _spots(deliveries: Iterable[Delivery]) -> list[Spot]:
    return [(each.position.partition, each.position.offset) for each in deliveries]


def _open(closed: bool, topic: str) -> None:
    if closed:
        raise ConnectorError(f"This subscription to {topic} was closed.")
