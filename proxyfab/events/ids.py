"""Ids that were taken lately, and what for. No lock of its own."""

from __future__ import annotations

from collections import deque

from proxyfab.events.model import Position

MOST = 1 << 20
"""Ids that a topic remembers at most, however long its window: beyond that the oldest are forgotten."""


class Window:
    """Belongs to a log.

    Args:
        seconds: For how long an id is known.
    """

    __slots__ = ("_order", "_seconds", "_taken")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._taken: dict[str, Position] = {}
        self._order: deque[tuple[float, str]] = deque()

    def get(self, name: str) -> Position | None:
        """Where the record of this id lies, if it was taken within the window."""
        return self._taken.get(name)

    def add(self, name: str, position: Position, now: float) -> None:
        """It was taken."""
        self._taken[name] = position
        self._order.append((now, name))

    def forget(self, now: float) -> None:
        """Let go of what lies behind the window."""
        order, oldest = self._order, now - self._seconds
        while order and (order[0][0] < oldest or len(order) > MOST):
            del self._taken[order.popleft()[1]]
