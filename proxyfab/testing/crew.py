"""The workers of a run: started, killed, stopped, and what a dead one was told is there, read and evicted after it."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from proxyfab.abc import SupportsReap, SupportsScan
from proxyfab.keys import Key
from proxyfab.testing.history import EVENTS, PUTS, ROSTER, Log, amid, read
from proxyfab.testing.nursery import Nursery
from proxyfab.testing.processes import DEADLINE, until
from proxyfab.testing.workload import Actor, Task

Work = Callable[[Task], None]
_FEW_LINES = 300


class Crew:
    """Processes that work on one place. One thread at a time.

    Args:
        where: Directory of the logs; made here.
        task: What workers are given, besides a name, a seed and that directory.
        nursery: Where they come from.
        seed: Of everything random here.

    Attributes:
        alive: Their process ids by name.
        early: Workers that ended by themselves, or did nothing, in words.
        kills: How many were killed.
        inside: How many of them inside a call.
        stops: How often one was stopped.
    """

    def __init__(self, where: Path, task: Task, nursery: Nursery, seed: int) -> None:
        where.mkdir(parents=True)
        self.where = where
        self.dice = random.Random(seed)
        self.alive: dict[str, int] = {}
        self.early: list[str] = []
        self.kills = self.inside = self.stops = 0
        self.events = Log(where, EVENTS)
        self._task = task._replace(directory=where)
        self._nursery = nursery
        self._seed = seed
        self._count = 0
        self._clock = threading.Event()
        self._auditor = Actor(self._for("auditor-0"))

    def _for(self, who: str, url: str = "") -> Task:
        return self._task._replace(who=who, url=url or self._task.url, seed=f"{self._seed}.{who}")

    def pause(self, longest: float, shortest: float = 0.0) -> None:
        """Wait for a random time."""
        self._clock.wait(self.dice.uniform(shortest, longest))

    def start(self, role: str, work: Work, url: str = "") -> None:
        """Start a worker; one whose role begins with `writer` may be read from and is audited."""
        self._count += 1
        who = f"{role}-{self._count}"
        self.alive[who] = self._nursery.start(work, self._for(who, url))
        names = [name for name in self.alive if name.startswith("writer")]
        (self.where / f"{ROSTER}.new").write_text(" ".join(names))
        os.replace(self.where / f"{ROSTER}.new", self.where / ROSTER)

    def pick(self, role: str = "") -> str:
        """One of them."""
        return self.dice.choice([name for name in self.alive if name.startswith(role)])

    def worked(self, who: str) -> None:
        """Wait until a worker has been answered a few times, so that it is a worker that is killed."""
        log = self.where / who
        if not until(lambda: log.exists() and log.stat().st_size > _FEW_LINES, DEADLINE):
            self.early.append(f"{who} did nothing for {DEADLINE} s")

    def kill(self, who: str) -> None:
        """SIGKILL; a writer's objects are then read and evicted."""
        pid = self.alive.pop(who)
        self.events.event("kill", who)
        os.kill(pid, signal.SIGKILL)
        status = self._nursery.reap(pid)
        self.kills += 1
        self.inside += amid(self.where / who)
        if status != -signal.SIGKILL:
            self.early.append(f"{who} ended by itself, with status {status}")
        if who.startswith("writer"):
            self._audit(who)

    def stop(self, who: str, longest: float) -> None:
        """SIGSTOP, and SIGCONT after a while in which the others go on."""
        self.stop_process(self.alive[who], who, longest)

    def stop_process(self, pid: int, who: str, longest: float) -> None:
        """The same for any process: a server."""
        self.events.event("stop", who)
        os.kill(pid, signal.SIGSTOP)
        self.pause(longest)
        os.kill(pid, signal.SIGCONT)
        self.events.event("continue", who)
        self.stops += 1

    def _audit(self, who: str) -> None:
        standing: dict[str, Key] = {}
        for record in read(self.where / who):
            if record.op in PUTS and record.definite:
                standing.update(zip(record.ids, map(Key.parse, record.results), strict=True))
            elif record.op in PUTS:
                standing = {**{id: Key(id) for id in record.ids}, **standing}
            elif record.op == "evict" and record.definite:
                standing.pop(record.ids[0], None)
        for key in standing.values():
            self._auditor.get([key])
            self._auditor.evict(key)

    def abandon(self) -> None:
        """Kill all and close everything; the place is left as it is, as it may be what failed."""
        for pid in self.alive.values():
            os.kill(pid, signal.SIGKILL)
            self._nursery.reap(pid)
        self.alive.clear()
        self._close()

    def _close(self) -> None:
        self._auditor.connector.close()
        self._auditor.log.close()
        self.events.close()

    def end(self) -> list[str]:
        """Kill all, clear the place, close everything; what is left there, in words."""
        for who in list(self.alive):
            self.kill(who)
            self.kills -= 1
        connector = self._auditor.connector
        left = []
        if isinstance(connector, SupportsReap):
            connector.reap()
        connector.clear()
        if isinstance(connector, SupportsScan):
            left += [f"object {stat.key}" for stat in connector.scan()]
        if isinstance(connector, SupportsReap):
            left += [f"{one.what} ({one.reason})" for one in connector.reap(dry_run=True)]
        self._close()
        return left
