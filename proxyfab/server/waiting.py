"""Waiters: who waits for which object, and until when. Woken by the publishing itself, so nobody polls."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from proxyfab.server.index import Name

Wake = Callable[[bool], None]
_SPARE = 1000


class Waiters:
    """Belongs to one thread; times are monotonic seconds and are passed in."""

    def __init__(self) -> None:
        self._by_name: dict[Name, dict[int, Wake]] = {}
        self._deadlines: list[tuple[float, int, Name]] = []
        self._most = _SPARE
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return sum(len(waiters) for waiters in self._by_name.values())

    def add(self, name: Name, wake: Wake, deadline: float | None) -> Callable[[], None]:
        """Call `wake(True)` when the object is there, or `wake(False)` at the deadline; returns what stops it."""
        number = next(self._numbers)
        self._by_name.setdefault(name, {})[number] = wake
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, number, name))
            if len(self._deadlines) > self._most:  # those that were told have left theirs behind
                self._deadlines = [item for item in self._deadlines if item[1] in self._by_name.get(item[2], {})]
                heapq.heapify(self._deadlines)
                self._most = 2 * len(self._deadlines) + _SPARE
        return lambda: self._drop(name, number)

    def tell(self, name: Name) -> None:
        """The object is there."""
        for wake in self._by_name.pop(name, {}).values():
            wake(True)

    def next(self) -> float | None:
        """When the next deadline is; None without one."""
        while self._deadlines and self._deadlines[0][1] not in self._by_name.get(self._deadlines[0][2], {}):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> None:
        """Tell those whose deadline has passed."""
        while (deadline := self.next()) is not None and deadline <= now:
            _, number, name = heapq.heappop(self._deadlines)
            wake = self._by_name[name].get(number)
            self._drop(name, number)
            if wake is not None:
                wake(False)

    def _drop(self, name: Name, number: int) -> None:
        waiters = self._by_name.get(name, {})
        waiters.pop(number, None)
        if not waiters:
            self._by_name.pop(name, None)
