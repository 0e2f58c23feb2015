"""When the objects of a topic's events go, and what takes them back when nobody else did: `Topic.release`.

    all_groups_acked   when every group that the broker knows has acknowledged the event
    first_ack          when one group has
    retention          when the record has gone: the object expires by itself
    never              not by us

Rules:
1. An object goes only after the broker knows of the acknowledgement. So who is killed in between leaves objects that
   nobody needs, never events whose objects are missing.
2. Whom an object is kept for is asked of the broker, each time: a group that was deleted does not count, one that was
   declared with the topic (`Topic.groups`) does before it has read anything. Without any group nothing is released.
3. Consumers evict what they acknowledged (`releaser`). A sweep finds what they left: it reads the records between what
   is known to be released and what may be. What is released is one value beside the topic, runs of offsets for each
   partition, that changes by compare-and-set; one sweeper at a time has the lease, and two of them do no harm.
4. Objects that came to the producer as somebody's proxy or reference are not the topic's (`KEEP`): never released.
5. A record may go before its object: by age, or where a full topic drops what is old. Then nobody could know the
   object any more; so with a retention objects expire, a while after their record, and what could drop records without
   one takes no objects (`ttl_of`).
6. Nothing here is read as more than it is: whoever may publish events may have objects evicted that he can name, in
   stores that this process may open (`policy`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from proxyfab.abc import Reclaimed
from proxyfab.errors import (
    CapabilityError,
    ConfigurationError,
    Conflict,
    IntegrityError,
    ProxyfabError,
)
from proxyfab.events.broker import Broker, State
from proxyfab.events.model import Capability, Delivery, Description, Topic
from proxyfab.keys import Key
from proxyfab.patterns.stream.references import KEEP, ref_in
from proxyfab.ref import openers
from proxyfab.spans import Spans
from proxyfab.store import Store
from proxyfab.wire.events import OBJECT, Frame, decode

FLOOR = "release/floor"
LEASE = "release/lease"
LEASED = 10.0
"""Seconds that a sweeper's lease outlives it."""
BATCH = 256
RUNS = 1000
"""Runs of offsets that are written down for a partition; what lies behind them a sweep looks at once more."""
_LEAST, _MOST = 60.0, 600.0
_WAIT = 1.0
_STORED = 7
_TRIES = 16


class Held(NamedTuple):
    """A stored object that an event refers to.

    Attributes:
        url: Its store.
        key: Its key there.
        nbytes: About how large it is.
    """

    url: str
    key: Key
    nbytes: int


def ttl_of(topic: Topic) -> float | None:
    """Seconds that an object of this topic is stored for; None for as long as nobody evicts it.

    Raises:
        ConfigurationError: Records of this topic can go with nobody knowing, and their objects would stay.
    """
    if topic.release == "never":
        return None
    if topic.retention is not None:
        return topic.retention + min(max(topic.retention, _LEAST), _MOST)
    if topic.release == "retention" or (topic.full == "drop_oldest" and topic.max_bytes is not None):
        why = "is released by retention" if topic.release == "retention" else "drops what is old when it is full"
        raise ConfigurationError(
            f"Topic {topic.name} {why}, and says no retention in seconds: objects of its events would never go. Give "
            "it retention=..., or release='never'."
        )
    return None


def objects_of(frame: Frame) -> list[Held]:
    """The stored objects of a frame's events that are the topic's."""
    found = []
    for event in frame.events:
        if event.kind != OBJECT or len(event.data) != _STORED:
            continue
        if event.attributes is not None and KEEP in event.attributes:
            continue
        try:
            ref = ref_in(event.data, frame.stores)
        except IntegrityError:  # whoever wanted the object was told; there is nothing to release
            continue
        if ref.key is not None:
            found.append(Held(ref.url, ref.key, ref.nbytes))
    return found


def evict(objects: Iterable[Held]) -> list[Held]:
    """Evict objects, store by store; those that were there.

    Raises:
        ProxyfabError: Some could not be evicted; those of other stores were.
    """
    by_store: dict[str, list[Held]] = {}
    for held in objects:
        by_store.setdefault(held.url, []).append(held)
    gone: list[Held] = []
    trouble: ProxyfabError | None = None
    for url, some in by_store.items():
        try:
            store: Store = openers[0](url)
            there = store.evict_many([held.key for held in some])
        except ProxyfabError as error:
            trouble = error
            continue
        gone += [held for held, was in zip(some, there, strict=True) if was]
    if trouble is not None:
        raise trouble
    return gone


def releasable(broker: Broker, topic: Topic) -> dict[int, int]:
    """The offset in each partition up to which objects may go now."""
    if topic.release not in ("all_groups_acked", "first_ack"):
        return {}
    floors = [info.floor for info in broker.groups(topic.name).values()]
    choose = min if topic.release == "all_groups_acked" else max
    return {number: choose([floor.get(number, 0) for floor in floors], default=0) for number in range(topic.partitions)}


# -- what is known to be released ----------------------------------------------------------------------------------


class Marker:
    """What is released of a topic, as it is kept beside it."""

    def __init__(self, state: State) -> None:
        self._state = state

    def read(self) -> tuple[dict[int, Spans], int]:
        """Runs of offsets by partition, and the value's revision."""
        kept = self._state.get(FLOOR)
        if kept is None:
            return {}, 0
        try:
            packed = msgspec.msgpack.decode(kept.value, type=dict[int, list[int]])
        except msgspec.MsgspecError as error:
            raise IntegrityError(f"What is kept of a topic's released objects is damaged: {error}.") from error
        return {number: Spans.unpacked(flat) for number, flat in packed.items()}, kept.revision

    def merge(self, more: Mapping[int, Spans]) -> dict[int, Spans]:
        """Add what was released since; all that is."""
        for _ in range(_TRIES):
            known, revision = self.read()
            before = {number: spans.packed() for number, spans in known.items()}
            for number, spans in more.items():
                known.setdefault(number, Spans()).update(spans)
                known[number].shorten(RUNS)
            packed = {number: spans.packed() for number, spans in known.items()}
            if packed == before:
                return known
            try:
                self._state.put(FLOOR, msgspec.msgpack.encode(packed), revision=revision)
            except Conflict:
                continue
            return known
        return self.read()[0]  # others change it all the time; what is missing is looked at once more

    @contextmanager
    def lease(self) -> Iterator[bool]:
        """Whether nobody else sweeps; then nobody does while the block lasts, but for very long ones."""
        name = os.urandom(8)
        try:
            revision = self._state.put(LEASE, name, revision=0, ttl=LEASED)
        except Conflict:
            yield False
            return
        try:
            yield True
        finally:
            try:
                self._state.delete(LEASE, revision=revision)
            except Conflict:  # it took longer than the lease, and somebody else has it
                pass


# -- the sweep -----------------------------------------------------------------------------------------------------


def sweep(
    broker: Broker,
    topic: str,
    *,
    upto: Mapping[int, int] | None = None,
    everything: bool = False,
    dry_run: bool = False,
) -> list[Reclaimed]:
    """Take back what is left of a topic's objects that nobody is to read any more.

    Args:
        broker: Where the topic is.
        topic: Its name.
        upto: Not beyond these offsets, by partition.
        everything: Also what groups still have to read, and whatever `release` says but "never": before the topic is
            deleted.
        dry_run: Only tell.

    Returns:
        What was reclaimed and why; nothing where somebody else sweeps just now.

    Raises:
        CapabilityError: The broker cannot read records again.
        ProxyfabError: The broker or a store cannot be reached; what was reclaimed until then is.
    """
    if Capability.REPLAY not in broker.capabilities:
        raise CapabilityError(f"{broker.url} cannot read records again, so nobody can know what they referred to.")
    described = broker.describe(topic)
    limits = _limits(broker, described, everything, upto)
    marker = Marker(broker.state(topic))
    known, _ = marker.read()
    todo = {
        number: _joined(gaps) for number, limit in limits.items() if (gaps := known.get(number, Spans()).gaps(1, limit))
    }
    if not todo:
        return []
    why = "its topic is to go" if everything else _why(described.topic, list(broker.groups(topic)))
    if dry_run:
        return [_told(held, at, why) for at, held in _unreleased(broker, topic, todo, there=True)]
    with marker.lease() as mine:
        return _sweep(broker, described, marker, todo, why) if mine else []


def _limits(broker: Broker, described: Description, everything: bool, upto: Mapping[int, int] | None) -> dict[int, int]:
    topic, extents = described.topic, described.extents
    limits = releasable(broker, topic)
    if everything:
        limits = {} if topic.release == "never" else {number: extent.last for number, extent in extents.items()}
    if upto is not None:
        limits = {number: min(limit, upto.get(number, 0)) for number, limit in limits.items()}
    return {number: min(limit, extents[number].last) for number, limit in limits.items()}


def _joined(gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Gaps that lie close together as one: reading what is between costs less than beginning anew."""
    found = gaps[:1]
    for low, high in gaps[1:]:
        if low - found[-1][1] < BATCH:
            found[-1] = found[-1][0], high
        else:
            found.append((low, high))
    return found


def _why(topic: Topic, groups: list[str]) -> str:
    if topic.release == "first_ack":
        return "a group has acknowledged its event"
    return f"every group has acknowledged its event ({', '.join(sorted(groups))})"


def _sweep(
    broker: Broker, described: Description, marker: Marker, todo: dict[int, list[tuple[int, int]]], why: str
) -> list[Reclaimed]:
    name = described.topic.name
    found: list[Reclaimed] = []
    for number, gaps in todo.items():
        for low, high in gaps:
            for batch in _records(broker, name, number, low, high):
                held = {each: delivery for delivery in batch for each in _held(delivery)}
                found += [_told(each, str(held[each].position), why) for each in evict(held)]
                marker.merge({number: Spans([(low, batch[-1].position.offset)])})
            marker.merge({number: Spans([(low, high)])})
    return found


def _unreleased(
    broker: Broker, topic: str, todo: Mapping[int, list[tuple[int, int]]], *, there: bool
) -> Iterator[tuple[str, Held]]:
    for number, gaps in todo.items():
        for low, high in gaps:
            for batch in _records(broker, topic, number, low, high):
                for delivery in batch:
                    for held in _held(delivery):
                        if not there or openers[0](held.url).exists(held.key):
                            yield str(delivery.position), held


def _records(broker: Broker, topic: str, number: int, low: int, high: int) -> Iterator[list[Delivery]]:
    """The records of a partition from `low` to `high` that are still there, some at a time."""
    if broker.describe(topic).extents[number].first > high:
        return
    with broker.subscribe(topic, group=None, start={number: low}, partitions=[number]) as reader:
        while True:
            batch = reader.fetch_surely(BATCH, _WAIT)
            some = [delivery for delivery in batch if delivery.position.offset <= high]
            if some:
                yield some
            if not batch or batch[-1].position.offset >= high:
                return


def _held(delivery: Delivery) -> list[Held]:
    try:
        return objects_of(decode(delivery.body))
    except IntegrityError:  # no frame of ours: it refers to nothing
        return []


def _told(held: Held, position: str, why: str) -> Reclaimed:
    return Reclaimed(f"{held.key} of the event at {position}", held.nbytes, why)
