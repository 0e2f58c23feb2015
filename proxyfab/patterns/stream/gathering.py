"""What was sent and is not acknowledged: events gathered into frames, how much of that there may be, and who waits.

Rules:
1. One lock, held for bookkeeping and for writing plain data; never while anything is serialized, stored or published.
2. Nothing in flight: what comes is ready at once, or after `linger`. Something in flight: it is gathered meanwhile.
3. Frames of one partition are taken in the order of their events, by one thread, which numbers them then. What is
   dropped was never taken, so it leaves no gap in the numbers.
4. Every event is settled once. What could not be delivered is also kept as `trouble`, until somebody is told. Its
   objects are evicted, but not where the broker may have the event (`Draft.tried`): its group would miss them.
"""

from __future__ import annotations

import time
from _queue import Empty, SimpleQueue  # not from `queue`, as in `background`
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Raw

from proxyfab.errors import BackPressureError, CapacityError, ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.events.model import Position
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.patterns.stream.limits import Limits
from proxyfab.patterns.stream.naming import whole
from proxyfab.patterns.stream.receipt import Draft, Receipt
from proxyfab.patterns.stream.strays import unwanted
from proxyfab.store import Store
from proxyfab.waiting import Condition
from proxyfab.wire.events import EVENTS, FIELDS, NBYTES, NOTHING, VALUE, Event, Written, written

FRAMES = 64
"""Frames that are published in one call."""
IDLE = 10.0
_LONGEST = 3600.0
_SILENT, _ANY, _SEALED = 0, 1, 2
"""What calls the thread: nothing, as it works; any event; a full frame."""


class Gathering:
    """Events between who sends and who publishes. Thread-safe; belongs to one process."""

    def __init__(self, topic: str, place: str, limits: Limits, start: Callable[[], bool]) -> None:
        self.topic = topic
        self.place = place
        self.limits = limits
        self.partitions = 1
        self.dropped = 0
        self.held = 0
        self.nbytes = 0
        self.trouble: list[tuple[int, BaseException]] = []
        self.over: BaseException | None = None
        """Why nothing more is taken."""
        self._most, self._most_bytes = limits.events, limits.nbytes
        self._frame, self._brim = limits.frame(EVENTS, min(NBYTES, limits.record))
        self._start = start
        self._lock = Condition()  # reentrant: collecting garbage inside may send something
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._calls = _SILENT
        self._running = False
        self._finishing = False
        self._turn = 0
        self._open: dict[int, Draft] = {}
        self._sealed: deque[Draft] = deque()
        self._flying: list[Draft] = []
        on_fork(self)

    def after_fork(self) -> None:
        """In a child: what was sent before is the parent's to deliver, and who asks here is told so."""
        self._lock = Condition()
        error = ConnectorError(f"An event for topic {self.topic} was sent by the parent process, which knows its fate.")
        for draft in [*self._open.values(), *self._sealed, *self._flying]:
            draft.error = draft.error or error
        self.over = self.over or error

    # -- who sends ---------------------------------------------------------------------------------------------------

    def add(
        self,
        kind: int,
        data: Any,
        partition: int | None,
        key: str | None,
        metadata: dict[str, Any] | None,
        attributes: dict[str, str] | None,
        url: str | None = None,
        kept: tuple[Store, Key] | None = None,
    ) -> Receipt:
        """Take one event.

        Raises:
            BackPressureError: There is no room for it.
            CapacityError: It is larger than the broker takes.
            SerializationError: It holds what cannot be said.
        """
        now = time.time_ns() // 1000
        with self._lock:
            draft = self._place(partition)
            if url is not None:
                data[0] = draft.place(url)
            event = written(kind, data, now, key, metadata, attributes)
            nbytes = len(memoryview(event))
            if draft.nbytes + nbytes > self._brim:
                draft = self._overfull(draft, nbytes)
            if kept is not None:
                draft.kept.append(kept)
            return self._put(draft, event, nbytes)

    def add_plain(self, data: bytes | str, partition: int | None, key: str | None, metadata: Raw | None) -> Receipt:
        """The same for what can neither change nor fail: written when its frame is.

        Args:
            data: Bytes, or ASCII text.
            partition: Where to; None for any.
            key: ASCII.
            metadata: Packed.
        """
        now = time.time_ns() // 1000
        nbytes = len(data) + FIELDS
        if key is not None:
            nbytes += len(key)
        if metadata is not None:
            nbytes += len(memoryview(metadata))
        with self._lock:
            if partition is None:
                partition = self._turn
            elif partition.__class__ is not int:
                partition = whole(partition)
            draft = self._open.get(partition)
            if (
                draft is None
                or self.held >= self._most
                or self.nbytes >= self._most_bytes
                or draft.nbytes + nbytes > self._brim
                or self.over is not None
            ):
                draft = self._place(partition)
                if draft.nbytes + nbytes > self._brim:
                    draft = self._overfull(draft, nbytes)
            return self._put(draft, Event(VALUE, data, now, key, NOTHING if metadata is None else metadata), nbytes)

    def _place(self, partition: int | None) -> Draft:
        """Where an event goes, once there is room."""
        if self.held >= self._most or self.nbytes >= self._most_bytes or self.over is not None:
            self._admit()
        number = self._turn if partition is None else whole(partition)
        return self._open.get(number) or self._begin(number)

    def _put(self, draft: Draft, event: Written, nbytes: int) -> Receipt:
        draft.events.append(event)
        index = draft.count
        draft.count = count = index + 1
        self.held += 1
        self.nbytes += nbytes
        draft.nbytes = nbytes = draft.nbytes + nbytes
        if count >= self._frame or nbytes >= NBYTES:
            self._seal(draft)
        elif self._calls == _ANY or not self._running:
            self._ring()
        return Receipt(draft, index)

    def _begin(self, number: int) -> Draft:
        if not 0 <= number < self.partitions:
            raise ConfigurationError(f"Topic {self.topic} has no partition {number}, only {self.partitions}.")
        return self._open.setdefault(number, Draft(self, number))

    def _overfull(self, draft: Draft, nbytes: int) -> Draft:
        """The draft for an event for which another one is too small: a new one, or its own."""
        size = nbytes + len(b"".join([url.encode() for url in draft.stores]))
        if size > self.limits.record:
            raise CapacityError(
                f"An event of {size} bytes is larger than the {self.limits.record} that {self.place} takes for topic "
                f"{self.topic}: give the producer a store and a smaller above=, so that large objects go there."
            )
        if not draft.count:
            return draft
        self._seal(draft)
        other = self._begin(draft.partition)
        other.stores = list(draft.stores)  # so that its reference still means the same
        return other

    def _seal(self, draft: Draft) -> None:
        """Nothing more comes into it."""
        if self._open.get(draft.partition) is draft:
            del self._open[draft.partition]
        if draft.partition == self._turn:
            self._turn = (self._turn + 1) % self.partitions
        draft.sealed = time.monotonic()
        self._sealed.append(draft)
        if self._calls != _SILENT or not self._running:
            self._ring()

    def _ring(self) -> None:
        """Call the thread, or start it."""
        self._calls = _SILENT
        if not self._running:
            self._running = True  # before it runs: it says itself when it ends
            self._running = self._start()
        self._bell.put(None)

    def last(self, kind: int, partition: int) -> Draft:
        """Take an event that says something of the stream itself, with or without room, behind all others."""
        with self._lock:
            draft = self._open.get(partition) or self._begin(partition)
            self._put(draft, Event(kind, None, time.time_ns() // 1000), FIELDS)
            if not draft.sealed:
                self._seal(draft)
            return draft

    def close_for(self, reason: BaseException) -> None:
        """Take nothing more from who sends."""
        with self._lock:
            self.over = self.over or reason
            self._lock.notify_all()

    def finish(self) -> None:
        """Have the thread end when nothing is left."""
        with self._lock:
            self._finishing = True
            self._bell.put(None)

    # -- room --------------------------------------------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        return self.held >= self.limits.events or self.nbytes >= self.limits.nbytes

    def room(self) -> bool:
        """Whether an event would be taken at once."""
        return not self._full and self.over is None

    def admit(self) -> None:
        """Wait for room, or make it, before an object is stored for an event; raises as `add` does."""
        with self._lock:
            self._admit()

    def _admit(self) -> None:
        until = time.monotonic() + self.limits.timeout
        while self.over is None and self._full:
            if self.limits.full == "drop_oldest" and self._drop():
                continue
            left = until - time.monotonic()
            if self.limits.full == "error" or left <= 0:
                raise BackPressureError(
                    f"{self.held} events of {self.nbytes} bytes for topic {self.topic} wait to be acknowledged by "
                    f"{self.place}, and no more may: this one was not taken. Send it again later, or allow more."
                )
            self._seal_all()
            self._lock.wait(left)
        if self.over is not None:
            raise self.over

    def _drop(self) -> bool:
        """Let the oldest frame go that nobody has taken yet; whether there was one."""
        if not self._sealed:
            self._seal_all()
        if not self._sealed:
            return False
        draft = self._sealed.popleft()
        self.dropped += draft.count
        error = BackPressureError(
            f"An event for topic {self.topic} was dropped for newer ones, as {self.place} acknowledges too slowly."
        )
        self._settle(draft, None, error)
        return True

    # -- who publishes -----------------------------------------------------------------------------------------------

    def take(self) -> list[Draft]:
        """Frames to publish now, as soon as there are any; [] when the thread is to end."""
        until = time.monotonic() + IDLE
        while True:
            with self._lock:
                pause = self._ready(until)
                if pause is None:
                    self._calls = _SILENT
                    self._flying = [self._sealed.popleft() for _ in range(min(FRAMES, len(self._sealed)))]
                    if self.limits.full == "drop_oldest":
                        self._free(self._flying)  # what is under way cannot be dropped any more, and does not count
                    return self._flying
                if pause <= 0:
                    self._running = False
                    return []
                self._calls = _SEALED if self._open else _ANY
            try:
                self._bell.get(timeout=min(pause, _LONGEST))
            except Empty:
                pass

    def _ready(self, until: float) -> float | None:
        """None when something is; else seconds to wait, 0 when it has been long enough."""
        if self._sealed:
            return None
        now = time.monotonic()
        due = [draft.born + self.limits.linger for draft in self._open.values() if draft.count]
        if due and min(due) <= now:
            self._seal_all()
            return None
        if due:
            return min(due) - now
        return 0.0 if self._finishing else max(until - now, 0.0)

    def _seal_all(self) -> None:
        for draft in list(self._open.values()):
            if draft.count:
                self._seal(draft)

    def _free(self, drafts: Iterable[Draft]) -> None:
        for draft in drafts:
            if draft.counted:
                draft.counted = False
                self.held -= draft.count
                self.nbytes -= draft.nbytes

    def settle(self, drafts: Sequence[Draft], positions: Sequence[Position], error: BaseException | None) -> None:
        """They are acknowledged, or will never be."""
        with self._lock:
            lost = 0
            for number, draft in enumerate(drafts):
                if not draft.done:
                    self._settle(draft, None if error else positions[number], error)
                    lost += draft.count
            if error is not None and lost:
                self.trouble.append((lost, error))
            self._lock.notify_all()

    def _settle(self, draft: Draft, position: Position | None, error: BaseException | None) -> None:
        draft.position, draft.error = position, error
        self._free([draft])
        draft.events = []
        draft.body = b""
        if error is not None and not draft.tried:
            for store, key in draft.kept:
                unwanted(store, key)
        draft.kept = []
        self._flying = [each for each in self._flying if each is not draft]
        for tell in draft.told:
            tell()
        draft.told = []

    def abandon(self, error: BaseException) -> int:
        """Settle with an error whatever is not acknowledged, except for what is being published; says how many."""
        with self._lock:
            self._seal_all()
            left = [draft for draft in self._sealed if not draft.done]
            self._sealed.clear()
            for draft in left:
                self._settle(draft, None, error)
            self._lock.notify_all()
            self._ring()
            return sum([draft.count for draft in left])

    # -- who waits ---------------------------------------------------------------------------------------------------

    def pending(self) -> list[Draft]:
        """All that was sent before and is not settled; nothing more comes into its frames."""
        with self._lock:
            self._seal_all()
            return [*self._flying, *self._sealed]

    def wait_for(self, drafts: list[Draft], timeout: float | None) -> bool:
        """Whether all of them were settled within so many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        left = list(drafts)
        with self._lock:
            if left and not self._running:
                self._ring()
            while left:
                if left[-1].done:
                    left.pop()
                    continue
                pause = IDLE if until is None else until - time.monotonic()
                if pause <= 0:
                    return False
                self._lock.wait(min(pause, IDLE))
        return True

    def tell(self, draft: Draft, told: Callable[[], object]) -> bool:
        """Call `told` when a draft is settled; True when it is already."""
        with self._lock:
            if not draft.done:
                draft.told.append(told)
            return draft.done

    def raise_trouble(self) -> None:
        """Tell what could not be delivered, once."""
        with self._lock:
            trouble, self.trouble = self.trouble, []
        if trouble:
            count, cause = sum([lost for lost, _ in trouble]), trouble[-1][1]
            kind = type(cause) if isinstance(cause, ProxyfabError) else ProxyfabError
            raise kind(
                f"{count} events for topic {self.topic} were not acknowledged by {self.place} and are given up: {cause}"
            ) from cause
