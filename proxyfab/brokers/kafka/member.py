"""A group's member at a topic in Kafka.

Rules:
1. A group is what its entry beside the topic says: who moves a group writes a new entry, with a new name for Kafka, and
   all members follow within `_LOOK` seconds. Without an entry it was deleted.
2. Partitions that go to another member go with their floor told; what was owed of them comes again there.
3. Floors are told only with the consumer to oneself: amid another thread's poll a partition may go to another member,
   and Kafka takes floors of partitions that have gone, too. Who polls does it then: confluent-kafka lets no call in
   beside a poll and looks only now and then, so we would starve beside one who polls again and again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from proxyfab.brokers.kafka.client import Client, in_time
from proxyfab.brokers.kafka.errors import UNABLE, translated
from proxyfab.brokers.kafka.groups import Groups
from proxyfab.brokers.kafka.hand import Hand
from proxyfab.brokers.kafka.reader import SLICE, Listening
from proxyfab.brokers.kafka.versions import Ear
from proxyfab.errors import CapacityError, ConnectorError
from proxyfab.events.broker import TIMEOUT
from proxyfab.events.model import Delivery, GroupInfo, Start

MAX_NOTE = 1 << 10
_LOOK = 0.25
_TELL = 0.05
"""Seconds between commits that nobody waits for."""
_SESSION = 10_000
"""Milliseconds after which a silent member is none, where members say so themselves: in the classic protocol."""
_GIVEN = 300.0
"""Seconds at least that a member may be busy before its partitions are given to others."""


class Member(Listening):
    """A group's member."""

    group: str

    def __init__(
        self,
        client: Client,
        groups: Groups,
        topic: str,
        group: str,
        partitions: Sequence[int] | None,
        ack_wait: float,
        name: str,
    ) -> None:
        super().__init__(client, topic)
        self.group = group
        self._groups = groups
        self._partitions = partitions
        self._ack_wait = ack_wait
        self._name = name
        self._hand = Hand(ack_wait)
        self._id = groups.id(group)
        self._looked = self._last_told = time.monotonic()
        self._untold: KafkaError | None = None
        self._left_to_tell = False
        self._paused: frozenset[int] = frozenset()
        self._consumer = self._join()

    # -- fetching ----------------------------------------------------------------------------------------------------

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        until = time.monotonic() + timeout
        while True:
            self._check()
            with self._lock:
                found = self._turn(most, until)
            self._tell_now_and_then()
            if found or time.monotonic() >= until:
                return found
            self._still_there(until)

    def _turn(self, most: int, until: float) -> list[Delivery]:
        self._follow()
        found = self._hand.take(most)
        consumer = self._consumer
        if consumer is None or len(found) >= most:
            return found
        left = 0.0 if found else self._hand.patience(max(0.0, min(SLICE, until - time.monotonic())))
        came = self._poll(consumer, most - len(found), left)
        if self._ear.unable:
            self._go_back()
        if self._consumer is not consumer:  # whoever joins anew gets all of it again
            return []
        self._hand.put(came)
        return found + self._hand.take(most - len(found))

    def _follow(self) -> None:
        """Look whether the group was moved or deleted."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        there = self._groups.glance(self.group)
        if there != self._id:
            self._id = self._groups.id(self.group)
            self._rejoin()

    def _rejoin(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._hand.drop()
        self._paused = frozenset()
        if consumer is not None:
            in_time(consumer.close)
        self._consumer = self._join()

    def _join(self) -> Consumer:
        protocol = self._client.protocol
        tuning = dict(self._client.place.tuning)
        self._ear = Ear(tuning)
        options: dict[str, object] = {
            "client.id": self._name or "proxyfab",
            "max.poll.interval.ms": round(1000 * max(_GIVEN, 2 * self._ack_wait)),
            "on_commit": self._was_told,
            "group.protocol": protocol,
        }
        if protocol == "classic":
            session = tuning.get("session.timeout.ms", _SESSION)
            options |= {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": session}
        else:
            options |= self._ear.options
        consumer = self._client.consumer(self._id, options)
        with translated(self._said):
            if self._partitions is None:
                consumer.subscribe([self.topic], on_assign=_given, on_revoke=self._taken, on_lost=self._lost)
            else:
                consumer.assign([TopicPartition(self.topic, number) for number in self._partitions])
        return consumer

    def _bearable(self, error: KafkaError) -> bool:
        unable = error.code() in UNABLE or (error.code() == KafkaError._FATAL and "not supported" in error.str())
        if unable and self._client.protocol == "consumer":
            self._go_back()
            return True
        return super()._bearable(error)

    def _go_back(self) -> None:
        """Join with the protocol that Kafka before 4.0 has, and Redpanda."""
        self._client.protocol = "classic"
        self._rejoin()

    def _taken(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {each.partition for each in partitions}
        floors = {number: floor for number, floor in self._hand.news().items() if number in gone}
        if floors:
            consumer.commit(offsets=self._spots(floors), asynchronous=True)
        self._hand.drop(gone)
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._hand.drop([each.partition for each in partitions])
        consumer.incremental_unassign(partitions)

    def pause(self, partitions: Collection[int]) -> None:
        wanted = frozenset(partitions)
        self._check()
        with self._lock:
            consumer = self._consumer
            if consumer is None or wanted == self._paused:
                return
            with translated(self._said):
                consumer.pause(self._named(wanted - self._paused))
                consumer.resume(self._named(self._paused - wanted))
            self._paused = wanted

    def _named(self, partitions: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, number) for number in sorted(partitions)]

    # -- settling ----------------------------------------------------------------------------------------------------

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        self._hand.ack(deliveries)
        self._tell_now_and_then()

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        if len(note) > MAX_NOTE:
            raise CapacityError(f"A note has {len(note)} bytes, more than {MAX_NOTE}.")
        self._hand.nack(deliveries, delay, note)

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        self._hand.extend(deliveries)

    def flush(self, timeout: float = TIMEOUT) -> None:
        until = time.monotonic() + timeout
        self._check()
        self._tell()
        while self._hand.news():
            if time.monotonic() > until:
                raise ConnectorError(
                    f"What was acknowledged of {self.topic} by group {self.group} was not confirmed in time"
                    f"{f': {self._untold.str()}' if self._untold is not None else ''}."
                )
            with self._lock:
                consumer = self._consumer
                if consumer is None:
                    return
                came = self._poll(consumer, 1, 0.01)
                if self._consumer is consumer:
                    self._hand.put(came)
            if self._untold is not None or self._left_to_tell:
                self._tell()

    def _tell_now_and_then(self) -> None:
        now = time.monotonic()
        if self._left_to_tell or (now - self._last_told >= _TELL and self._hand.news()):
            self._last_told = now
            self._tell()

    def _tell(self) -> None:
        """Commit the floors, or leave it to who has the consumer; `_was_told` hears what came of it."""
        self._left_to_tell = True
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._left_to_tell = False
            consumer, floors = self._consumer, self._hand.news()  # never what was owed to a former group to the new one
            self._untold = None
            if not floors or consumer is None:
                return
            try:
                consumer.commit(offsets=self._spots(floors), asynchronous=True)
            except KafkaException as error:
                self._untold = error.args[0]
            except RuntimeError:  # it was closed meanwhile
                pass
        finally:
            self._lock.release()

    def _was_told(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        done = {each.partition: each.offset for each in partitions if each.error is None and each.offset >= 0}
        self._hand.told({} if error is not None else done)
        self._untold = error or next((each.error for each in partitions if each.error is not None), None)

    def _spots(self, floors: dict[int, int]) -> list[TopicPartition]:
        """A floor is the last record that is done, from 1: Kafka's offset of the one behind it."""
        return [TopicPartition(self.topic, number, floor) for number, floor in floors.items()]

    # -- the rest ----------------------------------------------------------------------------------------------------

    def seek(self, start: Start) -> None:
        self._check()
        self._groups.move(self.group, start)
        with self._lock:
            self._id = self._groups.id(self.group)
            self._rejoin()

    def info(self) -> GroupInfo:
        self.flush()
        found = self._groups.info(self.group)
        pending, passed = self._hand.pending()
        return found._replace(undelivered=max(0, found.undelivered - pending - passed), pending=pending)

    def close(self) -> None:
        if self._closed:
            return
        if os.getpid() == self._process:
            with self._lock:
                self._tell()
        self._closed = True
        consumer = self._release()
        self._hand.drop()
        if consumer is not None and os.getpid() == self._process:
            in_time(consumer.close)


def _given(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    """From where the group is."""
    consumer.incremental_assign(partitions)
