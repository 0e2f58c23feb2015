"""Ledger: what lies in a fast place with a limit and what in the slow one behind it, in bytes. No I/O.

Rules:
1. What is about to be put takes its room first (`claim` against the quota, `enter` against the limit) and gives it
   back if the put fails, so that puts at once never exceed a bound together.
2. Who must make room asks for a `victim`: the least recently used object that nobody else is moving.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from proxyfab.fork import on_fork


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
        self._leaving: set[str] = set()
        self._reads: dict[str, int] = {}
        self._lock = threading.Lock()
        on_fork(self)

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self._lock = threading.Lock()

    # -- room --------------------------------------------------------------------------------------------------------

    def claim(self, nbytes: int, id: str | None = None) -> bool:
        """Take `nbytes` of the quota, what lies under `id` being replaced; False where they are not left."""
        with self._lock:
            old = self.fast.get(id, 0) + self.slow.get(id, 0) if id is not None else 0
            total = self.fast_bytes + self.slow_bytes + self._claimed - old + nbytes
            if self.quota is not None and total > self.quota:
                return False
            self._claimed += nbytes
        return True

    def enter(self, nbytes: int) -> bool:
        """Take `nbytes` of the fast place; False where they are not left."""
        with self._lock:
            if self.fast_bytes + self._entering + nbytes > self.limit:
                return False
            self._entering += nbytes
        return True

    def give_back(self, nbytes: int, *, claimed: bool, entered: bool) -> None:
        """End a claim, or an entry, of `nbytes`."""
        with self._lock:
            self._claimed -= nbytes if claimed else 0
            self._entering -= nbytes if entered else 0

    def victim(self, skip: Collection[str] = ()) -> str | None:
        """The least recently used object of the fast place, from now on leaving; None when all are on the move."""
        with self._lock:
            for id in self.fast:
                if id not in self._leaving and id not in skip:
                    self._leaving.add(id)
                    return id
        return None

    def stay(self, id: str) -> None:
        """What was a victim is not moved any more; it has gone, or was left where it is."""
        with self._lock:
            self._leaving.discard(id)

    # -- what lies where ---------------------------------------------------------------------------------------------

    def note(self, id: str, *, fast: int | None, slow: int | None) -> None:
        """From now on so many bytes lie under `id` in each place; None for nothing."""
        with self._lock:
            self._note(id, fast, slow)

    def _note(self, id: str, fast: int | None, slow: int | None) -> None:
        self.fast_bytes += (fast or 0) - self.fast.pop(id, 0)
        self.slow_bytes += (slow or 0) - self.slow.pop(id, 0)
        if fast is not None:
            self.fast[id] = fast
            self._reads.pop(id, None)
        if slow is not None:
            self.slow[id] = slow
        else:
            self._reads.pop(id, None)

    def settle(self, id: str, nbytes: int, *, fast: bool) -> None:
        """A put of what was claimed (and, if `fast`, entered) has succeeded; it lies nowhere else."""
        with self._lock:
            self._claimed -= nbytes
            if fast:
                self._entering -= nbytes
                self._note(id, nbytes, None)
            else:
                self._note(id, None, nbytes)

    def touch(self, ids: Collection[str]) -> None:
        """These were read from the fast place just now."""
        with self._lock:
            for id in ids:
                if id in self.fast:
                    self.fast.move_to_end(id)

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
