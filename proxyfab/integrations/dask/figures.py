"""What the transport of one process has done so far, counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from proxyfab.fork import on_fork

COUNTED = (
    "lent",
    "lent_bytes",
    "published",
    "published_bytes",
    "received",
    "received_bytes",
    "lost",
    "fallbacks",
)
"""Objects that a peer was to copy out of this process's memory, those that were put into shared memory for a peer,
those that were taken from a peer's, those that a peer announced and that were not there, and those that went by Dask's
own frames though shared memory was meant for them."""


class Figures:
    """Counts. Thread-safe; a forked child counts anew."""

    def __init__(self) -> None:
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """The child has done nothing yet."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, nbytes: int | None = None) -> None:
        """One more of these, of so many bytes."""
        with self._lock:
            self._counts[name] += 1
            if nbytes is not None:
                self._counts[f"{name}_bytes"] += nbytes

    def told(self) -> dict[str, int]:
        """All of them."""
        with self._lock:
            return {name: self._counts[name] for name in COUNTED}


def total(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sums, name by name."""
    found: Counter[str] = Counter()
    for one in each:
        found.update(one)
    return dict(found)
