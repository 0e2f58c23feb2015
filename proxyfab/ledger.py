"""Ledger: what lies in a fast place with a limit and what in the slow one behind it, in bytes. No I/O.

Rules:
1. What is about to be put takes its room first (`claim` against the quota, `enter` against the limit) and gives it
   back if the put fails, so that puts at once never exceed a bound together.
2. Who must make room asks for a `victim`, the least recently used object, and for the next one if it is on the move.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from proxyfab.fork import on_fork


class Room:
    """Bytes for one put, as far as they were taken; settled with it or given back."""

    __slots__ = ("claimed", "fast", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.claimed = False
        """Of the quota."""
        self.fast = False
        """Of the fast place."""


class Ledger:
    """Thread-safe and fork-safe; its lock is held for dict operations only.

    Args:
        limit: Bytes that may lie in the fast place.
        quota: Bytes that may lie in both; None for any number.
    """

    def __init__(self, limit: int, quota: int | None) -> None:
        self.limit = limit
        self.quota = quota
        self.fast: OrderedDict[str, int] = OrderedDict()
        self.slow: dict[str, int] = {}
        self.fast_bytes = 0
        self.slow_bytes = 0
        self._claimed = 0
        self._entering = 0
        self._reads: dict[str, int] = {}
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may end somebody who puts or evicts
        on_fork(self)

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self._lock = threading.RLock()

    def is_held_here(self) -> bool:
        """Whether this very thread is inside, and so a finalizer asks that garbage collection runs there: it must not
        wait for a thread that may want to come in.
        """
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # what threading.Condition asks, too

    # -- room --------------------------------------------------------------------------------------------------------

    def claim(self, room: Room, id: str | None = None) -> bool:
        """Take a room's bytes of the quota, what lies under `id` being replaced; False where they are not left."""
        with self._lock:
            old = self.fast.get(id, 0) + self.slow.get(id, 0) if id is not None else 0
            total = self.fast_bytes + self.slow_bytes + self._claimed - old + room.nbytes
            if self.quota is not None and total > self.quota:
                return False
            self._claimed, room.claimed = self._claimed + room.nbytes, True
        return True

    def enter(self, room: Room) -> bool:
        """Take a room's bytes of the fast place; False where they are not left."""
        with self._lock:
            if self.fast_bytes + self._entering + room.nbytes > self.limit:
                return False
            self._entering, room.fast = self._entering + room.nbytes, True
        return True

    def end(self, room: Room) -> None:
        """Give a room's bytes back, if it has them."""
        with self._lock:
            self._end(room)

    def _end(self, room: Room) -> None:
        # No call in between: an interrupt leaves the room and the sums in agreement.
        if room.claimed:
            self._claimed, room.claimed = self._claimed - room.nbytes, False
        if room.fast:
            self._entering, room.fast = self._entering - room.nbytes, False

    def victim(self, skip: Collection[str] = ()) -> str | None:
        """The least recently used object of the fast place that is not in `skip`."""
        with self._lock:
            while True:
                try:
                    return next((id for id in self.fast if id not in skip), None)
                except RuntimeError:  # what garbage collection ended came in between
                    continue

    # -- what lies where ---------------------------------------------------------------------------------------------

    def note(self, id: str, *, fast: int | None, slow: int | None) -> None:
        """From now on so many bytes lie under `id` in each place; None for nothing."""
        with self._lock:
            self._note(id, fast, slow)

    def _note(self, id: str, fast: int | None, slow: int | None) -> None:
        # No call in here: an interrupt, and what garbage collection ends, comes before all of it or behind.
        self.fast_bytes += (fast or 0) - (self.fast[id] if id in self.fast else 0)  # noqa: SIM401 - as said
        self.slow_bytes += (slow or 0) - (self.slow[id] if id in self.slow else 0)  # noqa: SIM401 - as said
        read = id in self._reads and (fast is not None or slow is None)
        if id in self.fast:
            del self.fast[id]
        if fast is not None:
            self.fast[id] = fast
        if id in self.slow:
            del self.slow[id]
        if slow is not None:
            self.slow[id] = slow
        if read:
            del self._reads[id]

    def settle(self, id: str, room: Room) -> None:
        """A put into a room has succeeded; the object lies nowhere else."""
        with self._lock:
            fast, slow = (room.nbytes, None) if room.fast else (None, room.nbytes)
            self._end(room)
            self._note(id, fast, slow)

    def touch(self, found: dict[str, int]) -> None:
        """Objects of so many bytes were read from the fast place just now."""
        with self._lock:
            for id, nbytes in found.items():
                if id in self.fast:
                    self.fast.move_to_end(id)
                else:  # put by somebody else, or by who was interrupted then
                    self._note(id, nbytes, self.slow.get(id))

    def wanted_back(self, id: str) -> bool:
        """Note a read from the slow place; whether it is the second since the object got there."""
        with self._lock:
            if id not in self.slow or id in self.fast:
                return False
            self._reads[id] = self._reads.get(id, 0) + 1
            return self._reads[id] > 1

    def found(self, fast: dict[str, int], slow: dict[str, int], known: tuple[Collection[str], Collection[str]]) -> None:
        """Correct by what was just listed: add what was not known; drop what was `known` before and is not there."""
        with self._lock:
            for id in set(known[0]) | set(known[1]) | set(fast) | set(slow):
                here = fast.get(id) if id in known[0] else self.fast.get(id, fast.get(id))
                there = slow.get(id) if id in known[1] else self.slow.get(id, slow.get(id))
                if (here, there) != (self.fast.get(id), self.slow.get(id)):
                    self._note(id, here, there)

    def known(self) -> tuple[list[str], list[str]]:
        """The ids in the fast and in the slow place, for `found`."""
        with self._lock:
            return list(self.fast), list(self.slow)
