"""Who works and which nodes are left alone, as values beside the tasks' topic that all workers and executors see."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from msgpack import packb, unpackb

from proxyfab.errors import Conflict
from proxyfab.events.broker import State
from proxyfab.events.model import Kept
from proxyfab.patterns.resilient.failures import Crew, Quarantine
from proxyfab.patterns.resilient.task import Past

_TRIES = 20
_REMEMBERED = 7 * 86400.0
_SEEN = "seen"


class Worker(NamedTuple):
    """A worker, as it shows itself.

    Attributes:
        id: Its own.
        node: The machine, or what its starter calls it.
        pool: Which of several groups of workers.
        pid: Its process.
        task: What it is at; "" for nothing.
        done: Tasks that it has finished.
        failed: Tasks that failed with it.
        since: When it began, seconds since 1970.
    """

    id: str
    node: str
    pool: str
    pid: int
    task: str = ""
    done: int = 0
    failed: int = 0
    since: float = 0.0


class Roll:
    """The roll of one executor's workers and nodes. Thread-safe.

    Args:
        state: Beside the tasks' topic.
        quarantine: When a node is left alone.
    """

    def __init__(self, state: State, quarantine: Quarantine) -> None:
        self._state = state
        self._quarantine = quarantine

    # -- workers -----------------------------------------------------------------------------------------------------

    def show(self, worker: Worker, ttl: float) -> None:
        """Be seen for `ttl` seconds."""
        self._state.put(f"workers/{worker.id}", packb(tuple(worker)), ttl=ttl)

    def leave(self, worker: Worker) -> None:
        """Be seen no more."""
        self._state.delete(f"workers/{worker.id}")

    def workers(self) -> list[Worker]:
        """All that are seen."""
        return [Worker(*unpackb(kept.value)) for kept in self._state.items("workers/").values()]

    def crew(self) -> Crew:
        """The nodes and pools that work and are not left alone."""
        there = self.workers()
        nodes = {worker.node for worker in there}
        nodes -= {node for node in nodes if self.left_alone(node) > 0}
        return Crew(frozenset(nodes), frozenset(worker.pool for worker in there if worker.node in nodes))

    # -- executors ---------------------------------------------------------------------------------------------------

    def present(self, executor: str, ttl: float, *, alone: bool = False) -> None:
        """An executor is there for `ttl` seconds more; `alone` if nobody else knows of its topic."""
        self._state.put(f"executors/{executor}", b"", ttl=ttl)
        if alone:
            self._state.put(_SEEN, packb(time.time()))

    def last_seen(self) -> float | None:
        """Seconds since 1970 when an executor that is alone was there last; None where there was none, or it is now."""
        kept = self._state.get(_SEEN)
        return None if kept is None or self._state.items("executors/") else float(unpackb(kept.value))

    def is_present(self, executor: str) -> bool:
        """Whether it is there."""
        return self._state.get(f"executors/{executor}") is not None

    def absent(self, executor: str) -> None:
        """It has ended."""
        self._state.delete(f"executors/{executor}")

    # -- nodes -------------------------------------------------------------------------------------------------------

    def left_alone(self, node: str) -> float:
        """For how many seconds more a node gets no tasks."""
        return max(0.0, self._quarantine.until(_faults(self._state.get(_name(node)))) - time.time())

    def fault(self, node: str) -> float:
        """Count a fault of a node; for how many seconds it is left alone now."""
        for _ in range(_TRIES):
            kept = self._state.get(_name(node))
            now = time.time()
            faults = [*self._quarantine.kept(_faults(kept), now), now]
            ttl = self._quarantine.window + self._quarantine.seconds
            try:
                self._state.put(_name(node), packb(faults), revision=0 if kept is None else kept.revision, ttl=ttl)
            except Conflict:
                continue
            return max(0.0, self._quarantine.until(faults) - now)
        return 0.0

    def pardon(self, node: str) -> None:
        """Forget a node's faults."""
        self._state.delete(_name(node))

    # -- who is at what ----------------------------------------------------------------------------------------------

    def past(self, task: str) -> Past:
        """What has become of a task."""
        kept = self._state.get(f"tasks/{task}")
        return Past() if kept is None else Past.unpack(kept.value)

    def remember(self, task: str, past: Past) -> None:
        """For who gets it next: should a worker die, that one sees where."""
        self._state.put(f"tasks/{task}", past.pack(), ttl=_REMEMBERED)

    def forget(self, task: str) -> None:
        """It is done."""
        self._state.delete(f"tasks/{task}")


def _faults(kept: Kept | None) -> list[float]:
    found: Any = [] if kept is None else unpackb(kept.value)
    return [float(moment) for moment in found]


def _name(node: str) -> str:
    """A node's name as a value's: what else it holds is written as its code."""
    return "nodes/" + "".join(each if each.isalnum() and each.isascii() else f"={ord(each):x}" for each in node)[:150]
