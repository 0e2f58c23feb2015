"""A topic in memory: records, groups and redelivery, as a broker or a server keeps them. Nothing here waits.

Rules:
1. No lock and no thread: a log belongs to its owner's lock (`shared`) or to its owner's loop (a server). Who waits
   looks again after a change, and at `next_change`.
2. What is done and not limited by `max_bytes` goes when more than `HISTORY` bytes lie here.
3. A call either does all that it says, or raises and does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from proxyfab.errors import BackPressureError, ConfigurationError, TopicNotFound
from proxyfab.events.cursor import NEVER, Group, Spot
from proxyfab.events.ids import Window
from proxyfab.events.model import (
    EARLIEST,
    Delivery,
    Description,
    Extent,
    From,
    GroupInfo,
    Position,
    Record,
    Start,
    Topic,
)
from proxyfab.events.partition import Partition

HISTORY = 256 << 20
"""Bytes of acknowledged records that a topic without a limit keeps for replay."""
MUCH = 1 << 62
_OWN = 200
"""Bytes that a record takes beside its body, as far as HISTORY goes."""


class Clock(Protocol):
    """What tells the time; the module `time` does."""

    @property
    def time(self) -> Callable[[], float]:
        """Seconds since 1970."""

    @property
    def monotonic(self) -> Callable[[], float]:
        """Seconds that never go back."""


class Log:
    """One topic.

    Args:
        topic: What it is.
        clock: For tests of time.
    """

    def __init__(self, topic: Topic, clock: Clock = time) -> None:
        self.topic = topic
        self.gone = False
        self._clock = clock
        self._partitions = [Partition() for _ in range(topic.partitions)]
        self._groups: dict[str, Group] = {}
        self._ids = Window(topic.window)
        self.nbytes = 0
        """Bytes of all bodies."""
        for group in topic.groups:
            self.ensure_group(group, EARLIEST)

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(self, records: Sequence[Record]) -> list[Position]:
        """As a broker does; raises TopicNotFound and BackPressureError."""
        self._there()
        now, count = self._clock.time(), len(self._partitions)
        self._ids.forget(now)
        if self.topic.retention is not None:
            self._age(now)
        more, known = 0, self._ids.get
        for record in records:
            if not 0 <= record.partition < count:
                raise TopicNotFound(f"Topic {self.topic.name} has no partition {record.partition}: it has {count}.")
            if not record.id or known(record.id) is None:
                more += len(record.body)
        self._make_room(more, len(records))
        return [self._append(record, now) for record in records]

    def _append(self, record: Record, now: float) -> Position:
        name = record.id
        known = self._ids.get(name) if name else None
        if known is not None:
            return known
        position = Position(self.topic.name, record.partition, self._partitions[record.partition].append(record, now))
        self.nbytes += len(record.body)
        if name:
            self._ids.add(name, position, now)
        return position

    def _age(self, now: float) -> None:
        """Let go of what is older than the retention."""
        assert self.topic.retention is not None
        moment = now - self.topic.retention
        for partition in self._partitions:
            while (oldest := partition.oldest) is not None and oldest.time < moment:
                self.nbytes -= partition.drop()

    def _make_room(self, more: int, count: int) -> None:
        limit = self.topic.max_bytes
        if limit is None:
            held = self.nbytes + _OWN * (self.count + count)
            if held + more > HISTORY:
                self.trim(held + more - HISTORY, _OWN)
            return
        if self.nbytes + more <= limit:
            return
        self.trim(self.nbytes + more - limit, 0)
        if self.nbytes + more <= limit:
            return
        if self.topic.full == "reject" or more > limit:
            raise BackPressureError(
                f"Topic {self.topic.name} is full: {self.nbytes} bytes wait in it, {more} more do not fit into "
                f"{limit}. Consume or delete groups, or make it larger."
            )
        while self.nbytes + more > limit:
            self.nbytes -= min(filter(len, self._partitions), key=_age_of).drop()

    def trim(self, wanted: int, own: int = _OWN) -> None:
        """Drop what every group has acknowledged until so many bytes are free; each record has some of its own."""
        if not self._groups:
            return
        floors = [group.floor() for group in self._groups.values()]
        for number, partition in enumerate(self._partitions):
            done = min([floor[number] for floor in floors])
            while wanted > 0 and len(partition) and partition.base <= done:
                dropped = partition.drop()
                self.nbytes -= dropped
                wanted -= dropped + own

    def cut(self, upto: Mapping[int, int]) -> int:
        """Drop the oldest records up to these offsets; how many."""
        self._there()
        self.wanted([*upto])
        before = self.count
        for number, offset in upto.items():
            partition = self._partitions[number]
            while len(partition) and partition.base <= offset:
                self.nbytes -= partition.drop()
        return before - self.count

    @property
    def count(self) -> int:
        """Records that it holds."""
        return sum([len(partition) for partition in self._partitions])

    # -- fetching ----------------------------------------------------------------------------------------------------

    def fetch(
        self, group: str, member: int, most: int, ack_wait: float, partitions: frozenset[int], room: int = MUCH
    ) -> list[Delivery]:
        """Up to `most` records for a member, of what there is now: first what comes again.

        When they have `room` bytes together, no further one is added.
        """
        there = self._group(group)
        now = self._clock.monotonic()
        there.expire(now)
        if self.topic.retention is not None:
            self._age(self._clock.time())
        found: list[Delivery] = []
        while len(found) < most and room > 0 and (due := there.again(now, partitions, 1)):
            spot, again = due[0]
            delivery = self._delivery(spot, again.attempt + 1, again.note)
            if delivery is not None:  # retention has not taken it
                there.lend(spot, member, now, ack_wait, again)
                found.append(delivery)
                room -= len(delivery.body)
        for each in self._fresh(there, most - len(found), partitions, room):
            there.lend((each.position.partition, each.position.offset), member, now, ack_wait)
            found.append(each)
        return found

    def _fresh(self, group: Group, most: int, partitions: frozenset[int], room: int) -> list[Delivery]:
        """What nobody has fetched, beginning with another partition each time."""
        count = len(self._partitions)
        group.turn = (group.turn + 1) % count
        numbers = [number % count for number in range(group.turn, group.turn + count)]
        return self._onward(group.cursors, [number for number in numbers if number in partitions], most, room)

    def _onward(self, cursors: dict[int, int], numbers: Iterable[int], most: int, room: int) -> list[Delivery]:
        """Records from the cursors on, which move."""
        found: list[Delivery] = []
        for number in numbers:
            cursor = max(cursors[number], self._partitions[number].base)
            while len(found) < most and room > 0 and (each := self._delivery((number, cursor), 1, b"")) is not None:
                found.append(each)
                room -= len(each.body)
                cursor += 1
            cursors[number] = max(cursor, cursors[number])
        return found

    def _delivery(self, spot: Spot, attempt: int, note: bytes) -> Delivery | None:
        number, offset = spot
        entry = self._partitions[number].get(offset)
        if entry is None:
            return None
        record = entry.record
        position = Position(self.topic.name, number, offset)
        return Delivery(record.body, position, record.id, entry.time, attempt, note)

    def read(self, cursors: dict[int, int], most: int, room: int = MUCH) -> list[Delivery]:
        """The same for a reader that nobody counts, from its cursors on."""
        self._there()
        found = self._onward(cursors, list(cursors), most, room)
        if found:
            last = found[-1].position.partition
            cursors[last] = cursors.pop(last)  # the others come first the next time
        return found

    def next_change(self, group: str) -> float:
        """The monotonic moment at which a member may get something without a change; NEVER if there is none."""
        there = self._groups.get(group)
        return NEVER if there is None else there.next_change(self._clock.monotonic())

    # -- settling ----------------------------------------------------------------------------------------------------

    def ack(self, group: str, spots: Iterable[Spot]) -> None:
        """They are done, whoever owes them now: the work is the same."""
        self._group(group).settle(spots)

    def nack(self, group: str, member: int, spots: Iterable[Spot], delay: float, note: bytes) -> None:
        """They come again; only what this member still owes."""
        there = self._group(group)
        when = self._clock.monotonic() + delay
        for spot in spots:
            if there.owed(spot, member) is not None:
                there.give_back(spot, when, note)

    def extend(self, group: str, member: int, spots: Iterable[Spot], ack_wait: float) -> None:
        """The member has `ack_wait` seconds from now on."""
        there = self._group(group)
        deadline = self._clock.monotonic() + ack_wait
        for spot in spots:
            owed = there.owed(spot, member)
            if owed is not None:
                there.extend(spot, owed, deadline, ack_wait)

    def leave(self, group: str, member: int) -> None:
        """A member goes: what it owes comes again at once."""
        there = self._groups.get(group)
        if there is not None:
            there.leave(member, self._clock.monotonic())

    # -- groups ------------------------------------------------------------------------------------------------------

    def ensure_group(self, name: str, start: Start) -> None:
        """Make a group, if there is none."""
        self._there()
        if name not in self._groups:
            self._groups[name] = Group(self.cursors(start))

    def seek_group(self, name: str, start: Start) -> None:
        """Begin anew at `start`; nothing is owed any more."""
        self._group(name)
        self._groups[name] = Group(self.cursors(start))

    def delete_group(self, name: str) -> bool:
        """Whether there was one."""
        self._there()
        return self._groups.pop(name, None) is not None

    def has_group(self, name: str) -> bool:
        """Whether there is one of this name."""
        return name in self._groups

    @property
    def groups_count(self) -> int:
        """How many there are."""
        return len(self._groups)

    def groups(self) -> dict[str, GroupInfo]:
        """How far each is."""
        self._there()
        return {name: self.info(name) for name in self._groups}

    def info(self, group: str) -> GroupInfo:
        """How far a group is."""
        there = self._group(group)
        return GroupInfo(there.floor(), self._behind(there.cursors), there.pending, there.counted())

    def read_info(self, cursors: Mapping[int, int]) -> GroupInfo:
        """How far a reader is."""
        self._there()
        return GroupInfo({number: cursor - 1 for number, cursor in cursors.items()}, self._behind(cursors), 0)

    def _behind(self, cursors: Mapping[int, int]) -> int:
        """Records from the cursors on."""
        left = 0
        for number, cursor in cursors.items():
            partition = self._partitions[number]
            left += max(0, partition.last + 1 - max(cursor, partition.base))
        return left

    def cursors(self, start: Start) -> dict[int, int]:
        """The first offsets that `start` means."""
        self._there()
        numbered = enumerate(self._partitions)
        if isinstance(start, From):
            return {number: part.base if start is EARLIEST else part.last + 1 for number, part in numbered}
        if isinstance(start, Mapping):
            return {number: max(1, start.get(number, 1)) for number, _ in numbered}
        return {number: part.since(start) for number, part in numbered}

    def _group(self, name: str) -> Group:
        self._there()
        group = self._groups.get(name)
        if group is None:
            raise TopicNotFound(f"Topic {self.topic.name} has no group {name!r}: it was deleted.")
        return group

    # -- the whole ---------------------------------------------------------------------------------------------------

    def describe(self) -> Description:
        """What it is and holds."""
        self._there()
        if self.topic.retention is not None:
            self._age(self._clock.time())
        extents = {number: Extent(part.base, part.last) for number, part in enumerate(self._partitions)}
        return Description(self.topic, extents, self.count, self.nbytes)

    def wanted(self, partitions: Sequence[int] | None) -> frozenset[int]:
        """Numbers of partitions, all of them for None; raises ConfigurationError."""
        count = len(self._partitions)
        if partitions is None:
            return frozenset(range(count))
        if any(not 0 <= number < count for number in partitions):
            raise ConfigurationError(
                f"Topic {self.topic.name} has {count} partitions; not all of {list(partitions)} are there."
            )
        return frozenset(partitions)

    def end(self) -> None:
        """It was deleted."""
        self.gone = True

    def _there(self) -> None:
        if self.gone:
            raise TopicNotFound(f"Topic {self.topic.name} was deleted.")


def _age_of(partition: Partition) -> float:
    oldest = partition.oldest
    return 0.0 if oldest is None else oldest.time


def same_topic(known: Topic, wanted: Topic) -> Topic:
    """The topic that exists, if it can serve for the one that is wanted."""
    if wanted.partitions not in (1, known.partitions):
        raise ConfigurationError(f"Topic {known.name} has {known.partitions} partitions, not {wanted.partitions}.")
    return known
