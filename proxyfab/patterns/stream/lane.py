"""One partition of an ordered group, at the member that reads it: what waits, what is begun, what is tried again.

Where offsets have no gaps, what comes must be the very next one. Where they have, its serial must be: then a lane is
clear, and whatever comes may be handed out. A serial that is not the next one means that something was delivered and
lost on its way, or that the broker was started again and knows less than it did; the lane is not clear any more.

What waits here behind something that is blocked may be too much. The last of it is shed then: given back, to come again
later; and what came after it waits for it.

Promises: bookkeeping only; whoever uses a lane holds the lock of all (`lanes.Lanes`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from proxyfab.events.model import GroupInfo
from proxyfab.patterns.stream.claiming import Claims
from proxyfab.patterns.stream.hand import Hand
from proxyfab.patterns.stream.item import Item

_SHED = 20.0
"""Seconds that what there is no room for is left to the broker at most: another one may read its partition by then."""
_APART = 1e-4
"""Seconds between what comes again from two offsets."""


class Lane:
    """One partition's frames.

    Args:
        life: Of our claims, in which it became ours.
        expected: The offset that comes next, where they have no gaps.
        serial: Of the last delivery, if nobody else owes anything of it and offsets have gaps.
    """

    def __init__(self, life: int, expected: int, serial: int | None = None) -> None:
        self.waiting: list[tuple[int, int, Hand]] = []
        self.again: list[tuple[tuple[int, int], float, Item]] = []
        self.items: Iterator[Item] = iter(())
        self.head: Item | None = None
        self.hand: Hand | None = None
        """The frame that was opened last."""
        self.life = life
        self.expected = expected
        self._serial = serial
        self.since = 0.0
        """Since when it waits for what others owe."""
        self._shed: set[int] = set()
        self._first_shed: list[int] = []
        """A heap of the same, of which some may have come again."""
        self.lost = False
        """Whether it is not read any more."""

    @property
    def clear(self) -> bool:
        """Whether all that was delivered before what waits is here or done, where offsets have gaps."""
        return self._serial is not None

    def came(self, serial: int, offset: int) -> None:
        """Something was delivered, in the order of all that is."""
        self._serial = serial if self._serial is not None and serial == self._serial + 1 else None
        self._shed.discard(offset)

    def shed(self, now: float, frames: int, nbytes: int) -> list[tuple[float, Hand]]:
        """What waits beyond so much, but for the first of it, and when it may come again: in its order, about.

        It is not here any more, but to be given back.
        """
        due = now + (min(self.due(now), _SHED) if self.again else 0.0)
        self.waiting = sorted([each for each in self.waiting if not each[2].replaced])  # a sorted list is a heap
        kept, held = 0, 0
        for _, _, hand in self.waiting:
            held += len(hand.delivery.body)
            if kept and (kept >= frames or held > nbytes):
                break
            kept += 1
        gone = self.waiting[kept:]
        del self.waiting[kept:]
        for offset, _, _ in gone:
            self._shed.add(offset)
            heapq.heappush(self._first_shed, offset)
        return [(due + min(_APART * (offset - self.expected), _SHED), hand) for offset, _, hand in gone]

    @property
    def first_shed(self) -> float:
        """The lowest offset that was shed and has not come again; infinity for none."""
        while self._first_shed and self._first_shed[0] not in self._shed:
            heapq.heappop(self._first_shed)
        return self._first_shed[0] if self._first_shed else float("inf")

    def begun(self) -> bool:
        """Whether there are more items of the frame that was opened last."""
        if self.head is None:
            self.head = next(self.items, None)
        return self.head is not None

    def stuck(self) -> bool:
        """Whether what waits here comes after something that others may owe, or that was shed."""
        if not self.waiting or self.again:
            return False
        return self.waiting[0][0] > (self.first_shed if self.clear else self.expected)

    def blocked(self, now: float) -> bool:
        """Whether what waits here has to wait for something else."""
        return self.again[0][1] > now if self.again else self.stuck()

    def sheds(self, now: float) -> bool:
        """Whether what waits here waits for what lies in this process, or was shed by it: not for what others owe."""
        return self.blocked(now) and bool(self.again or self._shed)

    @property
    def nbytes(self) -> int:
        """Of what waits."""
        return sum([len(hand.delivery.body) for _, _, hand in self.waiting])

    def due(self, now: float) -> float:
        """Seconds until something that is given back may come."""
        return max(0.0, self.again[0][1] - now) if self.again else float("inf")

    def tried(self) -> set[Hand]:
        """Frames of which something waits to be tried again, and the one that is amid being handed out."""
        found = {item._hand for _, _, item in self.again}
        return found if self.hand is None else {*found, self.hand}

    def lift(self, serial: int | None = None) -> None:
        """Nobody owes what would come first; nor anything up to a delivery, where it is said."""
        if self.waiting:
            self.expected = max(self.expected, self.waiting[0][0])
        self._serial, self.since = serial, 0.0
        self._shed.clear()


class Run:
    """Items of one lane, as long as none of them is given back, and the lane is ours."""

    def __init__(self, lane: Lane, claims: Claims) -> None:
        self._lane = lane
        self._claims = claims

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        lane = self._lane
        if lane.again or lane.lost or not self._claims.live(lane.life):
            raise StopIteration
        head, lane.head = lane.head, None
        return next(lane.items) if head is None else head


def serial_of(info: GroupInfo, partition: int) -> int | None:
    """Of the last delivery of a partition; None where deliveries have none."""
    return None if info.reached is None else info.reached[partition].serial


def nothing_missing(info: GroupInfo, partition: int, held: Sequence[int]) -> bool:
    """Whether, of all that was delivered, nobody owes anything but what we have; `held` are the offsets of that.

    What we have and the broker has not delivered, as it tells, came from a server that did not live to write it down.
    """
    if info.reached is None or info.owed is None:
        return False
    reached = info.reached[partition].offset
    return info.owed.get(partition, 0) <= sum([offset <= reached for offset in held])


def all_here(info: GroupInfo, partition: int, first: int, held: Sequence[int], all_held: int) -> bool:
    """Whether nobody else owes what comes before `first`, the offset that waits; `held` are those that we have."""
    floor = info.floor.get(partition, 0)
    if first - floor - 1 <= sum([floor < offset < first for offset in held]):
        return True
    if info.reached is not None:
        return False
    return info.pending <= all_held if info.owed is None else info.owed.get(partition, 0) <= len(held)
