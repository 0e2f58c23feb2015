"""Copies a topic from one broker to another, frame by frame: acknowledged here when it is there, and there once.

    forward("redis://edge", "frames", "nats://site", follow=True)       # the body of `proxyfab events forward`

Rules:
1. A frame keeps its id, its producer and its numbers; events are in the order of their partition. So who reads here and
   there knows the same event again.
2. What was published is written down at the target, by compare-and-set, before it is acknowledged at the source. Who
   begins again looks what lies at the target behind that; so a frame is there once, whatever was killed, and however
   long ago. Of two forwarders of one name the second takes over, and the first is told (Conflict).
3. Objects are copied into a store of the target's, whose own they are then; or references travel as they are and are
   nobody's at the target. Then they must not be released at the source, where forwarding acknowledges them.
4. The ends of producers follow when all that they sent has.
5. One name copies one topic to one other, which the source has written down: a second target would share the group with
   the first, and each get a part of what comes, in silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import NamedTuple

import msgspec

from proxyfab.brokers import open_broker
from proxyfab.errors import CapabilityError, ConfigurationError, Conflict, IntegrityError, KeyNotFound, TopicNotFound
from proxyfab.events.broker import ACK_WAIT, Broker, State, Subscription
from proxyfab.events.model import EARLIEST, Capability, Delivery, Kept, Record, Start, Topic
from proxyfab.keys import Key
from proxyfab.patterns.stream.identity import PREFIX, entry
from proxyfab.patterns.stream.outputs import published
from proxyfab.patterns.stream.references import KEEP, ref_in, state_of
from proxyfab.patterns.stream.releaser import Releaser
from proxyfab.patterns.stream.releasing import ttl_of
from proxyfab.ref import Ref
from proxyfab.spans import Spans
from proxyfab.spec import check_name
from proxyfab.store import Store, open_store
from proxyfab.wire.events import OBJECT, Frame, decode, encode

BATCH = 64
_LOOK = 0.2
_SOURCE = "forwarding/source"
_TARGET = "forwarding/target/"
_STORED = 7
_RELEASING = ("all_groups_acked", "first_ack")


class Forwarded(NamedTuple):
    """What was copied.

    Attributes:
        frames: Frames that were published.
        events: Events in them.
        objects: Objects that were copied.
        missing: Objects that were to be copied and were not there any more; their references travelled.
        known: Frames that were at the target already.
    """

    frames: int = 0
    events: int = 0
    objects: int = 0
    missing: int = 0
    known: int = 0


class _Progress(msgspec.Struct, array_like=True):
    """What is written down at the target.

    Attributes:
        home: Drawn once: names what is copied.
        owner: Drawn by whoever forwards now.
        done: Runs of the source's offsets by partition.
        at: Offsets of the target behind which nothing is that is not in `done`.
        source: Names the topic whose offsets these are: one that is made anew under its name has another one.
    """

    home: str
    owner: bytes
    done: dict[int, list[int]] = {}
    at: dict[int, int] = {}
    source: str = ""


_progress = msgspec.msgpack.Decoder(_Progress)


def forward(
    source: Broker | str,
    topic: str,
    target: Broker | str,
    to: str | None = None,
    *,
    name: str = "forward",
    copy_objects: bool = False,
    store: Store | str | None = None,
    start: Start = EARLIEST,
    follow: bool = False,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[Forwarded], object] = lambda _: None,
) -> Forwarded:
    """Copy a topic to another broker, or under another name.

    Args:
        source: Where it is read: a Broker or a URL.
        topic: Its name there.
        target: Where it is written.
        to: Its name there; the same, if None. Made as it is at the source if it does not exist.
        name: Of the group at the source, and of what is written down at the target; the same goes on. Each target of a
            topic has a name of its own.
        copy_objects: Copy stored objects into `store`, instead of their references.
        store: Where to, for that: a Store or a URL.
        start: Where to begin, for a name that is new.
        follow: Go on until `stop`; otherwise until all has been copied that there is.
        stop: Asked between two batches.
        told: Called after each batch with what was copied so far.

    Raises:
        ConfigurationError: References would be released at the source; there is no store to copy to; the source is
            another topic than the one that was copied so far; or the target is another one than this name copies to, or
            the source itself.
        CapabilityError: The target keeps no values.
        Conflict: Another forwarder of this name has taken over.
        ProxyfabError: A broker or a store cannot be reached; call it again to go on.
    """
    place = open_store(store) if isinstance(store, str) else store
    if copy_objects and place is None:
        raise ConfigurationError("To copy objects a store is needed to copy them to: give store=...")
    here, there = (open_broker(each) if isinstance(each, str) else each for each in (source, target))
    way = _Way(here, topic, there, to or topic, check_name(name), place if copy_objects else None)
    group = f"forward-{name}"
    with (
        here.subscribe(topic, group=group, start=start, ack_wait=ACK_WAIT) as subscription,
        closing(Releaser(here, way.source, group if copy_objects else None, subscription.flush)) as releaser,
    ):
        way.begin()
        while not stop():
            batch = subscription.fetch(BATCH, _LOOK)
            if batch:
                way.move(subscription, batch)
                releaser.told([_Copied(delivery, _frame(delivery)) for delivery in batch] if copy_objects else ())
                told(way.forwarded)
                continue
            producers = here.state(topic).items(PREFIX)  # first, and then what is left: see `endings`
            if subscription.info().lag == 0:
                way.copy_producers(producers)
                if not follow:
                    break
    return way.forwarded


class _Copied(NamedTuple):
    """What was acknowledged at the source, as it came from there."""

    delivery: Delivery
    frame: Frame


def _frame(delivery: Delivery) -> Frame:
    try:
        return decode(delivery.body)
    except IntegrityError:  # somebody else's, with no object of ours
        return Frame("", 0, 0, 0, "", [], [])


class _Way:
    """From one topic to another."""

    def __init__(self, source: Broker, topic: str, target: Broker, to: str, name: str, store: Store | None) -> None:
        if Capability.STATE not in target.capabilities:
            raise CapabilityError(f"{target.url} keeps no values beside topics, so nobody would know what was copied.")
        self.forwarded = Forwarded()
        self.source = source.describe(topic).topic
        self._from = source
        self._target = target
        self._store = store
        self._topic = _made(target, replace(self.source, name=to, groups=()))
        if _drawn(source, topic) == _drawn(target, to):
            raise ConfigurationError(
                f"Topic {topic} at {source.url} cannot be forwarded to itself: name another broker, or another topic "
                "there (to=..., --to)."
            )
        self._ttl = None if store is None else ttl_of(self._topic)
        self._name = f"forward/{name}"
        self._found: dict[str, int] = {}

    @property
    def _state(self) -> State:
        return self._target.state(self._topic.name)

    def begin(self) -> None:
        """Take over from whoever was at it before, and look what he has done."""
        while True:
            kept = self._state.get(self._name)
            if kept is None:
                extents = self._target.describe(self._topic.name).extents
                at = {number: extent.last for number, extent in extents.items()}
                progress = _Progress(os.urandom(6).hex(), b"", {}, at)
            else:
                progress = _read(kept.value)
            self._same(progress)
            progress.owner = os.urandom(8)
            try:
                self._revision = self._state.put(
                    self._name, msgspec.msgpack.encode(progress), revision=0 if kept is None else kept.revision
                )
            except Conflict:
                continue
            break
        self._only(progress.home, name=self._name.partition("/")[2])
        self._progress = progress
        self._done = {number: Spans.unpacked(flat) for number, flat in progress.done.items()}
        self._found = published(self._target, self._topic.name, progress.at) if kept is not None else {}

    def _same(self, progress: _Progress) -> None:
        """Have it written down whose offsets these are; raise if they are those of a topic that is no more."""
        now = _drawn(self._from, self.source.name)
        if progress.source not in ("", now):
            raise ConfigurationError(
                f"Topic {self.source.name} at {self._from.url} is not the one that was forwarded to {self._topic.name} "
                "so far: it was deleted, or its broker lost it, and made anew. What is in it would be taken for known. "
                "Forward it to another topic (to=..., --to), or, if its producers have no names, under another name "
                "(name=..., --name)."
            )
        progress.source = now

    def _only(self, home: str, *, name: str) -> None:
        """Have the source know whom this name copies to, after the target does; raise if it is another topic."""
        if _kept(self._from.state(self.source.name), _TARGET + name, home) != home:
            raise ConfigurationError(
                f"What forwards topic {self.source.name} of {self._from.url} under the name {name!r} copies it to "
                f"another topic than {self._topic.name} at {self._target.url}, or to this one before it was made anew: "
                "each would get a part. Give this one a name of its own (name=..., --name): it copies all there is."
            )

    def move(self, subscription: Subscription, batch: list[Delivery]) -> None:
        """Copy some records, write that down, and acknowledge them."""
        records = [record for delivery in batch if (record := self._record(delivery)) is not None]
        at = self._progress.at
        for position in self._target.publish(self._topic.name, records) if records else ():
            at[position.partition] = max(at.get(position.partition, 0), position.offset)
        for delivery in batch:
            number, offset = delivery.position.partition, delivery.position.offset
            self._done.setdefault(number, Spans()).add(offset)
        self._write()
        subscription.ack(batch)  # what of this is lost comes again, and is known to be done

    def _write(self) -> None:
        self._progress.done = {number: spans.packed() for number, spans in self._done.items()}
        try:
            self._revision = self._state.put(
                self._name, msgspec.msgpack.encode(self._progress), revision=self._revision
            )
        except Conflict as error:
            kept = self._state.get(self._name)
            if kept is None or _read(kept.value).owner != self._progress.owner:
                raise Conflict(
                    f"Another forwarder of the name {self._name} has taken over topic {self.source.name}: "
                    "this one ends."
                ) from error
            self._revision = kept.revision

    def _record(self, delivery: Delivery) -> Record | None:
        """What is to be published; None for what is there."""
        number, offset = delivery.position.partition, delivery.position.offset
        partition = number % self._topic.partitions
        if number in self._done and offset in self._done[number]:
            return None
        try:
            frame = decode(delivery.body)
        except IntegrityError:  # somebody else's: as it is, known by the broker's id if it has one
            self._count(frames=1)
            return Record(delivery.body, delivery.id, partition)
        if frame.id in self._found:
            self._count(known=1)
            return None
        body = delivery.body
        if any(event.kind == OBJECT and len(event.data) == _STORED for event in frame.events):
            self._rewrite(frame, f"{delivery.position}")
            body = encode(frame)
        self._count(frames=1, events=len(frame.events))
        return Record(body, frame.id, partition)

    def _rewrite(self, frame: Frame, where: str) -> None:
        """Have references mean what they should at the target."""
        for index, event in enumerate(frame.events):
            if event.kind != OBJECT or len(event.data) != _STORED:
                continue
            attributes = dict(event.attributes or {})
            own = KEEP not in attributes
            copy = None if self._store is None else self._copy(ref_in(event.data, frame.stores), frame, index)
            if copy is not None:
                if copy.url not in frame.stores:
                    frame.stores.append(copy.url)
                event.data = state_of(copy, frame.stores.index(copy.url))
                attributes.pop(KEEP, None)
            else:
                if self._store is None and own and self.source.release in _RELEASING:
                    raise ConfigurationError(
                        f"The object of the event at {where} is released when topic {self.source.name} is read "
                        f"(release={self.source.release!r}), which forwarding does: copy_objects=True, store=... "
                        "(--copy-into), or make the topic with release='retention' or 'never'."
                    )
                attributes[KEEP] = "1"
            event.attributes = attributes or None

    def _copy(self, ref: Ref[object], frame: Frame, index: int) -> Ref[object] | None:
        """The object in the target's store; under the same key whenever it is copied again."""
        assert self._store is not None
        assert ref.key is not None
        try:
            payload = ref.store.fetch(ref.key)
        except KeyNotFound:
            self._count(missing=1)
            return None
        key = Key(f"forward-{self._progress.home}-{frame.id}-{index}"[-200:].strip())
        done = self._store.put_payload(payload, key, ttl=self._ttl, replace=True)
        self._count(objects=1)
        return Ref(self._store.url, done, nbytes=ref.nbytes, kind=ref.kind, once=ref.once)

    def _count(self, **more: int) -> None:
        now = self.forwarded
        self.forwarded = now._replace(**{field: getattr(now, field) + count for field, count in more.items()})

    def copy_producers(self, producers: Mapping[str, Kept]) -> None:
        """Say at the target who produces, and who has ended: those that have not first."""
        found = {name: entry(kept.value) for name, kept in producers.items()}
        for name in sorted(found, key=lambda name: found[name]["ended"]):
            kept = self._state.get(name)
            known = None if kept is None else entry(kept.value)
            if known is not None and (known["epoch"], known["ended"]) >= (found[name]["epoch"], found[name]["ended"]):
                continue
            try:
                self._state.put(name, producers[name].value, revision=0 if kept is None else kept.revision)
            except Conflict:  # somebody else forwards it, too; the next look tells
                continue


def _made(target: Broker, wanted: Topic) -> Topic:
    """The topic at the target, made if it does not exist."""
    try:
        return target.describe(wanted.name).topic
    except TopicNotFound:
        return target.ensure(wanted)


def _drawn(broker: Broker, topic: str) -> str:
    """What names a topic, not another one under its name: drawn once, and kept beside it."""
    return _kept(broker.state(topic), _SOURCE, os.urandom(8).hex())


def _kept(state: State, name: str, first: str) -> str:
    """A value, which is set to `first` where there is none."""
    while (kept := state.get(name)) is None:
        with suppress(Conflict):
            state.put(name, first.encode(), revision=0)
    return kept.value.decode(errors="replace")


def _read(value: bytes) -> _Progress:
    try:
        return _progress.decode(value)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"What is kept of forwarding is damaged: {error}.") from error
