"""The values beside a topic: a log in a topic of one partition, which everybody folds to the same values.

Rules:
1. Who sets a value appends an attempt and reads up to it; who asks reads up to the end that there is then.
2. The topic is made by the first who sets something. Its records are kept until a snapshot of them lies in it and
   they are cut off; where cutting is not allowed it only grows.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from proxyfab.brokers.kafka.client import Client, abandon, in_time
from proxyfab.brokers.kafka.errors import ABSENT, translate, translated
from proxyfab.brokers.kafka.fold import Fold, Outcome, attempt
from proxyfab.brokers.kafka.naming import values_topic
from proxyfab.brokers.kafka.sending import Sender
from proxyfab.brokers.kafka.topics import make_topic, request_cut
from proxyfab.errors import CapacityError, Conflict, ConnectorError, ProxyfabError
from proxyfab.events.broker import State
from proxyfab.events.model import LATEST, Kept, Record, check_name
from proxyfab.fork import on_fork

MAX_VALUE = 512 << 10
CUT = 4096
"""Records behind the last snapshot after which the log is cut."""
_SLICE = 0.02
_LATE = 0.25
"""Seconds after the deadline of a wait in which an answer may come that is on its way."""
_BATCH = 1000
CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


class Journal:
    """The log of one topic's values, read by this process. Thread-safe."""

    def __init__(self, client: Client, sender: Sender, topic: str) -> None:
        self._client = client
        self._sender = sender
        self._of = topic
        self._topic = values_topic(client.place.values, topic)
        self._said = f"Reading the values of {topic or 'the broker'} at {client.place.label}"
        self._fold = Fold()
        self._consumer: Consumer | None = None
        self._lock = threading.Lock()
        self._closed = False
        on_fork(self)

    def after_fork(self) -> None:
        """A child reads for itself."""
        abandon(self._consumer)
        self._consumer, self._fold, self._lock = None, Fold(), threading.Lock()

    def get(self, name: str) -> Kept | None:
        """The value that there is now."""
        return self._now().get(name, time.time())

    def glance(self, name: str) -> Kept | None:
        """The value as far as it is known here; takes in what has arrived, and waits for nothing."""
        with self._lock:
            if self._consumer is not None:
                self._poll(self._consumer, 0.0)
            return self._fold.get(name, time.time())

    def items(self) -> dict[str, Kept]:
        """All values that there are now."""
        return self._now().items(time.time())

    def put(self, name: str, value: bytes | None, expected: int | None, ttl: float | None = None) -> Outcome:
        """Set a value, or delete it, and say what came of it."""
        until = time.monotonic() + self._client.timeout
        self._begin()
        nonce, body = attempt(name, value, expected, ttl)
        with self._lock:
            self._fold.watched[nonce] = None
        try:
            (position,) = self._sender.publish(self._topic, [Record(body)], self._client.timeout)
            with self._lock:
                if self._fold.position >= position.offset and self._fold.watched[nonce] is None:
                    self._again()  # it was deleted, and made again
                outcome = self._until(position.offset, until).watched[nonce]
                cut = self._fold.size > CUT
        finally:
            with self._lock:
                self._fold.watched.pop(nonce, None)
        assert outcome is not None, "it was read"
        if cut:
            with contextlib.suppress(ProxyfabError):  # somebody else will
                self._cut()
        return outcome

    def wait(self, known: Mapping[str, int], timeout: float, limit: float) -> dict[str, Kept | None]:
        """As State does; `limit` is the seconds that a question of it may take."""
        until = time.monotonic() + timeout

        def look() -> None:
            left = max(until - time.monotonic(), 0.0) + _LATE
            with self._client.within(limit if timeout <= 0 else min(limit, left)):  # a mere look is answered
                self._now()

        try:
            look()
            return self._change(known, until, look)
        except ConnectorError:
            if timeout <= 0 or time.monotonic() < until:
                raise
            return {}

    def _change(self, known: Mapping[str, int], until: float, look: Callable[[], object]) -> dict[str, Kept | None]:
        while True:
            with self._lock:
                now = time.time()
                found = {name: kept for name in known if _revision(kept := self._fold.get(name, now)) != known[name]}
                left = until - time.monotonic()
                if found or left <= 0:
                    return found
                tailing = self._consumer is not None
                if self._consumer is not None:
                    self._poll(self._consumer, min(left, _SLICE))
            if not tailing:  # nobody has set anything yet
                time.sleep(min(left, _SLICE))
                self._client.forget(self._topic)
                look()

    def close(self) -> None:
        """Stop reading."""
        with self._lock:
            consumer, self._consumer, self._closed = self._consumer, None, True
            self._fold = Fold()
        if consumer is not None:
            in_time(consumer.close)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _now(self) -> Fold:
        """The values, up to the end that the log has now."""
        if not self._client.partitions(self._topic):
            if self._of and not self._client.partitions(self._of, fresh=True):
                raise self._client.missing(self._of)
            return Fold()
        until = time.monotonic() + self._client.timeout
        end = self._client.starts(self._topic, LATEST, [0])[0]
        with self._lock:
            return self._until(end, until, exactly=end)

    def _until(self, end: int, until: float, exactly: int | None = None) -> Fold:
        if exactly is not None and self._fold.position > exactly:
            self._again()  # it was deleted, and made again
        while self._fold.position < end or self._consumer is None:
            if time.monotonic() > until:
                raise ConnectorError(f"{self._said} was not finished in time; is the cluster running?")
            self._poll(self._reader(), 0.1 if end else 0.0)
        return self._fold

    def _reader(self) -> Consumer:
        if self._closed:
            raise ConnectorError(f"{self._client.place.label} was closed.")
        if self._consumer is None:
            first = self._client.bounds(self._topic, [0])[0][0]
            watched = self._fold.watched
            self._fold = Fold(first)
            self._fold.watched = watched
            consumer = self._client.consumer("proxyfab", {"auto.offset.reset": "error"})
            with translated(self._said):
                consumer.assign([TopicPartition(self._topic, 0, first)])
            self._consumer = consumer
        return self._consumer

    def _again(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            in_time(consumer.close)

    def _poll(self, consumer: Consumer, timeout: float) -> None:
        """Take in what comes within the time, and all that is there then."""
        with translated(self._said):
            first = consumer.poll(timeout)
            messages = [] if first is None else [first, *consumer.consume(_BATCH, 0)]
        for message in messages:
            error = message.error()
            if error is None:
                body, offset = message.value(), message.offset()
                assert offset is not None
                self._fold.read(offset, message.timestamp()[1], body or b"")
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._again()  # it was cut meanwhile
                return
            elif error.code() not in ABSENT and not error.retriable() and error.code() != KafkaError._TRANSPORT:
                raise translate(error, self._said)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._client.partitions(self._topic):
            return
        if self._of and not self._client.partitions(self._of, fresh=True):
            raise self._client.missing(self._of)
        make_topic(self._client, self._topic, 1, CONFIG)

    def _cut(self) -> None:
        """Append a snapshot, and cut off what it stands for."""
        with self._lock:
            parts, position = self._fold.snapshot(), self._fold.position
            self._fold.size = 0
        for part in parts:
            self._sender.publish(self._topic, [Record(part)], self._client.timeout)
        if self._client.place.admin:
            request_cut(self._client, self._topic, position)


class KafkaState(State):
    """The values beside a topic."""

    def __init__(self, journal: Journal, client: Client, timeout: float) -> None:
        self._journal = journal
        self._client = client
        self._timeout = timeout

    def get(self, name: str) -> Kept | None:
        with self._client.within(self._timeout):
            return self._journal.get(check_name(name))

    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        if len(value) > MAX_VALUE:
            raise CapacityError(f"The value {name} has {len(value)} bytes, more than {MAX_VALUE}.")
        with self._client.within(self._timeout):
            outcome = self._journal.put(check_name(name), bytes(value), revision, ttl)
        _check(name, outcome, revision)
        return outcome.revision

    def delete(self, name: str, *, revision: int | None = None) -> bool:
        with self._client.within(self._timeout):
            outcome = self._journal.put(check_name(name), None, revision)
        _check(name, outcome, revision)
        return outcome.before > 0

    def items(self, prefix: str = "") -> dict[str, Kept]:
        with self._client.within(self._timeout):
            found = self._journal.items()
        return {name: kept for name, kept in found.items() if name.startswith(prefix) and not name.startswith(".")}

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        return self._journal.wait(known, timeout, self._timeout)


def _check(name: str, outcome: Outcome, expected: int | None) -> None:
    if not outcome.accepted:
        raise Conflict(f"{name} has revision {outcome.before}, not {expected}: somebody else has set it.")


def _revision(kept: Kept | None) -> int:
    return 0 if kept is None else kept.revision
