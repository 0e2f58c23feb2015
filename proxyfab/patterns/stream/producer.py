"""Producer: sends objects to a topic. Large ones go to a store, and only their references through the broker.

    with Producer("nats://host", "frames", store=store) as out:
        out.send(image, key="run-1", exposure=0.2)
        out.end()

Promises:
1. `send` answers before the event is delivered, and what it was given may be changed then. `flush` and `close` answer
   when everything is; what could not be delivered is raised by the next of `send`, `flush`, `close`, never swallowed.
2. Events of one producer in one partition, and so those of one key, arrive in the order they were sent.
3. A broker that cannot be reached is tried again, with the same ids, until `timeout`; nothing waits for ever. A process
   that is killed loses what was not acknowledged, and nothing else.
4. A forked child that goes on sending is another producer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxyfab.coroutines import in_thread
from proxyfab.errors import ConfigurationError, LifetimeEnded, ProxyfabError, ResolveTimeout, StaleEpoch
from proxyfab.events.broker import Broker, received
from proxyfab.events.model import Topic
from proxyfab.fork import on_fork
from proxyfab.patterns.stream.identity import Identity
from proxyfab.patterns.stream.limits import FULL, Limits
from proxyfab.patterns.stream.loading import Loader, store_given
from proxyfab.patterns.stream.naming import (
    Customs,
    Selector,
    Serializer,
    Validator,
    broker_given,
    partition_of,
    topic_of,
)
from proxyfab.patterns.stream.receipt import Receipt
from proxyfab.patterns.stream.references import KEEP
from proxyfab.patterns.stream.releaser import Releaser
from proxyfab.patterns.stream.releasing import ttl_of
from proxyfab.patterns.stream.sending import Sending, leaving
from proxyfab.patterns.stream.strays import unwanted
from proxyfab.spec import nbytes
from proxyfab.store import Store
from proxyfab.trace import here
from proxyfab.wire.events import MAX_FRAME, VALUE, pack_metadata

if TYPE_CHECKING:
    from typing import Self

TIMEOUT = 60.0
ABOVE = "32 KiB"
_type = type  # `send` uses that name for something else, and `__class__` would resolve a proxy
_HEAD = 1024
"""Bytes that a frame needs beside its events, and its stores' URLs."""


class Producer:
    """Sends objects to a topic. Thread-safe, fork-safe; connects at the first `send` or `end`.

    Args:
        broker: A Broker, which stays open, or its URL.
        topic: Its name, or a Topic. Made if it does not exist; else it is taken as it is.
        store: Where objects from `above` on go: a Store, which stays open, or its URL. None: everything travels inside.
        name: Of this producer on this topic; who uses it again goes on under its next epoch, and a former one that
            still lives fails with StaleEpoch. Drawn if None.
        awaited: Whether streams go on until it has ended. False for one that comes and goes: without name, or end.
        above: Bytes from which an object goes to the store, as a number or text. Below, it travels inside its event.
        partitions: Of a topic that is made; so are `retention`, `max_bytes`, `release` and `groups`: see Topic.
        most_bytes: Bytes of events that may wait to be acknowledged.
        most_events: How many may.
        full: What `send` does when no more may wait: `"block"`, `"error"` or `"drop_oldest"`.
        timeout: Seconds after which a blocked `send` fails, and what the broker does not take is given up.
        linger: Seconds that an event waits for others while nothing is on its way.
        source: The CloudEvents source of its events.
        validator: Called with `(metadata, object)` before an event is taken; refuses it by raising. Or a registered
            name, which is kept with a topic that is made; so are the next two.
        selector: Called with `(metadata, key, partitions)` for the partition of an event that names none.
        serializer: How metadata travel.

    Raises:
        ConfigurationError: An argument makes no sense.
    """

    def __init__(
        self,
        broker: Broker | str,
        topic: str | Topic,
        *,
        store: Store | str | None = None,
        name: str | None = None,
        awaited: bool = True,
        above: int | str = ABOVE,
        partitions: int | None = None,
        retention: float | None = None,
        max_bytes: int | str | None = None,
        release: str | None = None,
        groups: Iterable[str] | None = None,
        most_bytes: int | str = "64 MiB",
        most_events: int = 100_000,
        full: str = "block",
        timeout: float = TIMEOUT,
        linger: float = 0.0,
        source: str | None = None,
        validator: Validator | str | Sequence[Any] | None = None,
        selector: Selector | str | Sequence[Any] | None = None,
        serializer: Serializer | str | Sequence[Any] | None = None,
    ) -> None:
        if full not in FULL or not timeout > 0 or not linger >= 0 or most_events < 1:
            raise ConfigurationError(
                f"A producer that is full can {', '.join(FULL)}, not {full!r}; its timeout and its limits are positive."
            )
        place = received(broker) if isinstance(broker, str) else broker_given(broker)
        self.store = store_given(store)
        self._customs = Customs(validator, selector, serializer)
        given = {
            "partitions": partitions,
            "retention": retention,
            "max_bytes": None if max_bytes is None else nbytes(max_bytes),
            "release": release,
            "groups": groups if groups is None or isinstance(groups, str) else tuple(groups),
        }
        record = min(place.max_record, MAX_FRAME) - _HEAD - (0 if self.store is None else len(self.store.url))
        limits = Limits(nbytes(most_bytes), most_events, full, timeout, linger, record)
        self._sending = Sending(
            place,
            topic_of(topic, given, self._customs.kept),
            Identity(name, awaited=awaited),
            f"//{here()}" if source is None else source,
            limits,
            timeout,
        )
        self._loader = Loader(self.store, min(nbytes(above), record // 2) if self.store is not None else record // 2)
        self._plain = self._loader.plain
        self._ready = False
        self._prepare()
        on_fork(self)

    def _prepare(self) -> None:
        self._releaser: Releaser | None = None
        self._gathering = self._sending.gathering
        self._add, self._add_plain = self._gathering.add, self._gathering.add_plain
        self._hold = leaving.hold(self, self._sending)

    def after_fork(self) -> None:
        """A child's producer is its own."""
        self._sending = self._sending.again()
        self._ready = False
        self._prepare()

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._sending.topic.name

    @property
    def name(self) -> str:
        """What its events say of who sent them."""
        return self._sending.identity.name

    @property
    def waiting(self) -> int:
        """Events that were sent and are not acknowledged."""
        return sum([draft.count for draft in self._gathering.pending()])

    @property
    def dropped(self) -> int:
        """Events that went for newer ones."""
        return self._gathering.dropped

    def __repr__(self) -> str:
        return f"<Producer {self.name} of {self.topic} at {self._sending.broker.url}>"

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(
        self,
        obj: object,
        /,
        *,
        key: str | None = None,
        partition: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        type: str | None = None,
        subject: str | None = None,
        attributes: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Receipt:
        """Send one object.

        Args:
            obj: Anything that the store takes. A proxy or Ref goes as its reference; None, numbers, text and bytes as
                they are.
            key: What it belongs to: events of one key keep their order.
            partition: Where it goes, whatever the key.
            metadata: What consumers may choose by without fetching the object: numbers, text, lists and maps of these.
                For names that are keywords here; all others can be given as keywords.
            id: Another CloudEvents id than the one that is made of producer, epoch, partition and number.
            type: Its CloudEvents type.
            subject: Its CloudEvents subject; the key, if None.
            attributes: Others of CloudEvents.
            **fields: Metadata, too.

        Raises:
            BackPressureError: Too much waits to be acknowledged, and it should not wait, or has waited long enough.
            SerializationError: The object, or its metadata, cannot become bytes, or the validator refuses it.
            ConfigurationError: There is no such partition.
            CapacityError: The event is larger than the broker takes.
            ConnectorError: The store, or at first the broker, cannot be reached.
            ProxyfabError: What was sent before could not be delivered; this event was not taken.
        """
        gathering = self._gathering
        if not self._ready or gathering.trouble:
            self._begin()
        if metadata is not None:
            fields = {**metadata, **fields}
        named: dict[str, str] | None = None
        if id is not None or type is not None or subject is not None or attributes is not None:
            named = _attributes(id, type, subject, attributes)
        if self._special:
            partition, fields = self._customs.apply(obj, fields, key, partition, self._sending.topic)
        if key is not None:  # hashed in any case: that refuses what is no text
            goes = partition_of(key, gathering.partitions)
            partition = goes if partition is None else partition
        if (_type(obj) is bytes or (_type(obj) is str and obj.isascii())) and len(obj) < self._plain:
            if named is None and (key is None or (_type(key) is str and key.isascii())):
                return self._add_plain(obj, partition, key, pack_metadata(fields) if fields else None)
            return self._add(VALUE, obj, partition, key, fields or None, named)
        return self._send(obj, partition, key, fields or None, named)

    def _send(
        self,
        obj: object,
        partition: int | None,
        key: str | None,
        fields: dict[str, Any] | None,
        named: dict[str, str] | None,
    ) -> Receipt:
        if not self._gathering.room():
            self._gathering.admit()
        kind, data, url, kept, foreign = self._loader.load(obj)
        if kept is not None and self._releaser is None:
            self._releaser = Releaser(self._sending.broker, self._sending.topic, None)
            self._releaser.watch()
        if foreign:
            named = {**(named or {}), KEEP: "1"}
        try:
            return self._add(kind, data, partition, key, fields, named, url, kept)
        except BaseException:
            if kept is not None:
                unwanted(*kept)
            raise

    def _begin(self) -> None:
        self._gathering.raise_trouble()
        if not self._ready:
            if self._gathering.over is not None:
                raise self._gathering.over
            self._sending.open()
            self._customs.know(self._sending.topic)
            if self.store is not None:
                self._loader.ttl, self._loader.mark = ttl_of(self._sending.topic), self._sending.marked(self.store.url)
            self._special = self._customs.any
            self._ready = True

    _special = False

    async def asend(self, obj: object, /, **options: Any) -> Receipt:
        """`send`, without blocking the event loop."""
        if self._ready and self._gathering.room() and type(obj) is bytes and len(obj) < self._plain:
            return self.send(obj, **options)
        return await in_thread(lambda: self.send(obj, **options))

    # -- the end -----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything that was sent is acknowledged.

        Args:
            timeout: Seconds; None for as long as it is tried.

        Raises:
            ResolveTimeout: Something is not acknowledged by then; it is still tried.
            ProxyfabError: Something could not be delivered. Its type is that of the last failure.
        """
        drafts = self._gathering.pending()
        if not self._gathering.wait_for(drafts, timeout):
            left = sum([draft.count for draft in drafts if not draft.done])
            raise ResolveTimeout(
                f"{left} events for topic {self.topic} were not acknowledged by {self._sending.broker.url} within "
                f"{timeout} s; they are still tried."
            )
        self._gathering.raise_trouble()

    async def aflush(self, timeout: float | None = None) -> None:
        """`flush`, without blocking the event loop."""
        await in_thread(lambda: self.flush(timeout))

    def end(self) -> None:
        """Flush, and say that nothing more comes: consumers end when all producers have. Then close. Idempotent.

        Raises:
            StaleEpoch: Another producer has begun under this name.
            ProxyfabError: Something, or the end itself, could not be delivered; nobody waits for it (`awaited`).
        """
        self._sending.identity.check_end()
        over = self._gathering.over
        if isinstance(over, StaleEpoch):
            raise over
        if over is not None:
            return
        self._begin()
        self.flush()
        self._gathering.close_for(LifetimeEnded(f"This producer has ended its stream {self.topic}; make another one."))
        try:
            self._sending.end()
        finally:
            self.close()

    async def aend(self) -> None:
        """`end`, without blocking the event loop."""
        await in_thread(self.end)

    def close(self, timeout: float | None = None) -> None:
        """Flush and let go, without an end: consumers wait for whoever comes next. Idempotent.

        Args:
            timeout: Seconds; what is not acknowledged by then is given up.

        Raises:
            ProxyfabError: Something was not delivered.
        """
        gathering = self._gathering
        gathering.close_for(LifetimeEnded(f"This producer of {self.topic} was closed; make another one."))
        try:
            self.flush(timeout)
        except ResolveTimeout as error:
            gathering.abandon(error)
            raise
        finally:
            self._hold.cancel()
            self._sending.stop(1.0)
            if self._releaser is not None:
                self._releaser.close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        await in_thread(self.close)

    def abort(self) -> int:
        """Let go at once: what is not on its way is not sent; says how many events that are."""
        gathering = self._gathering
        gathering.close_for(LifetimeEnded(f"This producer of {self.topic} was aborted; make another one."))
        count = gathering.abandon(
            LifetimeEnded(f"The producer of topic {self.topic} was aborted before this was sent.")
        )
        self._hold.cancel()
        self._sending.stop(1.0)
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ProxyfabError:
            if error is None:
                raise  # else what the block raised is the story

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await in_thread(lambda: self.__exit__(kind, error, traceback))

    def __reduce__(self) -> Any:
        raise ConfigurationError("A Producer belongs to its process; make another one there, under another name.")


def _attributes(
    id: str | None, type: str | None, subject: str | None, others: Mapping[str, str] | None
) -> dict[str, str]:
    given = {"id": id, "type": type, "subject": subject}
    named = {**(others or {}), **{name: value for name, value in given.items() if value is not None}}
    for name, value in named.items():
        if value.__class__ is not str or not name.isalnum() or not name.isascii() or name != name.lower():
            raise ConfigurationError(
                f"An attribute is text under a name of small letters and digits, not {name!r}: {value!r}."
            )
    return named
