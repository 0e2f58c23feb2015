"""What upkeep says of what it saw and did, and how it shows where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Report(NamedTuple):
    """What upkeep saw and did."""

    pieces: int = 0
    """Objects, or segments of large ones."""
    shards: int = 0
    missing: int = 0
    """Shards that should be there."""
    broken: int = 0
    restored: int = 0
    unrestored: int = 0
    """Shards that lack still, of what can be read."""
    moved: int = 0
    strays: int = 0
    """Contents that nobody means."""
    lost: tuple[str, ...] = ()
    """Ids of pieces with fewer than k shards."""
    failures: tuple[str, ...] = ()

    def plus(self, other: Report) -> Report:
        """Both together."""
        summed = {name: getattr(self, name) + getattr(other, name) for name in self._fields}
        return Report(**summed)


Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def quietly(items: Iterable[Any], _: int) -> Iterable[Any]:
    """No progress shown."""
    return items
