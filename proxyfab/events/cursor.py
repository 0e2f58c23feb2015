"""A group's way through a topic in memory: what it has fetched, owes and gets again. No lock of its own."""

from __future__ import annotations

import heapq
import itertools
from typing import TypeAlias


class Owed:
    """A record that a member has fetched."""

    __slots__ = ("attempt", "deadline", "member")

    def __init__(self, member: int, deadline: float, attempt: int) -> None:
        self.member = member
        self.deadline = deadline
        self.attempt = attempt


Spot: TypeAlias = "tuple[int, int]"
"""Partition and offset."""


class Group:
    """Belongs to a log, under whose lock it is used."""

    def __init__(self, cursors: dict[int, int]) -> None:
        self.cursors = cursors
        self.owed: dict[Spot, Owed] = {}
        self.due: list[tuple[float, Spot]] = []
        """A heap of what was returned."""
        self.returned: dict[Spot, tuple[float, int, bytes]] = {}
        """When it is due, how often it was delivered, and what was noted."""

    def give_back(self, spot: Spot, when: float, attempt: int, note: bytes) -> None:
        self.owed.pop(spot, None)
        self.returned[spot] = when, attempt, note
        heapq.heappush(self.due, (when, spot))

    def expire(self, now: float) -> None:
        for spot in [spot for spot, owed in self.owed.items() if owed.deadline <= now]:
            self.give_back(spot, now, self.owed[spot].attempt, b"")

    def floor(self) -> dict[int, int]:
        floor = {partition: cursor - 1 for partition, cursor in self.cursors.items()}
        for partition, offset in itertools.chain(self.owed, self.returned):
            floor[partition] = min(floor[partition], offset - 1)
        return floor

    def next_change(self) -> float:
        return min([*(owed.deadline for owed in self.owed.values()), *(when for when, _ in self.due[:1])], default=1e18)
