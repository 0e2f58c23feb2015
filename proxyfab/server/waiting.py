"""Waiters: who waits for which objects, and until when. Woken by the publishing itself, so nobody polls."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence

from proxyfab.server.index import Name

Wake = Callable[["Name | None"], None]
"""Is told which object is there, or None when the time is over; once."""
_SPARE = 1000


class Waiters:
    """Belongs to one thread; times are monotonic seconds and are passed in."""

    def __init__(self) -> None:
        self._by_name: dict[Name, dict[int, Wake]] = {}
        self._names: dict[int, Sequence[Name]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._most = _SPARE
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: Sequence[Name], wake: Wake, deadline: float | None) -> Callable[[], None]:
        """Call `wake` when one of the objects is there, or at the deadline; returns what stops it."""
        number = next(self._numbers)
        self._names[number] = names
        for name in names:
            self._by_name.setdefault(name, {})[number] = wake
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, number))
            if len(self._deadlines) > self._most:  # those that were told have left theirs behind
                self._deadlines = [item for item in self._deadlines if item[1] in self._names]
                heapq.heapify(self._deadlines)
                self._most = 2 * len(self._deadlines) + _SPARE
        return lambda: self._drop(number)

    def tell(self, name: Name) -> None:
        """The object is there."""
        for number, wake in list(self._by_name.get(name, {}).items()):
            self._drop(number)
            wake(name)

    def next(self) -> float | None:
        """When the next deadline is; None without one."""
        while self._deadlines and self._deadlines[0][1] not in self._names:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> None:
        """Tell those whose deadline has passed."""
        while (deadline := self.next()) is not None and deadline <= now:
            number = heapq.heappop(self._deadlines)[1]
            wake = self._by_name[self._names[number][0]][number]
            self._drop(number)
            wake(None)

    def _drop(self, number: int) -> None:
        for name in self._names.pop(number, ()):
            waiters = self._by_name.get(name, {})
            waiters.pop(number, None)
            if not waiters:
                self._by_name.pop(name, None)
