"""`redis://host:6379/0`: topics in a Redis, Valkey or compatible server, a cluster, or a master with sentinels.

Promises: what the protocol says, with everything but FEDERATION. A topic's keys lie in one slot of a cluster, so that
each call is one script and one round trip; they begin with `{pf:<topic>}:`, and nothing else is ever touched. DURABLE
as the server is: with `appendonly yes` and `appendfsync always` nothing that was acknowledged is lost with its process.
The password is not in the URL: it is remembered in this process, elsewhere it comes from PROXYFAB_REDIS_PASSWORD.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from time import monotonic
from typing import Any, ClassVar

import msgspec

from proxyfab.brokers.redis import records as scripts
from proxyfab.brokers.redis import rights, turns
from proxyfab.brokers.redis.desk import Desk
from proxyfab.brokers.redis.scripts import BYTES
from proxyfab.brokers.redis.state import RedisState
from proxyfab.brokers.redis.subscription import Member, Reader, cursors, infos, key, start_words
from proxyfab.errors import CapacityError, ConfigurationError, TopicNotFound
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
from proxyfab.policy import checked_way
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import Part
from proxyfab.resp.place import Place

AT_ONCE = 256
"""Records of one round trip at most."""
_CUT = 10_000
"""Records that are cut off in one step."""
_INDEX = key("", "topics")
_ADD = b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n$3\r\n0-*\r\n$1\r\nb\r\n$%d\r\n"


class RedisBroker(Broker):
    """Topics in Redis.

    Args:
        place: Where it is.
    """

    capabilities: ClassVar[Capability] = ~Capability.FEDERATION & ~Capability.NONE
    max_record = 16 << 20

    def __init__(self, place: Place) -> None:
        self.url = place.url(None)
        self._fleet = Fleet(place, check=checked_way(place.scheme))
        self._desk = Desk(self._fleet)
        self._members: set[Member] = set()
        self._drawn = os.urandom(8)
        self._count = count()

    @classmethod
    def from_url(cls, url: str) -> RedisBroker:
        """The broker that a URL names."""
        place, namespace = Place.parse(url)
        if namespace is not None:
            raise ConfigurationError("A broker in Redis has no namespaces; use a database of its own (redis://host/3).")
        return cls(place)

    # -- topics ------------------------------------------------------------------------------------------------------

    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:
        desk = self._desk.within(timeout)
        there = desk.call(key(topic.name, "m"), [b"HGET", key(topic.name, "m"), b"topic"], "describing")
        if there is None:
            desk.call(_INDEX, [b"SADD", _INDEX, topic.name.encode()], "making a topic")
            there = desk.ask(scripts.ENSURE, key(topic.name, "m"), _topic_words(topic), "making a topic")
        return same_topic(_topic(there), topic)

    def describe(self, topic: str, *, timeout: float = TIMEOUT) -> Description:
        desk = self._desk.within(timeout)
        what, *told = desk.ask(scripts.DESCRIBE, key(check_topic(topic), "m"), [], "describing")
        firsts, lasts, sizes = ([int(each) for each in told[at::3]] for at in range(3))
        extents = {number: Extent(*both) for number, both in enumerate(zip(firsts, lasts, strict=True))}
        held = sum([extent.last + 1 - extent.first for extent in extents.values()])
        return Description(_topic(what), extents, held, sum(sizes))

    def delete(self, topic: str) -> bool:
        name = check_topic(topic).encode()
        there = bool(self._desk.ask(scripts.DELETE, key(topic, "m"), [], "deleting a topic"))
        self._desk.call(_INDEX, [b"SREM", _INDEX, name], "deleting a topic")
        if self._desk.call(key(topic, "m"), [b"EXISTS", key(topic, "m")], "deleting a topic"):
            self._desk.call(_INDEX, [b"SADD", _INDEX, name], "deleting a topic")  # somebody has just made it again
        return there

    def topics(self) -> list[str]:
        return sorted([name.decode() for name in self._desk.call(_INDEX, [b"SMEMBERS", _INDEX], "listing topics")])

    # -- records -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        check_topic(topic)
        until = monotonic() + timeout
        found: list[Position] = []
        batch: list[tuple[int, bytes, bytes]] = []
        nbytes = 0
        for record in records:
            size = len(record.body)
            if size > self.max_record:
                raise CapacityError(f"A record of {size} bytes is larger than {self.max_record}.")
            if record.partition < 0:
                raise TopicNotFound(f"Topic {topic} has no partition {record.partition}.")
            if len(batch) == AT_ONCE or (batch and nbytes + size > BYTES):
                found += self._publish(topic, batch, until)
                batch, nbytes = [], 0
            batch.append((record.partition, record.id.encode() or self._draw(), record.body))
            nbytes += size
        if not records:
            self.describe(topic)
        return [*found, *self._publish(topic, batch, until)]

    def _publish(self, topic: str, batch: list[tuple[int, bytes, bytes]], until: float) -> list[Position]:
        """Where the records of one round trip lie; of two, where some were known already."""
        found: dict[bytes, Position] = {}
        left = {name: (partition, body) for partition, name, body in reversed(batch)}  # of two the first one counts
        order = dict.fromkeys([name for _, name, _ in batch])
        while names := [name for name in order if name not in found]:
            told = self._add(topic, [(name, *left[name]) for name in names], max(until - monotonic(), 0.001))
            for name, place in zip(names, told, strict=False):  # "taken" may follow
                if place:
                    found[name] = Position(topic, *map(int, place.split()))
        return [found[name] for _, name, _ in batch]

    def _add(self, topic: str, batch: list[tuple[bytes, int, bytes]], timeout: float) -> list[bytes]:
        parts: list[Part] = []
        words: list[Part] = []
        for name, partition, body in batch:
            stream, size = key(topic, f"s:{partition}"), len(body)
            parts += (_ADD % (len(stream), stream, size), body, b"\r\n")
            words += (b"%d" % partition, name, b"%d" % size)
        told: list[bytes] = self._desk.transact(parts, len(batch), scripts.PUBLISH, key(topic, "s"), words, timeout)
        return told

    def _draw(self) -> bytes:
        """An id for a record that has none, so that what is sent again after a link broke is known again."""
        return b"\0%b%d.%d" % (self._drawn, os.getpid(), next(self._count))

    def cut(self, topic: str, upto: Mapping[int, int], *, timeout: float = TIMEOUT) -> int:
        if any(number < 0 for number in upto):
            raise ConfigurationError(f"Partitions are counted from 0; {list(upto)} are not all there.")
        desk, where = self._desk.within(timeout), key(check_topic(topic), "m")
        words = [b"%d" % _CUT, *[b"%d" % max(0, each) for spot in upto.items() for each in spot]]
        gone = more = int(desk.ask(scripts.CUT, where, words, "cutting a topic"))
        while more == _CUT:
            more = int(desk.ask(scripts.CUT, where, words, "cutting a topic"))
            gone += more
        return gone

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
        made: Subscription
        if group is None:
            every = cursors(self._desk.within(timeout), check_topic(topic), start, None)
            wanted = list(every) if partitions is None else list(partitions)
            if not all(number in every for number in wanted):
                raise ConfigurationError(f"Topic {topic} has {len(every)} partitions; {wanted} are not all there.")
            made = Reader(self._desk, topic, {number: every[number] for number in wanted})
        else:
            highest = max(partitions, default=0) if partitions is not None else 0
            if partitions is not None and min(partitions, default=0) < 0:
                raise ConfigurationError(f"Partitions are counted from 0; {list(partitions)} are not all there.")
            number = self._group(topic, group, start, highest, timeout)
            mine = range(number) if partitions is None else partitions
            made = Member(self._desk, topic, group, mine, ack_wait, member, self._members.discard)
            self._members.add(made)
        return made

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:
        return infos(self._desk.within(timeout), check_topic(topic))

    def ensure_group(
        self,
        topic: str,
        group: str,
        start: Start = EARLIEST,
        *,
        ack_wait: float = ACK_WAIT,  # noqa: ARG002 - said with each fetch
        timeout: float = TIMEOUT,
    ) -> None:
        self._group(topic, group, start, 0, timeout)

    def _group(self, topic: str, group: str, start: Start, highest: int, timeout: float) -> int:
        where = key(check_topic(topic), f"g:{check_group(group)}")
        words = [group.encode(), b"ensure", *start_words(start), b"%d" % highest]
        return int(self._desk.within(timeout).ask(turns.GROUP, where, words, "making a group"))

    def delete_group(self, topic: str, group: str) -> bool:
        where = key(check_topic(topic), f"g:{check_group(group)}")
        return bool(self._desk.ask(turns.FORGET, where, [group.encode()], "deleting a group"))

    def state(self, topic: str = "", *, timeout: float = TIMEOUT) -> State:
        return RedisState(self._desk.within(timeout), check_topic(topic) if topic else "")

    # -- who may -----------------------------------------------------------------------------------------------------

    def grant(self, principal: str, topic: str, actions: Iterable[str]) -> None:
        rights.grant(self._fleet, principal, topic, actions)

    def revoke(self, principal: str, topic: str) -> bool:
        return rights.revoke(self._fleet, principal, topic)

    def grants(self) -> list[Grant]:
        return rights.grants(self._fleet)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._fleet.closed:
            return
        try:
            for each in list(self._members):
                each.close()
        finally:
            self._fleet.close()

    @property
    def closed(self) -> bool:
        return self._fleet.closed


def _topic_words(topic: Topic) -> list[bytes]:
    """A topic, and beside it what scripts look at."""
    packed = msgspec.msgpack.encode(_plain(topic))
    retention = b"" if topic.retention is None else b"%d" % int(topic.retention * 1e6)
    limit = b"" if topic.max_bytes is None else b"%d" % topic.max_bytes
    limits = [b"%d" % topic.partitions, retention, limit, topic.full.encode(), b"%d" % int(topic.window * 1e6)]
    return [packed, *limits, *[group.encode() for group in topic.groups]]


def _plain(topic: Topic) -> dict[str, Any]:
    found = {name: getattr(topic, name) for name in Topic.__dataclass_fields__}
    return {**found, "options": dict(topic.options)}


def _topic(packed: bytes) -> Topic:
    return msgspec.msgpack.decode(packed, type=Topic)
