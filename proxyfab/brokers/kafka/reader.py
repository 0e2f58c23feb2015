"""What subscriptions to a topic in Kafka have in common, and a reader that nobody counts.

One lock around each of librdkafka's consumers, held for `SLICE` seconds at most while something is awaited.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from proxyfab.brokers.kafka.client import Client, abandon, in_time
from proxyfab.brokers.kafka.errors import translate, translated
from proxyfab.errors import ConnectorError
from proxyfab.events.broker import Subscription, Uncounted
from proxyfab.events.model import Delivery, GroupInfo, Position, Start

SLICE = 0.05
_GONE = 1.0
_LOOK = 0.25
"""Seconds after its deadline that a fetch may last, once in `_GONE`, to ask whether there still is a topic."""


class Listening(Subscription):
    """What both have: a consumer, of the process that made it."""

    def __init__(self, client: Client, topic: str) -> None:
        self.topic = topic
        self._client = client
        self._said = f"Reading {topic} at {client.place.label}"
        self._consumer: Consumer | None = None
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may acknowledge something
        self._process = os.getpid()
        self._seen = time.monotonic()
        self._closed = False

    def _check(self) -> None:
        if self._closed or self._client.closed:
            raise ConnectorError(f"This subscription to {self.topic} was closed.")
        if os.getpid() != self._process:
            abandon(self._consumer)
            raise ConnectorError(
                f"This subscription to {self.topic} belongs to the process that made it; make one here."
            )

    def _poll(self, consumer: Consumer, most: int, timeout: float) -> list[Delivery]:
        """What comes within the time, and up to `most` of what is there then."""
        with translated(self._said):
            first = consumer.poll(timeout)
            messages = [] if first is None else [first, *(consumer.consume(most - 1, 0) if most > 1 else [])]
        found = []
        for message in messages:
            error = message.error()
            if error is None:
                found.append(_delivery(self.topic, message))
            elif not self._bearable(error):
                raise translate(error, self._said)
        return found

    def _still_there(self, until: float) -> None:
        """Look whether the topic was deleted, while nothing comes; librdkafka waits for it to come back."""
        now = time.monotonic()
        if now - self._seen < _GONE:
            return
        self._seen = now
        with contextlib.suppress(ConnectorError):  # where nobody answers nobody has deleted anything
            if self.topic not in self._client.topics(min(_GONE, max(until - now, 0.0) + _LOOK)):
                raise self._client.missing(self.topic)

    def _bearable(self, error: KafkaError) -> bool:
        """Whether librdkafka goes on by itself after this."""
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE):
            return True
        return not error.fatal() and (error.retriable() or error.code() == KafkaError._MAX_POLL_EXCEEDED)

    def _release(self) -> Consumer | None:
        """The consumer, which is not ours any more."""
        with self._lock:
            consumer, self._consumer = self._consumer, None
        return consumer


class Reader(Uncounted, Listening):
    """Reads without anybody counting."""

    group = None

    def __init__(self, client: Client, topic: str, start: Start, partitions: Sequence[int]) -> None:
        super().__init__(client, topic)
        self._cursors = client.starts(topic, start, partitions)
        self._consumer = client.consumer("proxyfab", {})
        self._assign(self._consumer)

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        until = time.monotonic() + timeout
        while True:
            self._check()
            left = max(0.0, min(SLICE, until - time.monotonic()))
            with self._lock:
                consumer = self._consumer
                found = [] if consumer is None else self._poll(consumer, most, left)
                for each in found:
                    self._cursors[each.position.partition] = each.position.offset
            if found or time.monotonic() >= until:
                return found
            self._still_there(until)

    def seek(self, start: Start) -> None:
        self._check()
        with self._lock:
            self._cursors = self._client.starts(self.topic, start, list(self._cursors))
            if self._consumer is not None:
                self._assign(self._consumer)

    def info(self) -> GroupInfo:
        bounds = self._client.bounds(self.topic, list(self._cursors))
        left = [max(0, bounds[number][1] - max(at, bounds[number][0])) for number, at in self._cursors.items()]
        return GroupInfo(dict(self._cursors), sum(left), 0)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        consumer = self._release()
        if consumer is not None and os.getpid() == self._process:
            in_time(consumer.close)

    def _assign(self, consumer: Consumer) -> None:
        with translated(self._said):
            consumer.assign([TopicPartition(self.topic, number, at) for number, at in self._cursors.items()])


def _delivery(topic: str, message: Any) -> Delivery:
    headers = message.headers()
    identity = ""
    for name, value in headers or ():
        if name == "id" and value is not None:
            identity = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    position = Position(topic, message.partition(), message.offset() + 1)
    return Delivery(message.value() or b"", position, identity, message.timestamp()[1] / 1000)
