"""An event as its consumer sees it: the object, what was said of it, where it lies, and what becomes of it.

Rules:
1. An item is a number in a frame that somebody holds (`settling.Hand`); everything else is worked out when it is asked
   for. So an item costs one small object, and nobody pays for what he does not read.
2. What is settled stays settled: acknowledging twice is one acknowledgement, and of two verdicts the first one counts.
3. Nothing here opens or resolves an object unless it is asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from proxyfab.coroutines import in_thread
from proxyfab.errors import IntegrityError, KeyNotFound, ObjectReleased
from proxyfab.events.model import Position
from proxyfab.patterns.stream.naming import opened
from proxyfab.patterns.stream.references import ref_in
from proxyfab.patterns.stream.selecting import Choice
from proxyfab.proxy import resolve
from proxyfab.ref import Ref, load
from proxyfab.wire.events import OBJECT, Event, unpack_metadata
from proxyfab.wire.payload import Payload

if TYPE_CHECKING:
    from typing import Self

    from proxyfab.patterns.stream.hand import Hand

TYPE = "proxyfab.event"
"""The CloudEvents type of an event that names none."""


class Item(msgspec.Struct, eq=False):
    """One event. Any thread may settle it, or it and others at once.

    Usable as a context: acknowledged if the block ends well, given back if it raises.
    """

    _hand: Hand
    _index: int
    _metadata: dict[str, Any] | None = None

    # -- the object --------------------------------------------------------------------------------------------------

    @property
    def proxy(self) -> Any:
        """The object in disguise, fetched at its first use; what stands in the event as it is (None, a number, text,
        bytes) comes as itself.

        Raises:
            IntegrityError: What should refer to an object is damaged.
        """
        hand = self._hand
        event: Event = hand.frame.events[self._index]
        if hand.choice is not None:
            return self._chosen(hand.choice, event)
        return self._ref(event).proxy() if event.kind == OBJECT else event.data

    @property
    def ref(self) -> Ref[Any] | None:
        """The reference to the object; None for what stands in the event as it is."""
        event = self._event
        return self._ref(event) if event.kind == OBJECT else None

    def get(self, timeout: float | None = None) -> Any:
        """The object itself, fetched now.

        Args:
            timeout: Seconds for the fetch; None for the connector's own deadline.

        Raises:
            ObjectReleased: It is gone.
            ProxyfabError: As `Ref.resolve`.
        """
        hand = self._hand
        event: Event = hand.frame.events[self._index]
        if hand.choice is not None:
            return resolve(self._chosen(hand.choice, event), timeout=timeout)
        return self._ref(event).resolve(timeout) if event.kind == OBJECT else event.data

    async def aget(self, timeout: float | None = None) -> Any:
        """`get`, for event loops."""
        return await in_thread(lambda: self.get(timeout))

    def _chosen(self, choice: Choice, event: Event) -> Any:
        """What the consumer wants of the object, in disguise; None for nothing."""
        if event.kind != OBJECT:
            return choice.plain(self, event.data)
        part = choice.part(self, self._ref(event))
        return None if part is None else part.proxy()

    def _ref(self, event: Event) -> Ref[Any]:
        try:
            return EventRef.of(ref_in(event.data, self._hand.frame.stores), self.position)
        except IntegrityError as error:
            raise IntegrityError(f"The event at {self.position}: {error}") from error

    @property
    def nbytes(self) -> int:
        """Bytes of the object, as serialized; of text and bytes as they are, and 0 for other plain values."""
        event = self._event
        data = event.data
        if event.kind == OBJECT:
            return data[-4] if len(data) > 3 and data[-4].__class__ is int else 0
        if data.__class__ is str:
            return len(data.encode())
        return len(data) if data.__class__ is bytes else 0

    # -- what was said of it -----------------------------------------------------------------------------------------

    @property
    def metadata(self) -> dict[str, Any]:
        """What the producer said of it; the same dictionary each time.

        Raises:
            IntegrityError: It is damaged.
            ConfigurationError: Its topic has a serializer that is not known here.
        """
        found = self._metadata
        if found is None:
            self._metadata = found = opened(unpack_metadata(self._event.metadata))
        return found

    @property
    def key(self) -> str | None:
        """What it belongs to: events of one key keep their order."""
        return self._event.key

    @property
    def id(self) -> str:
        """Known again wherever it comes from: of producer, epoch, partition and number, or as the producer said."""
        return self._hand.frame.id_of(self._index)

    @property
    def producer(self) -> str:
        """Who sent it."""
        return self._hand.frame.producer

    @property
    def epoch(self) -> int:
        """How often a producer of this name had begun before."""
        return self._hand.frame.epoch

    @property
    def sequence(self) -> int:
        """Its number among the events of its producer and epoch in `partition`, from 0 and without gaps."""
        return self._hand.frame.first + self._index

    @property
    def partition(self) -> int:
        """Where its producer has counted it."""
        return self._hand.frame.partition

    @property
    def position(self) -> Position:
        """Where it lies: reading can begin here again."""
        return self._hand.delivery.position._replace(event=self._index)

    @property
    def time(self) -> float:
        """Seconds since 1970 when it was sent, by its producer's clock."""
        return self._event.time / 1e6

    @property
    def attempt(self) -> int:
        """1 at first; more when it comes again, or may: who had events that were sent with it may have had it, too."""
        return self._hand.tries(self._index)

    @property
    def failures(self) -> int:
        """How often it was given back before; as often as the consumer has `attempts`, and it is buried."""
        return self._hand.failed.get(self._index, 0)

    @property
    def attributes(self) -> dict[str, str]:
        """What it is in the words of CloudEvents 1.0."""
        frame, event = self._hand.frame, self._event
        found = {
            "specversion": "1.0",
            "id": self.id,
            "source": frame.source,
            "type": TYPE,
            "time": _when(event.time),
        }
        if event.key is not None:
            found["subject"] = found["partitionkey"] = event.key
        return {**found, **(event.attributes or {})}

    @property
    def _event(self) -> Event:
        return self._hand.frame.events[self._index]

    # -- what becomes of it ------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether it was acknowledged, given back or rejected."""
        return self._index in self._hand.done

    def ack(self) -> None:
        """It is done: the group does not get it again. Told to the broker together with others, within 50 ms."""
        hand = self._hand
        done = hand.done
        done.add(self._index)  # one step, whichever threads settle whatever else
        if len(done) == hand.total:
            hand.finish()

    def nack(self, delay: float = 0.0, *, error: BaseException | None = None) -> None:
        """It did not work: it comes again after `delay` seconds, to any member; after the last attempt it is buried.

        It comes as soon as the events that were sent together with it are settled too.

        Args:
            delay: Seconds.
            error: Why, for the dead letter that it may become.
        """
        self._hand.give_back(self, self._index, delay, error)

    def reject(self, reason: str) -> None:
        """It never will work: among the dead letters, with `reason`."""
        self._hand.bury(self, self._index, reason)

    def extend(self) -> None:
        """The time to settle it begins anew: for work that takes longer than the group's `ack_wait`."""
        self._hand.extend()

    async def aack(self) -> None:
        """`ack`, for event loops: it never waits."""
        self.ack()

    async def anack(self, delay: float = 0.0) -> None:
        """`nack`, for event loops."""
        await in_thread(lambda: self.nack(delay))

    async def areject(self, reason: str) -> None:
        """`reject`, for event loops."""
        await in_thread(lambda: self.reject(reason))

    async def aextend(self) -> None:
        """`extend`, for event loops."""
        await in_thread(self.extend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.ack()
        else:
            self._hand.give_back(self, self._index, 0.0, error)

    def __repr__(self) -> str:
        return f"<Item at {self.position} of {self.producer}{', settled' if self.settled else ''}>"


class EventRef(Ref[Any]):
    """A reference that knows the event it came in, and says so when the object is gone."""

    __slots__ = ("position",)

    position: Position

    @classmethod
    def of(cls, ref: Ref[Any], position: Position) -> Ref[Any]:
        """A reference to a stored object, with its position; one whose object travels inside as it is."""
        if ref.key is None:
            return ref
        self = cls(ref.url, ref.key, nbytes=ref.nbytes, kind=ref.kind, once=ref.once)
        self.position = position
        return self

    def _fetch(self) -> Payload:
        try:
            return super()._fetch()
        except KeyNotFound as error:
            raise self.story(error) from error

    def story(self, error: KeyNotFound) -> KeyNotFound:
        """Why there is no object."""
        why = f"topic {self.position.topic} has released it, or somebody has evicted it"
        if "ns=~" in self.url or "://~" in self.url:  # a name that was drawn
            why += ", or it went with the process that made its store, which has no name: give the producer's store one"
        return ObjectReleased(f"The object of the event at {self.position} is gone: {why}. {error}")

    def reduce_proxy(self, _kind: Any, resolved: bool, target: Any) -> tuple[Any, ...]:
        now = self.current(target) if resolved else self
        if now is not self:
            return super().reduce_proxy(_kind, resolved, target)
        return _load_proxy, (*self._state(), str(self.position))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _load, (*self._state(), str(self.position))


def _load(*state: Any) -> Ref[Any]:
    """Unpickle a reference that came in an event."""
    *rest, position = state
    return EventRef.of(load(*rest), Position.parse(position))


def _load_proxy(*state: Any) -> Any:
    """Unpickle a proxy of one."""
    return _load(*state).proxy()


def _when(microseconds: int) -> str:
    try:
        return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):  # a time that no calendar has
        return "1970-01-01T00:00:00Z"
