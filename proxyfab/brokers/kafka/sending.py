"""Publishing: records go to librdkafka's producer, and are waited for until all replicas have them.

Rules:
1. A record whose outcome is not known yet, or known to be good, is not sent again under the same id by this process:
   who publishes again after an error attaches to what is on its way. Other processes know nothing of that.
2. Whoever waits serves the producer's callbacks, one thread at a time.
3. A record of which nobody says where it lies is looked for: librdkafka holds one for delivered when a later one of the
   same partition was, as a Kafka takes none out of turn. Where that is not so it is found missing, and sent again.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from proxyfab.brokers.kafka.client import Client
from proxyfab.brokers.kafka.errors import ABSENT, translate
from proxyfab.brokers.kafka.finding import IDENTITY, MARK, search
from proxyfab.errors import CapacityError, ConnectorError, ProxyfabError, TopicNotFound
from proxyfab.events.model import Position, Record
from proxyfab.fork import on_fork

_KNOWN = 16_384
"""Ids that are remembered."""
_SLICE = 0.05
_TURN = 0.002


class _Log:
    """What is known of partitions: up to where their records are confirmed, and which offsets are none.

    Of the second and later records of a batch that the cluster had already librdkafka adds their place in the batch to
    an offset that is not known: 0, 1, 2. Where the record before them has none, and they lie there, no record that is
    new has so small an offset.
    """

    def __init__(self) -> None:
        self._untold: dict[tuple[str, int], int] = {}
        self._floors: dict[tuple[str, int], int] = {}

    def floor(self, topic: str, partition: int) -> int:
        """What is sent now lies at this offset or behind it."""
        return self._floors.get((topic, partition), 0)

    def offset(self, topic: str, partition: int, said: int | None) -> int | None:
        """The offset; None for unknown."""
        spot = topic, partition
        if said is None:
            self._untold[spot] = 0
            return None
        if self._untold and spot in self._untold:
            if said == self._untold[spot]:
                self._untold[spot] += 1
                return None
            del self._untold[spot]
        self._floors[spot] = said + 1
        return said


class _Fate:
    """What becomes of a record.

    Attributes:
        mark: What it is known by in the log.
        floor: Of its partition, the offset before which all lies that the cluster had confirmed when it was sent.
        lost: It was said to be there, and is not: it is to be sent again.
    """

    __slots__ = ("_log", "done", "error", "floor", "lost", "mark", "offset")

    def __init__(self, log: _Log, topic: str, partition: int, mark: str) -> None:
        self._log = log
        self.mark = mark
        self.floor = log.floor(topic, partition)
        self.done = self.lost = False
        self.offset: int | None = -1
        self.error: Any = None

    def settle(self, error: Any, message: Any) -> None:
        """Librdkafka's callback."""
        if error is None:
            self.offset = self._log.offset(message.topic(), message.partition(), message.offset())
        else:
            self.error = error
        self.done = True


class Sender:
    """Publishes for one broker. Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """What was on its way is the parent's."""
        self._known: OrderedDict[tuple[str, str], _Fate] = OrderedDict()
        self._log = _Log()
        self._marks, self._drawn = secrets.token_hex(6), itertools.count()
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may publish something
        self._turn = threading.RLock()

    def publish(self, topic: str, records: Sequence[Record], timeout: float) -> list[Position]:
        """As a broker does."""
        until = time.monotonic() + timeout
        self._check(topic, records)
        producer = self._client.producer()
        said = f"Publishing {len(records)} records to {topic} at {self._client.place.label}"
        fates = self._send_all(producer, topic, records, [None] * len(records), until, said)
        while self._missing(topic, records, fates, until, said):
            fates = self._send_all(producer, topic, records, fates, until, said)
        return [
            Position(topic, record.partition, (fate.offset or 0) + 1)
            for record, fate in zip(records, fates, strict=True)
        ]

    def _send_all(
        self,
        producer: Producer,
        topic: str,
        records: Sequence[Record],
        known: Sequence[_Fate | None],
        until: float,
        said: str,
    ) -> list[_Fate]:
        """Send what was not sent or is lost, and wait for all."""
        with self._lock:  # those of one call stay together, and in order
            fates = [
                self._send(producer, topic, record, until, said) if fate is None or fate.lost else fate
                for record, fate in zip(records, known, strict=True)
            ]
        self._wait(producer, fates, until, said)
        for fate in fates:
            if fate.error is not None:
                raise self._failed(topic, fate, said)
        return fates

    def _missing(self, topic: str, records: Sequence[Record], fates: Sequence[_Fate], until: float, said: str) -> bool:
        """Find out where records lie of which that was not said; whether some are nowhere."""
        untold = {fate: record.partition for record, fate in zip(records, fates, strict=True) if fate.offset is None}
        if not untold:
            return False
        marks: dict[int, set[str]] = {}
        for fate, partition in untold.items():
            marks.setdefault(partition, set()).add(fate.mark)
        looked = search(self._client, topic, marks, until)
        for fate, partition in untold.items():
            fate.offset = looked.places.get((partition, fate.mark))
            fate.lost = fate.offset is None
        if any(fate.lost and not looked.covers(partition, fate.floor) for fate, partition in untold.items()):
            raise ConnectorError(
                f"{said} was not confirmed: the cluster does not say where they lie, and too much came meanwhile to "
                f"look through. Publish them again."
            )
        return any(fate.lost for fate in untold)

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
        if known is not None and known.error is None and not known.lost:
            return known
        mark = record.id or f"{self._marks}-{next(self._drawn)}"
        fate = _Fate(self._log, topic, record.partition, mark)
        headers: list[tuple[str, str | bytes | None]] = [(IDENTITY if record.id else MARK, mark.encode())]
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
