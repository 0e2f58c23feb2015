"""Publishing: records go to librdkafka's producer, and are waited for until all replicas have them.

Rules:
1. A record whose outcome is not known yet, or known to be good, is not sent again under the same id by this process:
   who publishes again after an error attaches to what is on its way. Other processes know nothing of that.
2. Whoever waits serves the producer's callbacks, one thread at a time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import OffsetSpec

from proxyfab.brokers.kafka.client import Client
from proxyfab.brokers.kafka.errors import ABSENT, translate
from proxyfab.brokers.kafka.finding import found
from proxyfab.errors import CapacityError, ConnectorError, ProxyfabError, TopicNotFound
from proxyfab.events.model import Position, Record
from proxyfab.fork import on_fork

_KNOWN = 16_384
"""Ids that are remembered."""
_SLICE = 0.05
_TURN = 0.002


class _Behind:
    """Tells offsets from what librdkafka says of the second and later records of a batch that the cluster had already.

    It adds their place in the batch to an offset that is not known: 0, 1, 2. Where the record before them has none, and
    they lie there, no record that is new has so small an offset.
    """

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}

    def offset(self, topic: str, partition: int, said: int | None) -> int | None:
        """The offset; None for unknown."""
        spot = topic, partition
        if said is None:
            self._next[spot] = 0
        elif self._next:
            if said != self._next.get(spot):
                self._next.pop(spot, None)
                return said
            self._next[spot] = said + 1
            return None
        return said


class _Fate:
    """What becomes of a record."""

    __slots__ = ("_behind", "done", "error", "offset")

    def __init__(self, behind: _Behind) -> None:
        self._behind = behind
        self.done = False
        self.offset: int | None = -1
        self.error: Any = None

    def settle(self, error: Any, message: Any) -> None:
        """Librdkafka's callback."""
        if error is None:
            self.offset = self._behind.offset(message.topic(), message.partition(), message.offset())
        else:
            self.error = error
        self.done = True


class Sender:
    """Publishes for one broker. Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: OrderedDict[tuple[str, str], _Fate] = OrderedDict()
        self._behind = _Behind()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        on_fork(self)

    def after_fork(self) -> None:
        """What was on its way is the parent's."""
        self._known = OrderedDict()
        self._behind = _Behind()
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def publish(self, topic: str, records: Sequence[Record], timeout: float) -> list[Position]:
        """As a broker does."""
        until = time.monotonic() + timeout
        self._check(topic, records)
        producer = self._client.producer()
        said = f"Publishing {len(records)} records to {topic} at {self._client.place.label}"
        with self._lock:  # those of one call stay together, and in order
            fates = [self._send(producer, topic, record, until, said) for record in records]
        self._wait(producer, fates, until, said)
        for fate in fates:
            if fate.error is not None:
                raise self._failed(topic, fate, said)
        if any([fate.offset is None for fate in fates]):
            self._look(topic, records, fates, until)
        return [
            Position(topic, record.partition, (fate.offset or 0) + 1)
            for record, fate in zip(records, fates, strict=True)
        ]

    def _look(self, topic: str, records: Sequence[Record], fates: Sequence[_Fate], until: float) -> None:
        """Of what a cluster had already when it was sent again, it says only that it has it: find out where."""
        untold: dict[int, set[str]] = {}
        for record, fate in zip(records, fates, strict=True):
            if fate.offset is None:
                untold.setdefault(record.partition, set()).add(record.id)
        ends = self._client.offsets(topic, OffsetSpec.latest(), untold)
        places = found(self._client, topic, untold, until)
        for record, fate in zip(records, fates, strict=True):
            if fate.offset is None:
                fate.offset = places.get((record.partition, record.id), ends[record.partition] - 1)

    def _check(self, topic: str, records: Sequence[Record]) -> None:
        count = self._client.partitions(topic)
        if not count:
            raise self._client.missing(topic)
        most = self._client.place.max
        for record in records:
            if not 0 <= record.partition < count:
                raise TopicNotFound(f"Topic {topic} has no partition {record.partition}, it has {count}.")
            if len(record.body) > most:
                raise CapacityError(
                    f"A record of {len(record.body)} bytes is larger than {most}; ?max= allows more, if the topic does."
                )

    def _send(self, producer: Producer, topic: str, record: Record, until: float, said: str) -> _Fate:
        known = self._known.get((topic, record.id)) if record.id else None
        if known is not None and known.error is None:
            return known
        fate = _Fate(self._behind)
        headers: list[tuple[str, str | bytes | None]] = [("id", record.id.encode())] if record.id else []
        while True:
            try:
                producer.produce(
                    topic,
                    bytes(record.body),  # the same object, if it is bytes
                    key=record.key,
                    partition=record.partition,
                    on_delivery=fate.settle,
                    headers=headers,
                )
                break
            except BufferError:
                if time.monotonic() >= until:
                    raise ConnectorError(f"{said} was not finished in time: too much is on its way.") from None
                producer.poll(_SLICE)
            except KafkaException as error:
                raise translate(error.args[0], said) from error
        if record.id:
            self._known[topic, record.id] = fate
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return fate

    def _wait(self, producer: Producer, fates: Sequence[_Fate], until: float, said: str) -> None:
        for fate in fates:
            while not fate.done:
                left = until - time.monotonic()
                if left <= 0:
                    raise self._client.refusal(said) or ConnectorError(
                        f"{said} was not acknowledged in time; what is on its way may still arrive. Is the cluster up?"
                    )
                if self._turn.acquire(timeout=min(left, _TURN)):
                    try:
                        if not fate.done:
                            producer.poll(min(left, _SLICE))
                    finally:
                        self._turn.release()

    def _failed(self, topic: str, fate: _Fate, said: str) -> ProxyfabError:
        if fate.error.code() in ABSENT:
            self._client.forget(topic)
        return translate(fate.error, said)
