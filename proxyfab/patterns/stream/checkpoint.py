"""Checkpoint: what was read, what was made of it and what was sent on move together, or not at all.

    with Consumer(broker, "frames", group="mean") as frames, Checkpoint(frames, "mean", initial=0) as point:
        total = point.state
        for item in point:
            total += float(item.proxy.mean())
            point.commit(total, outputs=[("means", total, {"of": item.id})])

Rules:
1. A commit is one compare-and-set of one value: what was seen, the state, and the outgoing frames with their numbers.
   Then the frames are published, then what was read is acknowledged. Whoever begins after a crash publishes what is
   left, and drops what comes again. So each event counts once in the state, and each output is there once.
2. A checkpoint belongs to one process at a time: who opens it takes it. The one before is fenced: its next commit
   raises Conflict and changes nothing.
3. Its group should have no other member at the same partitions: what another one has seen is not known here. To share
   work give each member partitions, and a checkpoint, of its own.
4. Items are acknowledged by `commit`, nobody else. What was given back (`Item.nack`) is not part of a commit, what was
   rejected is.
5. Objects of outputs are the output topic's from the commit on; those of commits that were broken off are evicted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxyfab.coroutines import in_thread
from proxyfab.errors import CapabilityError, ConfigurationError, Conflict, ConnectorError, LifetimeEnded, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, check_group
from proxyfab.patterns.stream import saved as kept
from proxyfab.patterns.stream.counted import Counted, Source, source_of
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.loading import store_given
from proxyfab.patterns.stream.outputs import (
    Named,
    Numbers,
    Output,
    Sent,
    as_output,
    ends_of,
    frames_of,
    publish,
    published,
    register,
)
from proxyfab.patterns.stream.releasing import ttl_of
from proxyfab.patterns.stream.saved import Head, Saved
from proxyfab.spec import nbytes
from proxyfab.store import Store

if TYPE_CHECKING:
    from typing import Self

    from proxyfab.patterns.stream.consumer import Consumer

PREFIX = "checkpoints/"
_SAME = object()


class Checkpoint:
    """A consumer's, and the state of its work. Belongs to one thread at a time.

    Args:
        consumer: Whose events are read; it stays the caller's to close.
        name: Of this work; letters, digits, `_` and `-`.
        initial: The state before anything was committed.
        store: Where large outputs, and a state that is large or only pickles, go: a Store or a URL.
        above: Bytes from which an output goes there; below, it travels inside its event.
        timeout: Seconds that a commit tries to reach the broker.

    Raises:
        CapabilityError: The broker keeps no values.
    """

    def __init__(
        self,
        consumer: Consumer,
        name: str,
        *,
        initial: Any = None,
        store: Store | str | None = None,
        above: int | str = "32 KiB",
        timeout: float = 60.0,
    ) -> None:
        if not isinstance(getattr(consumer, "broker", None), Broker):
            raise ConfigurationError(f"A checkpoint is a Consumer's: not {consumer=}.")
        broker: Broker = consumer.broker
        if Capability.STATE not in broker.capabilities:
            raise CapabilityError(f"{broker.url} keeps no values beside topics, so nothing can be committed there.")
        if consumer.group is None:
            raise ConfigurationError("A checkpoint is a group's: what an observer reads is acknowledged by nobody.")
        self.consumer = consumer
        self.name = check_group(name)
        self.store = store_given(store)
        self.committed = 0
        """Commits of this object."""
        self._broker = broker
        self._initial = initial
        self._above = nbytes(above) if self.store is not None else min(broker.max_record // 4, nbytes("256 KiB"))
        self._timeout = timeout
        self._pid = os.getpid()
        self._taken = False
        self._trouble: BaseException | None = None
        self._closed = False
        self._pending: dict[tuple[Source, int], list[Item]] = {}
        self._partitions: dict[str, int] = {}
        self._ttl: dict[str, float | None] = {}
        self._owed = False
        self._extended = time.monotonic()

    # -- taking it ---------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Take it from whoever had it, and finish what he had committed; what `with` does. Idempotent."""
        self._check()
        if not self._taken:
            path = f"{PREFIX}{self.consumer.group}/{self.name}".replace("~", "=")
            self._slot = kept.Slot(self._broker.state(self.consumer.topic.name), path, self._timeout)
            self._take()
        return self

    def _check(self) -> None:
        if self._closed or self._pid != os.getpid():
            raise LifetimeEnded(f"{self!r} was closed, or belongs to another process; make another one.")
        if self._trouble is not None:
            raise Conflict(f"{self!r} cannot go on: {self._trouble}") from self._trouble

    def _take(self) -> None:
        while True:
            found = self._slot.read()
            url = "" if self.store is None else self.store.url
            if found is None:
                head, body = Head(os.urandom(8).hex(), os.urandom(8), store=url), Saved()
            else:
                head, body = kept.read(found)
                head.litter = [*head.litter, (head.fence, head.turn + 1)]
                head.owner, head.fence = os.urandom(8), head.fence + 1
                if head.store != url:
                    self._move(head, body, url)
            try:
                self._slot.replace(kept.packed(head))
            except Conflict:
                continue
            break
        self._head, self._body, self._taken = head, body, True
        self._counted = Counted.unpacked(body.seen)
        self._state = kept.load_state(head, body, self._initial)
        kept.clean(head)
        self._owed = bool(body.outbox)
        self._deliver(again=True)

    def _move(self, head: Head, body: Saved, url: str) -> None:
        """Another store from now on; what lies in the old one stays there until it is replaced."""
        if head.stored is not None or body.stored is not None:
            raise ConfigurationError(
                f"Checkpoint {self.name} has its state in {head.store}: open it with that store, not {url or None}."
            )
        kept.clean(head)
        head.store, head.litter, head.drop = url, [], []

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """What was committed last; `initial` before."""
        self.open()
        return self._state

    @property
    def producer(self) -> str:
        """The name under which it sends."""
        self.open()
        return f"{self.name}.{self._head.home}"

    @property
    def ended(self) -> bool:
        """Whether a commit said that it was the last."""
        self.open()
        return self._body.ended

    def __iter__(self) -> Iterator[Item]:
        """Events that no commit has counted, until the stream is over."""
        self.open()
        for item in self.consumer:
            self._check()
            if self._is_news(item):
                yield item

    def _is_news(self, item: Item) -> bool:
        """Whether an event was not counted, and is not being worked on; then it is now."""
        source, number = source_of(item), item.sequence
        if self._counted.has(source, number):
            item.ack()
            return False
        known = self._pending.get((source, number))
        if known is not None and not _returned(known[-1]):
            known.append(item)
            return False
        self._pending[source, number] = [item]
        self._keep()
        return True

    def _keep(self) -> None:
        """What waits for a commit is being worked on."""
        now = time.monotonic()
        if now - self._extended < 1.0:
            return
        self._extended = now
        for hand in {id(items[-1]._hand): items[-1]._hand for items in self._pending.values()}.values():
            hand.extend()

    # -- committing --------------------------------------------------------------------------------------------------

    def commit(self, state: Any = _SAME, outputs: Iterable[Sent] = (), *, end: bool = False) -> None:
        """Count what was read since the last commit, and send outputs on: all of it, once, or nothing.

        When it returns this holds whatever happens. An output that the broker does not take just now is published by
        the next commit (before that commits anything), `flush`, or whoever opens the checkpoint next.

        Args:
            state: The new one; the old one is kept if it is not given. It is serialized now.
            outputs: `(topic, object)`, `(topic, object, metadata)` or `Output`; the topics have to exist.
            end: Nothing more is sent: the consumers of all topics that were sent to will end.

        Raises:
            Conflict: Somebody else has opened this checkpoint; nothing was committed.
            LifetimeEnded: It has ended, and there are outputs.
            SerializationError: The state, or an output, cannot become bytes; nothing was committed.
            ConnectorError: The broker cannot be reached. Open the checkpoint anew to learn whether it was committed.
        """
        self.open()
        self._deliver(again=True, strict=True)  # what is still owed would be forgotten by the next value
        items = [items for items in self._pending.values() if not _returned(items[-1])]
        sent = [as_output(each) for each in outputs]
        if self._body.ended and sent:
            raise LifetimeEnded(f"{self!r} has ended; nothing more can be sent.")
        head = Head(self._head.home, self._head.owner, self._head.fence, self._head.turn + 1, self._head.store)
        counted = self._counted.plus([(source_of(item), item.sequence) for item, *_ in items])
        body = self._made(head, state, sent, end, counted)
        kept.put_body(head, body, self.store)
        head.drop = _unneeded(self._head, self._body, head, body)
        self._swap(head)
        self._head, self._body, self._counted = head, body, counted
        self._state = self._state if state is _SAME else state
        self._owed = bool(body.outbox)
        self.committed += 1
        kept.clean(head)
        self._deliver()
        for group in items:
            for item in group:
                item.ack()
        self._pending = {key: items for key, items in self._pending.items() if _returned(items[-1])}

    async def acommit(self, state: Any = _SAME, outputs: Iterable[Sent] = (), *, end: bool = False) -> None:
        """`commit`, for event loops."""
        await in_thread(lambda: self.commit(state, outputs, end=end))

    def _made(self, head: Head, state: Any, sent: list[Output], end: bool, counted: Counted) -> Saved:
        """The next body; objects are stored meanwhile."""
        old = self._body
        for topic in {output.topic for output in sent} - self._partitions.keys() | set(old.numbers):
            self._know(topic)
        numbers = Numbers(old.numbers)
        numbers.turn = head.turn
        loader = Named(self.store, self._above, head.prefix(head.fence, head.turn), self._ttl)
        frames = frames_of(sent, self.producer, numbers, self._partitions, loader)
        ends = end and not old.ended
        if ends:
            topics = {topic: self._partitions[topic] for topic in numbers.next}
            frames += ends_of(self.producer, numbers, topics)
        at = {topic: dict(offsets) for topic, offsets in old.at.items()}
        body = Saved(counted.packed(), old.state, old.stored, numbers.next, at, frames, old.ended or end)
        if state is not _SAME:
            kept.save_state(body, state, head.prefix(head.fence, head.turn), self.store)
        return body

    def _know(self, topic: str) -> None:
        """What is to be known of a topic before anything is sent there."""
        if topic in self._partitions:
            return
        described = self._broker.describe(topic)
        if topic not in self._body.at:
            self._body.at[topic] = {number: extent.last for number, extent in described.extents.items()}
        register(self._broker, topic, self.producer, ended=False) if not self._body.ended else None
        self._ttl[topic] = None if self.store is None else ttl_of(described.topic)
        self._partitions[topic] = described.topic.partitions

    def _swap(self, head: Head) -> None:
        """Set the value."""
        try:
            self._slot.replace(kept.packed(head))
        except Conflict as error:
            self._fenced(error, head)
        except ConnectorError as error:
            self._trouble = error
            raise

    def _fenced(self, error: Conflict, head: Head) -> None:
        self._trouble = Conflict(
            f"Checkpoint {self.name} of group {self.consumer.group} at topic {self.consumer.topic.name} was taken over "
            "by another process: what this one did since its last commit does not count. Stop it."
        )
        if self.store is not None:
            kept.clean(Head(head.home, b"", store=head.store, litter=[(head.fence, head.turn)]))
        raise self._trouble from error

    # -- sending on --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Publish what was committed and could not be published.

        Raises:
            ProxyfabError: It still cannot.
        """
        self.open()
        self._deliver(strict=True)

    def _deliver(self, *, again: bool = False, strict: bool = False) -> None:
        """Publish the outbox; `again` where others may have."""
        if not self._owed:
            return
        try:
            frames = self._body.outbox
            if again or self._trouble is not None:
                for topic in {frame.topic for frame in frames}:
                    there = published(self._broker, topic, self._body.at.get(topic, {}))
                    frames = [frame for frame in frames if frame.topic != topic or frame.id not in there]
            self._note(publish(self._broker, frames))
            for topic in {frame.topic for frame in self._body.outbox if frame.end}:
                register(self._broker, topic, self.producer, ended=True)
        except ConnectorError:
            if strict:
                raise
            return
        self._owed = False

    def _note(self, last: Mapping[str, Mapping[int, int]]) -> None:
        for topic, offsets in last.items():
            at = self._body.at.setdefault(topic, {})
            for partition, offset in offsets.items():
                at[partition] = max(at.get(partition, 0), offset)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go: what was not committed does not count. Idempotent."""
        if self._closed or self._pid != os.getpid():
            return
        try:
            if self._taken and self._trouble is None:
                self._deliver()
                if self._body.outbox and not self._owed:
                    self._tidy()
        finally:
            self._closed = True
            self._pending.clear()

    def _tidy(self) -> None:
        """Nothing is left to publish: that is written down, so that who comes next need not look."""
        old = self._head
        head = Head(old.home, old.owner, old.fence, old.turn + 1, old.store)
        body = Saved(*[getattr(self._body, name) for name in Saved.__struct_fields__])
        body.outbox = []
        try:
            kept.put_body(head, body, self.store)
            head.drop = _unneeded(old, self._body, head, body)
            self._swap(head)
            kept.clean(head)
        except ProxyfabError:  # whoever comes next looks
            pass

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._owed, self._body = False, Saved()  # nothing is tried any more: whoever comes next goes on
        self.close()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name} of {self.consumer.group} at {self.consumer.topic.name}>"


def _returned(item: Item) -> bool:
    """Whether an event was given back."""
    return item._index in item._hand.back


def _unneeded(old: Head, before: Saved, head: Head, body: Saved) -> list[list[str]]:
    """Keys that the value before needed and this one does not."""
    needed = (head.stored, body.stored)
    return [key for key in (old.stored, before.stored) if key is not None and key not in needed]
