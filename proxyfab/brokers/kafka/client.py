"""The handles of librdkafka that a broker shares, and what is asked of the cluster with them.

Promises: opened at the first use; thread-safe; every call has a deadline. In a forked child the parent's handles are
left alone, as their threads are not there, and new ones are opened. Offsets are Kafka's own here, from 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from proxyfab.brokers.kafka.errors import PASSING, REFUSED, translate, translated
from proxyfab.brokers.kafka.place import Place
from proxyfab.errors import AccessDenied, ConnectorError, TopicNotFound
from proxyfab.events.broker import TIMEOUT
from proxyfab.events.model import EARLIEST, LATEST, From, Start
from proxyfab.fork import on_fork

R = TypeVar("R")
_PAUSE = 0.02
_LEAST = 0.05
"""Seconds that a question has, however late it is."""
_TRY = 5.0
"""Seconds after which a question is asked again: it may have gone out by a connection that was just breaking."""
_GRACE = 1.0
"""Seconds that a request's own deadline comes before that of who waits for it."""
_FIRST = 10.0
"""Seconds after which who was never answered is told that nobody is there: the address may be wrong."""
_UNREACHED = {KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._SSL}
CLOSING = 10.0
"""Seconds that closing takes at most; what takes longer goes on by itself."""


class Client:
    """A connection to one cluster."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.protocol = place.protocol
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None
        self._counts: dict[str, int] = {}
        self._refused = ""
        self._unreached = ""
        """Why the last server that did not answer was not reached."""
        self._answered = False
        self.closed = False
        self._own = threading.local()
        self._lock = threading.Lock()
        on_fork(self)

    def after_fork(self) -> None:
        """The parent's handles stay as they are, for ever: to destroy one waits for threads that are not here."""
        for handle in (self._producer, self._admin):
            abandon(handle)
        self._producer = self._admin = None
        self._lock = threading.Lock()

    @property
    def timeout(self) -> float:
        """Seconds that a call of this thread has, or has left."""
        until: float = getattr(self._own, "until", math.inf)
        return self.place.timeout if until == math.inf else max(until - time.monotonic(), _LEAST)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What this thread asks meanwhile has so long in all, if that is less."""
        before = getattr(self._own, "until", math.inf)
        seconds = self.place.timeout if seconds >= TIMEOUT else min(seconds, self.place.timeout)
        self._own.until = min(before, time.monotonic() + seconds)
        try:
            yield
        finally:
            self._own.until = before

    # -- handles -----------------------------------------------------------------------------------------------------

    def producer(self) -> Producer:
        """The one that all records go through: idempotent, acknowledged by all replicas."""
        with self._lock:
            self._check()
            if self._producer is None:
                self._producer = self._open(
                    Producer,
                    {
                        "acks": "all",
                        "linger.ms": 0,
                        "message.max.bytes": self.place.max + 4096,
                        **self.place.config(),
                        "enable.idempotence": True,
                    },
                )
            return self._producer

    def admin(self) -> AdminClient:
        """For questions and orders."""
        with self._lock:
            self._check()
            if self._admin is not None:
                return self._admin
            made = self._admin = self._open(AdminClient, self.place.config())
        self.listed(made.list_topics, self.timeout)  # what is asked before it is connected may take a second longer
        return made

    def consumer(self, group: str, options: Mapping[str, object]) -> Consumer:
        """One more consumer, which is the caller's to close."""
        self._check()
        base = {"enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest"}
        return self._open(Consumer, {**base, **self.place.config(), **options, "group.id": group})

    def _open(self, kind: Callable[[dict[str, Any]], R], config: Mapping[str, object]) -> R:
        with translated(f"Opening {self.place.label}"):
            return kind({**config, "error_cb": self._complain})

    def _complain(self, error: Any) -> None:
        """Librdkafka tells here of what concerns no single call; of a refusal the next call that fails speaks."""
        if error.code() in REFUSED:
            self._refused = error.str()
        elif error.code() in _UNREACHED:
            self._unreached = error.str()

    def listed(self, ask: Callable[..., R], seconds: float) -> R:
        """What `ask(timeout=...)` is answered; who was never answered does not ask for long."""
        found = ask(timeout=seconds if self._answered else min(seconds, _FIRST))
        self._answered = True
        return found

    def _check(self) -> None:
        if self.closed:
            raise ConnectorError(f"{self.place.label} was closed.")

    # -- topics ------------------------------------------------------------------------------------------------------

    def topics(self, timeout: float | None = None) -> dict[str, int]:
        """All topics and how many partitions they have."""
        said = f"Asking {self.place.label} for its topics"
        with self.asking(said):
            found = self.listed(self.producer().list_topics, self.timeout if timeout is None else timeout)
        self._counts = {name: len(topic.partitions) for name, topic in found.topics.items() if topic.partitions}
        return dict(self._counts)

    def partitions(self, topic: str, *, fresh: bool = False) -> int:
        """How many partitions a topic has, 0 if there is none; remembered."""
        count = 0 if fresh else self._counts.get(topic, 0)
        return count or self.topics().get(topic, 0)

    def missing(self, topic: str) -> TopicNotFound:
        """What to raise."""
        return TopicNotFound(f"{self.place.label} has no topic {topic}; make it with ensure(Topic({topic!r})).")

    def forget(self, topic: str) -> None:
        """Ask again how many partitions it has."""
        self._counts.pop(topic, None)

    def bring_about(self, topic: str) -> int:
        """Have a topic come into being by asking for it; how many partitions it has got."""
        until = time.monotonic() + self.timeout
        with self.asking(f"Making topic {topic} at {self.place.label}"):
            while time.monotonic() < until:
                found = self.listed(partial(self.producer().list_topics, topic), self.timeout).topics[topic]
                if found.partitions:
                    self._counts[topic] = len(found.partitions)
                    return len(found.partitions)
                time.sleep(0.02)
        raise TopicNotFound(
            f"{self.place.label} makes no topic {topic} by itself; have it made, or leave ?admin=0 out."
        )

    # -- offsets -----------------------------------------------------------------------------------------------------

    def offsets(self, topic: str, spec: OffsetSpec, partitions: Iterable[int]) -> dict[int, int]:
        """An offset of each partition."""
        asked = {TopicPartition(topic, number): spec for number in partitions}
        return {
            spot.partition: answer.offset
            for spot, answer in self.answers(
                f"Asking for the offsets of {topic} at {self.place.label}",
                lambda admin, seconds: admin.list_offsets(asked, request_timeout=seconds),
            ).items()
        }

    def bounds(self, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The oldest offset that can be read, and the one behind the newest."""
        newest = self.offsets(topic, OffsetSpec.latest(), partitions)
        oldest = self.offsets(topic, OffsetSpec.earliest(), partitions)
        return {number: (min(oldest[number], newest[number]), newest[number]) for number in partitions}

    def starts(self, topic: str, start: Start, partitions: Sequence[int]) -> dict[int, int]:
        """The first offsets that `start` means."""
        if isinstance(start, From):
            return self.offsets(topic, OffsetSpec.earliest() if start is EARLIEST else OffsetSpec.latest(), partitions)
        if isinstance(start, Mapping):
            wanted = {number: start[number] - 1 for number in partitions if number in start}
            rest = [number for number in partitions if number not in start]
            return {**wanted, **(self.starts(topic, EARLIEST, rest) if rest else {})}
        found = self.offsets(topic, OffsetSpec.for_timestamp(round(start * 1000)), partitions)
        ends = self.starts(topic, LATEST, partitions)
        return {number: ends[number] if offset < 0 else offset for number, offset in found.items()}

    def committed(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """The offset that each partition of a group is at; partitions without one are missing."""
        asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, number) for number in partitions])]
        found = self.answers(
            f"Asking how far group {group} is at {self.place.label}",
            lambda admin, seconds: admin.list_consumer_group_offsets(asked, request_timeout=seconds),
        )[group].topic_partitions
        return {each.partition: each.offset for each in found if each.offset >= 0}

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Where a group that has no members yet begins."""
        wanted = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
        said = f"Making group {group} at {self.place.label}"
        for each in self.answers(
            said,
            lambda admin, seconds: admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, wanted)], request_timeout=seconds
            ),
        )[group].topic_partitions:
            if each.error is not None:
                raise translate(each.error, said)

    # -- asking ------------------------------------------------------------------------------------------------------

    def answers(
        self, said: str, ask: Callable[[AdminClient, float], Mapping[Any, Future[Any]]], timeout: float | None = None
    ) -> dict[Any, Any]:
        """What an administrator's request is answered, all of it."""
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        with self.asking(said):
            while True:
                left = max(_LEAST, until - time.monotonic())
                try:
                    futures = ask(self.admin(), min(left, _TRY))
                    found = {name: future.result(left + _GRACE) for name, future in futures.items()}
                    if any(getattr(each, "offset", 0) == OFFSET_INVALID for each in found.values()):
                        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # librdkafka does not say so of offsets
                    return found
                except KafkaException as error:
                    if error.args[0].code() not in PASSING or time.monotonic() > until:
                        raise
                    if error.args[0].code() == KafkaError._TIMED_OUT:
                        with self._lock:
                            self._admin = None
                left = max(_LEAST, until - time.monotonic())
                self.admin().list_topics(timeout=left)  # who leads what now
                time.sleep(_PAUSE)

    def asking(self, said: str) -> _Asking:
        """Around a call: its errors are translated, and a refusal that was told elsewhere is said."""
        return _Asking(self, said)

    def refusal(self, said: str) -> AccessDenied | None:
        """If we were not let in."""
        with self._lock:
            producer = self._producer
        if producer is not None:
            producer.poll(0)  # where complaints are told
        if not self._refused:
            return None
        return AccessDenied(f"{said} was refused: {self._refused}. Check ?sasl=, ?user= and its password, and ?tls=.")

    def unreached(self) -> str:
        """Why a server was not reached, where none has ever answered."""
        return "" if self._answered else self._unreached

    def close(self) -> None:
        """Let go of the handles, at once: whoever waits for something has waited for it."""
        with self._lock:
            self.closed = True
            handles, self._producer, self._admin = [self._producer, self._admin], None, None
        for each in handles:
            closing = getattr(each, "close", None)
            if closing is not None:
                in_time(closing)


class _Asking:
    def __init__(self, client: Client, said: str) -> None:
        self._client = client
        self._said = said

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KafkaException):
            found = translate(error.args[0], self._said)
            refused = self._client.refusal(self._said) if isinstance(found, ConnectorError) else None
            why = self._client.unreached() if type(found) is ConnectorError else ""
            if why:
                found = ConnectorError(f"{found} The last that was tried: {why}.")
            raise refused or found from error
        if isinstance(error, (TimeoutError, RuntimeError)) and not isinstance(error, NotImplementedError):
            raise ConnectorError(f"{self._said} was not answered in time; is the cluster running?") from error


def in_time(close: Callable[[], object], seconds: float | None = None) -> None:
    """Call it; when it takes longer than that, which librdkafka does where nobody answers, leave it to itself."""
    thread = threading.Thread(target=close, name="proxyfab-kafka-closing", daemon=True)
    thread.start()
    thread.join(CLOSING if seconds is None else seconds)


def abandon(handle: object) -> None:
    """Keep a handle from ever being destroyed, in a child that inherited it without its threads."""
    if handle is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
