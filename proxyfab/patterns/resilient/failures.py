"""What to do about a task that failed: pure policy, in the classes of WRATH (arXiv 2503.12752).

A fault of the task itself fails it at once, wherever it runs. A fault of what is around it (memory, disk, network, a
missing package, a worker's death) says nothing about the task: it is tried again, first anywhere, then on another node,
then in another pool. A node on which such faults gather is left alone for a while.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.errors import (
    AccessDenied,
    CapacityError,
    ConnectorError,
    IntegrityError,
    KeyNotFound,
    MissingDependency,
    ResolveTimeout,
)

_AROUND = (
    MemoryError,
    OSError,
    ImportError,
    ConnectorError,
    ResolveTimeout,
    CapacityError,
    IntegrityError,
    MissingDependency,
    AccessDenied,
)
_OF_TASK = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, KeyNotFound)


class Failure(enum.Enum):
    """Whose fault it was."""

    TASK = "task"
    AROUND = "around"
    LOST = "lost"
    """Its worker died, or fell silent for its lease."""


class History(NamedTuple):
    """What has become of a task so far. Travels with it."""

    failures: int = 0
    """Of what is around it; losses are counted by the broker."""
    nodes: tuple[str, ...] = ()
    """Where it failed, the last one last."""
    pools: tuple[str, ...] = ()

    def failed(self, node: str, pool: str) -> History:
        """With one failure more."""
        return History(self.failures + 1, (*self.nodes, node)[-_KEPT:], (*self.pools, pool)[-_KEPT:])


_KEPT = 6


class Retries(NamedTuple):
    """How often, and when, a task is tried again.

    Attributes:
        times: Attempts after the first one, whatever for.
        pause: Seconds before the second attempt; each further one waits twice as long.
        longest: Seconds of a pause at most.
        transient: Exceptions of the task that are to count as faults of what is around it.
        fatal: Exceptions that never do.
    """

    times: int = 3
    pause: float = 0.1
    longest: float = 30.0
    transient: tuple[type[BaseException], ...] = ()
    fatal: tuple[type[BaseException], ...] = ()

    def failure(self, error: BaseException) -> Failure:
        """Whose fault an exception is."""
        if isinstance(error, self.fatal):
            return Failure.TASK
        if isinstance(error, self.transient):
            return Failure.AROUND
        if isinstance(error, _OF_TASK) and not isinstance(error, ConnectorError):
            return Failure.TASK
        return Failure.AROUND if isinstance(error, _AROUND) else Failure.TASK

    def delay(self, attempt: int) -> float | None:
        """Seconds until the next attempt after this one (1 is the first); None for no more."""
        if attempt > self.times:
            return None
        return float(min(self.pause * 2 ** (attempt - 1), self.longest))


class Crew(NamedTuple):
    """Who could run a task now, as far as is known."""

    nodes: frozenset[str]
    pools: frozenset[str]


def avoids(history: History, crew: Crew) -> tuple[frozenset[str], frozenset[str]]:
    """The nodes and the pools on which a task is not to be tried next: none that nobody could take the place of."""
    nodes = frozenset(history.nodes) if history.failures > 1 or _same(history.nodes) else frozenset(history.nodes[-1:])
    pools = frozenset(pool for pool in history.pools if history.pools.count(pool) > 1)
    return (nodes if crew.nodes - nodes else frozenset()), (pools if crew.pools - pools else frozenset())


def _same(names: Sequence[str]) -> bool:
    return len(names) > 1 and len(set(names)) == 1


class Quarantine(NamedTuple):
    """When a node is left alone.

    Attributes:
        failures: So many faults of what is around tasks, deaths included,
        window: within so many seconds,
        seconds: keep it from taking tasks for so long.
    """

    failures: int = 5
    window: float = 60.0
    seconds: float = 60.0

    def until(self, faults: Sequence[float]) -> float:
        """The moment up to which it is left alone, from the moments of its faults; 0 for not at all."""
        if len(faults) < self.failures:
            return 0.0
        last = sorted(faults)[-self.failures :]
        return last[-1] + self.seconds if last[-1] - last[0] <= self.window else 0.0

    def kept(self, faults: Sequence[float], now: float) -> list[float]:
        """The faults that still count."""
        return [moment for moment in faults if moment > now - self.window - self.seconds][-2 * self.failures :]
