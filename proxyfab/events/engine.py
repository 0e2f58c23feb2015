"""A topic in memory: records, groups, redelivery and values, as a broker in this process keeps them.

Rules:
1. One lock for each topic, held for bookkeeping only. Who waits is woken by whatever may concern it.
2. Of a group's records each is in one of three states: not fetched yet (at or behind the cursor), owed by a member
   until a deadline, or returned and due at a moment. Everything else before the cursor is acknowledged.
3. Without `max_bytes` what all groups have acknowledged goes when more than `HISTORY` bytes lie there.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from proxyfab.errors import BackPressureError, ConfigurationError, TopicNotFound
from proxyfab.events.cursor import Group, Owed, Spot
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

HISTORY = 256 << 20
"""Bytes of acknowledged records that a topic without a limit keeps for replay."""
_LOOK = 1.0
"""Seconds after which who waits looks again, whatever happened to its waker."""


class _Partition:
    """Records in order; `base` is the offset of the oldest."""

    __slots__ = ("base", "nbytes", "records")

    def __init__(self) -> None:
        self.base = 1
        self.records: deque[tuple[Record, float]] = deque()
        self.nbytes = 0

    @property
    def last(self) -> int:
        return self.base + len(self.records) - 1

    def drop(self) -> None:
        record, _ = self.records.popleft()
        self.nbytes -= len(record.body)
        self.base += 1

    def since(self, moment: float) -> int:
        """The offset of the first record that is not older."""
        for place, (_, taken) in enumerate(self.records):
            if taken >= moment:
                return self.base + place
        return self.last + 1


class Log:
    """One topic. Thread-safe."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._changed = threading.Condition()
        self._partitions = [_Partition() for _ in range(topic.partitions)]
        self._groups: dict[str, Group] = {}
        self._seen: OrderedDict[str, tuple[float, Position]] = OrderedDict()
        self.gone = False
        for group in topic.groups:
            self.ensure_group(group, EARLIEST)

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(self, records: Sequence[Record]) -> list[Position]:
        """As a broker does, all or nothing."""
        with self._changed:
            self._there()
            now = time.time()
            self._forget(now)
            for record in records:
                if not 0 <= record.partition < len(self._partitions):
                    raise TopicNotFound(f"Topic {self.topic.name} has no partition {record.partition}.")
            self._make_room(sum([len(record.body) for record in records if record.id not in self._seen]))
            positions = [self._append(record, now) for record in records]
            self._changed.notify_all()
            return positions

    def _append(self, record: Record, now: float) -> Position:
        known = self._seen.get(record.id) if record.id else None
        if known is not None:
            return known[1]
        partition = self._partitions[record.partition]
        partition.records.append((record, now))
        partition.nbytes += len(record.body)
        position = Position(self.topic.name, record.partition, partition.last)
        if record.id:
            self._seen[record.id] = now, position
        return position

    def _forget(self, now: float) -> None:
        """Let go of ids behind the window, and of records behind the retention."""
        while self._seen and next(iter(self._seen.values()))[0] < now - self.topic.window:
            self._seen.popitem(last=False)
        if self.topic.retention is not None:
            for partition in self._partitions:
                while partition.records and partition.records[0][1] < now - self.topic.retention:
                    partition.drop()

    def _make_room(self, more: int) -> None:
        limit = self.topic.max_bytes
        held = sum([partition.nbytes for partition in self._partitions])
        if held + more <= (HISTORY if limit is None else limit):
            return
        held -= self._trim(held + more - (HISTORY if limit is None else limit))
        if limit is None or held + more <= limit:
            return
        if self.topic.full == "reject" or more > limit:
            raise BackPressureError(
                f"Topic {self.topic.name} is full: {held} bytes wait in it, {more} more do not fit into {limit}. "
                "Consume or delete groups, or make it larger."
            )
        while held + more > limit:
            oldest = min((part for part in self._partitions if part.records), key=lambda part: part.records[0][1])
            held -= len(oldest.records[0][0].body)
            oldest.drop()

    def _trim(self, wanted: int) -> int:
        """Drop what every group has acknowledged, oldest first, until `wanted` bytes are free; says how many are."""
        freed = 0
        floors = [group.floor() for group in self._groups.values()]
        for number, partition in enumerate(self._partitions):
            done = min([floor[number] for floor in floors], default=0)
            while freed < wanted and partition.records and partition.base <= done:
                freed += len(partition.records[0][0].body)
                partition.drop()
        return freed

    # -- fetching ----------------------------------------------------------------------------------------------------

    def fetch(
        self,
        group: str,
        member: int,
        most: int,
        timeout: float,
        ack_wait: float,
        partitions: Sequence[int],
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[Delivery]:
        """Up to `most` records for a member, as soon as there is one and as long as it is `wanted`."""
        until = time.monotonic() + timeout
        with self._changed:
            while True:
                there = self._group(group)
                now = time.monotonic()
                there.expire(now)
                found = self._again(there, member, most, now + ack_wait, partitions)
                found += self._fresh(there, member, most - len(found), now + ack_wait, partitions)
                if found or now >= until or not wanted():
                    return found
                self._changed.wait(max(0.0, min(until, there.next_change(), now + _LOOK) - now))

    def _again(
        self, group: Group, member: int, most: int, deadline: float, partitions: Sequence[int]
    ) -> list[Delivery]:
        found: list[Delivery] = []
        others = []
        now = time.monotonic()
        while group.due and group.due[0][0] <= now and len(found) < most:
            when, spot = heapq.heappop(group.due)
            known = group.returned.get(spot)
            if known is None or known[0] != when:  # acknowledged meanwhile, or returned once more
                continue
            if spot[0] not in partitions:
                others.append((when, spot))
                continue
            del group.returned[spot]
            delivery = self._delivery(spot, known[1] + 1, known[2])
            if delivery is not None:
                group.owed[spot] = Owed(member, deadline, delivery.attempt)
                found.append(delivery)
        for each in others:
            heapq.heappush(group.due, each)
        return found

    def _fresh(
        self, group: Group, member: int, most: int, deadline: float, partitions: Sequence[int]
    ) -> list[Delivery]:
        found: list[Delivery] = []
        for number in partitions:
            partition = self._partitions[number]
            cursor = max(group.cursors[number], partition.base)
            while len(found) < most and cursor <= partition.last:
                delivery = self._delivery((number, cursor), 1, b"")
                assert delivery is not None
                group.owed[number, cursor] = Owed(member, deadline, 1)
                found.append(delivery)
                cursor += 1
            group.cursors[number] = cursor
        return found

    def _delivery(self, spot: Spot, attempt: int, note: bytes) -> Delivery | None:
        number, offset = spot
        partition = self._partitions[number]
        if not partition.base <= offset <= partition.last:
            return None  # retention has taken it
        record, taken = partition.records[offset - partition.base]
        position = Position(self.topic.name, number, offset)
        return Delivery(record.body, position, record.id, taken, attempt, note)

    def read(self, cursors: dict[int, int], most: int, timeout: float, wanted: Callable[[], bool]) -> list[Delivery]:
        """Up to `most` records from the cursors on, which move; for a reader that nobody counts."""
        until = time.monotonic() + timeout
        with self._changed:
            while True:
                self._there()
                found: list[Delivery] = []
                for number in cursors:
                    cursor = max(cursors[number], self._partitions[number].base)
                    while len(found) < most and (each := self._delivery((number, cursor), 1, b"")) is not None:
                        found.append(each)
                        cursor += 1
                    cursors[number] = cursor
                now = time.monotonic()
                if found or now >= until or not wanted():
                    return found
                self._changed.wait(min(until - now, _LOOK))

    # -- settling ----------------------------------------------------------------------------------------------------

    def ack(self, group: str, spots: Iterable[Spot]) -> None:
        """They are done, whoever owes them now: the work is the same."""
        with self._changed:
            there = self._group(group)
            for spot in spots:
                there.owed.pop(spot, None)
                there.returned.pop(spot, None)
            self._changed.notify_all()

    def nack(self, group: str, member: int, spots: Iterable[Spot], delay: float, note: bytes) -> None:
        """They come again; only what this member still owes."""
        with self._changed:
            there = self._group(group)
            for spot in spots:
                owed = there.owed.get(spot)
                if owed is not None and owed.member == member:
                    there.give_back(spot, time.monotonic() + delay, owed.attempt, note)
            self._changed.notify_all()

    def extend(self, group: str, member: int, spots: Iterable[Spot], ack_wait: float) -> None:
        """The member has `ack_wait` seconds more."""
        with self._changed:
            there = self._group(group)
            for spot in spots:
                owed = there.owed.get(spot)
                if owed is not None and owed.member == member:
                    owed.deadline = time.monotonic() + ack_wait

    def leave(self, group: str, member: int) -> None:
        """A member goes: what it owes comes again at once."""
        with self._changed:
            there = self._groups.get(group)
            if there is not None:
                for spot in [spot for spot, owed in there.owed.items() if owed.member == member]:
                    there.give_back(spot, time.monotonic(), there.owed[spot].attempt, b"")
            self._changed.notify_all()

    # -- groups and the whole ----------------------------------------------------------------------------------------

    def ensure_group(self, name: str, start: Start) -> None:
        """Make a group, if there is none."""
        with self._changed:
            self._there()
            if name not in self._groups:
                self._groups[name] = Group(self._cursors(start))

    def seek_group(self, name: str, start: Start) -> None:
        """Begin anew at `start`; nothing is owed any more."""
        with self._changed:
            self._group(name)
            self._groups[name] = Group(self._cursors(start))
            self._changed.notify_all()

    def delete_group(self, name: str) -> bool:
        """Whether there was one."""
        with self._changed:
            self._changed.notify_all()
            return self._groups.pop(name, None) is not None

    def groups(self) -> dict[str, GroupInfo]:
        """How far each is."""
        with self._changed:
            self._there()
            return {name: self._info(group) for name, group in self._groups.items()}

    def _info(self, group: Group) -> GroupInfo:
        left = [
            max(0, part.last + 1 - max(group.cursors[number], part.base))
            for number, part in enumerate(self._partitions)
        ]
        return GroupInfo(group.floor(), sum(left), len(group.owed) + len(group.returned))

    def cursors(self, start: Start, partitions: Sequence[int] | None = None) -> dict[int, int]:
        """The first offsets that `start` means."""
        with self._changed:
            self._there()
            every = self._cursors(start)
        return every if partitions is None else {number: every[number] for number in partitions}

    def _cursors(self, start: Start) -> dict[int, int]:
        numbered = enumerate(self._partitions)
        if isinstance(start, From):
            return {number: 1 if start is EARLIEST else part.last + 1 for number, part in numbered}
        if isinstance(start, Mapping):
            return {number: start.get(number, 1) for number, _ in numbered}
        return {number: part.since(start) for number, part in numbered}

    def describe(self) -> Description:
        """What it is and holds."""
        with self._changed:
            self._there()
            self._forget(time.time())
            extents = {number: Extent(part.base, part.last) for number, part in enumerate(self._partitions)}
            held = [(len(part.records), part.nbytes) for part in self._partitions]
        return Description(self.topic, extents, sum([n for n, _ in held]), sum([size for _, size in held]))

    def end(self) -> None:
        """It was deleted: who waits is told."""
        with self._changed:
            self.gone = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Have who waits look whether it is wanted."""
        with self._changed:
            self._changed.notify_all()

    def _there(self) -> None:
        if self.gone:
            raise TopicNotFound(f"Topic {self.topic.name} was deleted.")

    def _group(self, name: str) -> Group:
        self._there()
        group = self._groups.get(name)
        if group is None:
            raise TopicNotFound(f"Topic {self.topic.name} has no group {name!r}: it was deleted.")
        return group


def same_topic(known: Topic, wanted: Topic) -> Topic:
    """The topic that exists, if it can serve for the one that is wanted."""
    if wanted.partitions not in (1, known.partitions):
        raise ConfigurationError(f"Topic {known.name} has {known.partitions} partitions, not {wanted.partitions}.")
    return known
