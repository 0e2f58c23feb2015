"""`zmq://host:port`: topics in the memory of a server that `proxyfab broker` runs. Fast, and gone with the server.

Promises: what a client that dies held comes again at once; a server that was started anew is told by TopicNotFound,
one that is not there by ConnectorError; beyond loopback both sides show CURVE keys (`proxyfab keys`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from proxyfab.brokers.zmq.link import Link
from proxyfab.brokers.zmq.reader import Reader
from proxyfab.brokers.zmq.reading import kept_in
from proxyfab.brokers.zmq.subscription import Member, ZmqSubscription
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, IntegrityError
from proxyfab.events.broker import ACK_WAIT, TIMEOUT, Broker, State, Subscription
from proxyfab.events.model import (
    EARLIEST,
    IN_MEMORY,
    Description,
    Extent,
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
from proxyfab.events.plain import info_in, start_out, topic_in, topic_out
from proxyfab.spec import ConnectorSpec
from proxyfab.wire.messages import Message
from proxyfab.zeromq.connection import Broken

_BATCH, _ROOM = 256, 1 << 20
_MAX_VALUE = 512 << 10
_SLICE = 30.0
_CLIENT = "client"


class ZmqBroker(Broker):
    """Topics at a server over ZeroMQ.

    Args:
        address: `host:port`, or the absolute path of a socket.
        key: The server's public key, where the keyring does not know it.
        identity: Id of the client's own key in the keyring.
        timeout: Seconds that a call has.
    """

    capabilities = IN_MEMORY
    max_record = 1 << 20

    def __init__(self, address: str, *, key: str = "", identity: str = _CLIENT, timeout: float = TIMEOUT) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"A timeout is a positive number of seconds, not {timeout!r}.")
        path = address.startswith("/")
        host, _, port = address.rpartition(":")
        if not path and not (host and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigurationError(f"{address!r} is no address of a broker; write zmq://host:port.")
        options = [("key", key), ("as", "" if identity == _CLIENT else identity)]
        options += [("timeout", "" if timeout == TIMEOUT else f"{timeout:g}")]
        said = tuple((name, value) for name, value in options if value)
        self.url = str(ConnectorSpec("zmq", "" if path else address, address if path else "", said))
        self._link = Link(address, key, identity, timeout)
        self._subscriptions: set[ZmqSubscription] = set()

    @classmethod
    def from_url(cls, url: str) -> ZmqBroker:
        """The broker that a URL names."""
        spec = ConnectorSpec.parse(url)
        options = spec.take("key", "as", "timeout")
        if spec.host and spec.path.strip("/"):
            raise ConfigurationError(f"{spec} has a path; a broker is named as in zmq://host:port.")
        try:
            timeout = float(options.get("timeout", TIMEOUT))
        except ValueError:
            raise ConfigurationError(f"timeout={options['timeout']!r} is not a number of seconds.") from None
        return cls(
            spec.host or spec.path, key=options.get("key", ""), identity=options.get("as", _CLIENT), timeout=timeout
        )

    # -- topics ------------------------------------------------------------------------------------------------------

    def ensure(self, topic: Topic, *, timeout: float = TIMEOUT) -> Topic:
        return topic_in(self._link.call("ensure", topic_out(topic), timeout=self._within(timeout)).fields)

    def describe(self, topic: str, *, timeout: float = TIMEOUT) -> Description:
        message = self._link.call("describe", {"topic": check_topic(topic)}, timeout=self._within(timeout))
        extents: dict[int, Extent] = {}
        for item in message.items("extents"):
            if not isinstance(item, list) or len(item) != 3:
                raise IntegrityError("What a topic holds is malformed.")
            extents[item[0]] = Extent(item[1], item[2])
        return Description(topic_in(message.fields), extents, message.count("records"), message.count("nbytes"))

    def delete(self, topic: str) -> bool:
        return self._link.call("delete", {"topic": check_topic(topic)}, twice=False).flag("was")

    def topics(self) -> list[str]:
        return list(self._paged("topics", {}))

    def _within(self, timeout: float) -> float:
        """Seconds of a call: the broker's own, or less."""
        return min(timeout, self._link.timeout) if timeout < TIMEOUT else self._link.timeout

    def _paged(self, verb: str, fields: dict[str, Any], timeout: float = TIMEOUT) -> list[Any]:
        found: list[Any] = []
        after = ""
        while True:
            message = self._link.call(verb, {**fields, "after": after}, timeout=self._within(timeout))
            found += _unpacked(message)
            after = message.text("after")
            if not message.flag("more"):
                return found

    # -- records -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        check_topic(topic)
        for record in records:
            if len(record.body) > self.max_record:
                raise CapacityError(f"A record of {len(record.body)} bytes is larger than {self.max_record}.")
        if not records:
            self._link.check()
            return []
        found: list[Position] = []
        for batch in _batches(records):
            found += self._publish(topic, batch, timeout)
        return found

    def _publish(self, topic: str, batch: Sequence[Record], timeout: float) -> list[Position]:
        fields = {
            "topic": topic,
            "i": [record.id or None for record in batch],
            "k": [record.key for record in batch],
            "z": [len(record.body) for record in batch],
            "p": [_partition(record.partition, topic) for record in batch],
        }
        body = [record.body for record in batch if record.body]
        if len(body) > 1 and sum([len(each) for each in body]) < len(body) * 4096:
            body = [b"".join(body)]  # small ones: a copy costs less than a message's part
        twice = all([record.id for record in batch])
        message = self._link.call("publish", fields, body, timeout=timeout, twice=twice)
        partitions, offsets = message.counts("p"), message.counts("o")
        if not len(partitions) == len(offsets) == len(batch):
            raise IntegrityError("A broker answered with another number of positions than there were records.")
        return [Position(topic, partition, offset) for partition, offset in zip(partitions, offsets, strict=True)]

    def cut(self, topic: str, upto: Mapping[int, int], *, timeout: float = TIMEOUT) -> int:
        spots = {_partition(number, topic): max(0, offset) for number, offset in upto.items()}
        fields = {"topic": check_topic(topic), "p": [*spots], "o": [*spots.values()]}
        return self._link.call("cut", fields, timeout=self._within(timeout)).count("n")

    def subscribe(
        self,
        topic: str,
        *,
        group: str | None,
        start: Start = EARLIEST,
        partitions: Sequence[int] | None = None,
        ack_wait: float = ACK_WAIT,
        member: str = "",  # noqa: ARG002 - nobody looks
        timeout: float = TIMEOUT,
    ) -> Subscription:
        fields: dict[str, Any] = {"topic": check_topic(topic), "start": start_out(start)}
        if partitions is not None:
            fields["partitions"] = [_partition(number, topic) for number in partitions]
        made: ZmqSubscription
        if group is None:
            made = Reader(self._link, fields, self._subscriptions.discard, self._within(timeout))
        else:
            fields |= {"group": check_group(group), "wait": float(ack_wait)}
            made = Member(self._link, fields, self._subscriptions.discard, self._within(timeout))
        self._subscriptions.add(made)
        return made

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self, topic: str, *, timeout: float = TIMEOUT) -> dict[str, GroupInfo]:
        return {name: info_in(info) for name, info in self._paged("groups", {"topic": check_topic(topic)}, timeout)}

    def ensure_group(
        self,
        topic: str,
        group: str,
        start: Start = EARLIEST,
        *,
        ack_wait: float = ACK_WAIT,  # noqa: ARG002 - said with each fetch
        timeout: float = TIMEOUT,
    ) -> None:
        fields = {"topic": check_topic(topic), "group": check_group(group), "start": start_out(start)}
        self._link.call("ensure-group", fields, timeout=self._within(timeout))

    def delete_group(self, topic: str, group: str) -> bool:
        fields = {"topic": check_topic(topic), "group": group}
        return self._link.call("delete-group", fields, twice=False).flag("was")

    def state(self, topic: str = "", *, timeout: float = TIMEOUT) -> State:
        return _State(self._link, topic, self._within(timeout))

    # -- the end -----------------------------------------------------------------------------------------------------

    def ping(self, timeout: float = 5.0) -> float:
        started = time.perf_counter()
        self._link.call("hello", {}, timeout=timeout)
        return time.perf_counter() - started

    def close(self) -> None:
        if self._link.closed:
            return
        for subscription in list(self._subscriptions):
            try:
                subscription.close()
            except ConnectorError:
                pass  # the server has ended, and forgets it anyway
        self._link.close()

    @property
    def closed(self) -> bool:
        return self._link.closed


class _State(State):
    def __init__(self, link: Link, topic: str, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._topic = topic and check_topic(topic)

    def get(self, name: str) -> Kept | None:
        message = self._link.call("get", {"topic": self._topic, "name": check_name(name)}, timeout=self._timeout)
        return kept_in(message)[name]

    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        if len(value) > _MAX_VALUE:
            raise CapacityError(f"The value {name} has {len(value)} bytes, more than {_MAX_VALUE}.")
        fields: dict[str, Any] = {"topic": self._topic, "name": check_name(name), "ttl": ttl}
        if revision is not None:
            fields["revision"] = revision
        body = [bytes(value)] if value else []
        return self._link.call("put", fields, body, timeout=self._timeout, twice=revision is None).count("revision")

    def delete(self, name: str, *, revision: int | None = None) -> bool:
        fields: dict[str, Any] = {"topic": self._topic, "name": check_name(name)}
        if revision is not None:
            fields["revision"] = revision
        return self._link.call("drop", fields, timeout=self._timeout, twice=False).flag("was")

    def items(self, prefix: str = "") -> dict[str, Kept]:
        found: dict[str, Kept] = {}
        after = ""
        while True:
            message = self._link.call(
                "items", {"topic": self._topic, "prefix": prefix, "after": after}, timeout=self._timeout
            )
            page = {name: kept for name, kept in kept_in(message).items() if kept is not None}
            found |= page
            if not message.flag("more") or not page:
                return found
            after = max(page)

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        until, leaves = time.monotonic() + timeout, self._link.leaves(timeout)
        names = {check_name(name): int(revision) for name, revision in known.items()}
        while True:
            left = max(0.0, until - time.monotonic())
            fields = {"topic": self._topic, "known": names, "t": min(left, _SLICE)}
            try:
                answer = self._link.call("watch", fields, timeout=min(left, _SLICE) + self._timeout, leaves=leaves)
            except Broken:  # it is late
                return {}
            found = kept_in(answer)
            if found or left <= _SLICE:
                return found


def _batches(records: Sequence[Record]) -> Iterable[Sequence[Record]]:
    """As many as one message takes."""
    start, room = 0, _ROOM
    for place, record in enumerate(records):
        if place > start and (place - start >= _BATCH or len(record.body) > room):
            yield records[start:place]
            start, room = place, _ROOM
        room -= len(record.body)
    yield records[start:]


def _partition(number: int, topic: str) -> int:
    if number < 0:
        raise ConfigurationError(f"Topic {topic} has no partition {number}.")
    return number


def _unpacked(message: Message) -> list[Any]:
    try:
        found = msgspec.msgpack.decode(b"".join(message.body))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise IntegrityError(f"A broker's answer is malformed: {error}.") from error
    if not isinstance(found, list):
        raise IntegrityError("A broker's answer is no list.")
    return found
