"""A partition in memory: records in order, the oldest dropped first. No lock of its own."""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from typing import NamedTuple

from proxyfab.events.model import Record

_COMPACT = 1024


class Entry(NamedTuple):
    """A record and when it was taken, in seconds since 1970."""

    record: Record
    time: float


class Partition:
    """Records by offset.

    Attributes:
        base: Offset of the oldest one; that of the next one when there is none.
        nbytes: Bytes of their bodies.
    """

    __slots__ = ("_entries", "_gone", "base", "nbytes")

    def __init__(self) -> None:
        self.base = 1
        self.nbytes = 0
        self._entries: list[Entry | None] = []
        self._gone = 0
        """How many at the beginning of the list were dropped: it is cut once in a while, not each time."""

    def __len__(self) -> int:
        return len(self._entries) - self._gone

    @property
    def last(self) -> int:
        """Offset of the newest record there ever was; 0 for none."""
        return self.base + len(self._entries) - self._gone - 1

    def append(self, record: Record, now: float) -> int:
        """Take a record; its offset."""
        self._entries.append(Entry(record, now))
        self.nbytes += len(record.body)
        return self.last

    def get(self, offset: int) -> Entry | None:
        """What lies there; None when it was dropped, or is not there yet."""
        place = offset - self.base + self._gone
        return self._entries[place] if self._gone <= place < len(self._entries) else None

    @property
    def oldest(self) -> Entry | None:
        """The oldest record."""
        return self._entries[self._gone] if self._gone < len(self._entries) else None

    def drop(self) -> int:
        """Drop the oldest record, which there has to be; its bytes."""
        entry = self._entries[self._gone]
        assert entry is not None
        self._entries[self._gone] = None
        self._gone += 1
        self.base += 1
        nbytes = len(entry.record.body)
        self.nbytes -= nbytes
        if self._gone >= _COMPACT and 2 * self._gone >= len(self._entries):
            del self._entries[: self._gone]
            self._gone = 0
        return nbytes

    def since(self, moment: float) -> int:
        """The offset of the first record that is not older."""
        place = bisect_left(self._entries, moment, self._gone, key=attrgetter("time"))
        return self.base + place - self._gone
