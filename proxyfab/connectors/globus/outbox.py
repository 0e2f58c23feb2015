"""Outbox: which objects go with which task, and when. Decides and does no I/O; the clock is the caller's.

Promises: objects of one lane (from a collection to another; from nowhere for deletions) ride together. A lane is due
when it holds so many `objects` or `nbytes`, when its first has waited `linger` seconds, or when somebody waits for it;
and only while fewer than two of its tasks are under way, since the service works on three at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.connectors.globus.journal import Record
from proxyfab.connectors.globus.layout import Item

AT_ONCE = 2
LARGEST = 1000
"""Objects in one task."""


class Lane(NamedTuple):
    """From one collection to another."""

    source: str
    """`""` for a deletion."""
    target: str


class Limits(NamedTuple):
    """When a lane is due."""

    objects: int = LARGEST
    nbytes: int = 256 * 2**20
    linger: float = 0.2


class _Load:
    __slots__ = ("hurry", "items", "since")

    def __init__(self, since: float) -> None:
        self.items: dict[Item, int] = {}
        self.since = since
        self.hurry = False


class Outbox:
    """What waits to be sent. Not thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loads: dict[Lane, _Load] = {}

    def __len__(self) -> int:
        return sum(len(load.items) for load in self._loads.values())

    def add(self, lane: Lane, items: dict[Item, int], now: float, *, hurry: bool = False) -> None:
        """Objects and their sizes."""
        load = self._loads.setdefault(lane, _Load(now))
        load.items |= items
        load.hurry |= hurry

    def hurry(self) -> None:
        """Somebody waits for all of it."""
        for load in self._loads.values():
            load.hurry = True

    def withdraw(self, item: Item) -> None:
        """An object need not be sent any more."""
        for lane in [lane for lane in self._loads if lane.source]:
            self._loads[lane].items.pop(item, None)
            if not self._loads[lane].items:
                del self._loads[lane]

    def due(self, now: float, busy: Sequence[Lane]) -> tuple[Lane, list[Item]] | None:
        """The next load, which is taken out; None when none is due."""
        for lane, load in self._loads.items():
            if self._at(load) <= now and busy.count(lane) < AT_ONCE:
                taken = list(load.items)[: self._limits.objects]
                for item in taken:
                    del load.items[item]
                if not load.items:
                    del self._loads[lane]
                return lane, taken
        return None

    def next(self, busy: Sequence[Lane]) -> float | None:
        """When the next is due; None when nothing waits that could go."""
        return min((self._at(load) for lane, load in self._loads.items() if busy.count(lane) < AT_ONCE), default=None)

    def _at(self, load: _Load) -> float:
        full = len(load.items) >= self._limits.objects or sum(load.items.values()) >= self._limits.nbytes
        return 0.0 if full or load.hurry else load.since + self._limits.linger


class Owed(NamedTuple):
    """What a journal says is still to be done."""

    waiting: dict[Lane, dict[Item, int]]
    sent: list[Record]
    """Submissions that are not over, each with `task` when it is known."""


def read(records: Sequence[Record]) -> Owed:
    """The state that a journal's lines lead to."""
    waiting: dict[Lane, dict[Item, int]] = {}
    sent: dict[str, Record] = {}
    for record in records:
        if "put" in record:
            lane = waiting.setdefault(Lane(*record["lane"]), {})
            lane |= {Item(space, id): nbytes for space, id, nbytes in record["put"]}
        elif "done" in record:
            sent.pop(record["done"], None)
        elif "task" in record:
            sent.get(record["sid"], {})["task"] = record["task"]
        elif "sid" in record:
            sent[record["sid"]] = dict(record)
            for space, id in record["items"]:
                waiting.get(Lane(*record["lane"]), {}).pop(Item(space, id), None)
    return Owed({lane: items for lane, items in waiting.items() if items}, list(sent.values()))
