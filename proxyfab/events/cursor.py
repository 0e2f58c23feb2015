"""A group's way through a topic in memory: what it has fetched, owes and gets again. No lock of its own.

Rules:
1. A record before the cursor is owed by a member until a moment, or returned and due at one, or acknowledged.
2. Every step is cheap, however much is owed: deadlines of one `ack_wait` fall due in the order in which they were set,
   so the first of each such queue is the next; the floor is the first of those fetched that is not acknowledged.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

Spot: TypeAlias = "tuple[int, int]"
"""Partition and offset."""
NEVER = float("inf")


class Owed:
    """A record that a member has fetched."""

    __slots__ = ("attempt", "deadline", "member", "note", "wait")

    def __init__(self, member: int, deadline: float, wait: float, attempt: int, note: bytes) -> None:
        self.member = member
        self.deadline = deadline
        self.wait = wait
        self.attempt = attempt
        self.note = note


class Returned(NamedTuple):
    """A record that comes again: when, how often it was delivered, and what was noted."""

    due: float
    attempt: int
    note: bytes


class Group:
    """Belongs to a log.

    Args:
        cursors: In each partition the offset that is fetched next.
    """

    def __init__(self, cursors: dict[int, int]) -> None:
        self.cursors = cursors
        self.turn = 0
        self._owed: dict[Spot, Owed] = {}
        self._queues: dict[float, dict[Spot, Owed]] = {}
        self._returned: dict[Spot, Returned] = {}
        self._due: list[tuple[float, Spot]] = []
        """A heap of what was returned; entries that are not in `_returned` any more are passed over."""
        self._fetched: dict[int, deque[int]] = {partition: deque() for partition in cursors}
        """Ascending offsets, of which the acknowledged ones go when they come first."""

    @property
    def pending(self) -> int:
        """Records that were fetched and are not acknowledged."""
        return len(self._owed) + len(self._returned)

    def counted(self) -> dict[int, int]:
        """The same in each partition that has any."""
        return dict(Counter([number for some in (self._owed, self._returned) for number, _ in some]))

    def lend(self, spot: Spot, member: int, now: float, wait: float, again: Returned | None = None) -> None:
        """A member has it until then, for the first time or again."""
        if again is None:
            self._fetched[spot[0]].append(spot[1])
            owed = Owed(member, now + wait, wait, 1, b"")
        else:
            owed = Owed(member, now + wait, wait, again.attempt + 1, again.note)
        self._owed[spot] = self._queues.setdefault(wait, {})[spot] = owed

    def owed(self, spot: Spot, member: int) -> Owed | None:
        """What a member still owes."""
        found = self._owed.get(spot)
        return found if found is not None and found.member == member else None

    def settle(self, spots: Iterable[Spot]) -> None:
        """They are done, whoever owes them now."""
        for spot in spots:
            owed = self._owed.pop(spot, None)
            if owed is not None:
                del self._queues[owed.wait][spot]
            else:
                self._returned.pop(spot, None)

    def extend(self, spot: Spot, owed: Owed, deadline: float, wait: float) -> None:
        """It is owed until then, counted from now."""
        del self._queues[owed.wait][spot]
        owed.deadline, owed.wait = deadline, wait
        self._queues.setdefault(wait, {})[spot] = owed

    def give_back(self, spot: Spot, when: float, note: bytes | None = None) -> None:
        """What is owed comes again; without a note with the one that it had."""
        owed = self._owed.pop(spot)
        del self._queues[owed.wait][spot]
        self._returned[spot] = Returned(when, owed.attempt, owed.note if note is None else note)
        heapq.heappush(self._due, (when, spot))

    def leave(self, member: int, now: float) -> None:
        """What a member owes comes again at once."""
        for spot in [spot for spot, owed in self._owed.items() if owed.member == member]:
            self.give_back(spot, now)

    def expire(self, now: float) -> None:
        """What was owed for too long comes again."""
        for wait, queue in list(self._queues.items()):
            while queue:
                spot, owed = next(iter(queue.items()))
                if owed.deadline > now:
                    break
                self.give_back(spot, now)
            if not queue:
                del self._queues[wait]

    def again(self, now: float, partitions: frozenset[int], most: int) -> list[tuple[Spot, Returned]]:
        """Up to `most` that are due in some partitions; whoever takes them lends them."""
        found: list[tuple[Spot, Returned]] = []
        others: list[tuple[float, Spot]] = []
        while self._due and self._due[0][0] <= now and len(found) < most:
            entry = heapq.heappop(self._due)
            spot = entry[1]
            known = self._returned.get(spot)
            if known is None or known.due != entry[0]:
                continue  # acknowledged meanwhile, or returned once more
            if spot[0] in partitions:
                del self._returned[spot]
                found.append((spot, known))
            else:
                others.append(entry)
        for entry in others:
            heapq.heappush(self._due, entry)
        return found

    def floor(self) -> dict[int, int]:
        """In each partition the offset up to which everything is done."""
        return {partition: self._floor(partition, cursor) for partition, cursor in self.cursors.items()}

    def _floor(self, partition: int, cursor: int) -> int:
        fetched, owed, returned = self._fetched[partition], self._owed, self._returned
        while fetched:
            spot = partition, fetched[0]
            if spot in owed or spot in returned:
                return fetched[0] - 1
            fetched.popleft()
        return cursor - 1

    def next_change(self, now: float) -> float:
        """When something comes again that is not due now; NEVER if nothing does."""
        ends = [next(iter(queue.values())).deadline for queue in self._queues.values() if queue]
        due = self._due[0][0] if self._due else NEVER
        return min(due if due > now else NEVER, *ends, NEVER)
