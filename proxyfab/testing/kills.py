"""Kill -9 writers, readers, owners and servers at random moments, and judge the recorded history afterwards.

    with subject("shm", directory) as one, Kills(one, seed=7) as kills:
        report = kills.run("writers", 1000)
    assert report.ok, report

The victim is hit at a random moment after it has done some work; every tenth time one is stopped (SIGSTOP) and resumed
instead, in addition. What a dead writer had been told is there is read by an auditor, and evicted. At the end nothing
may be left: no object, segment, temporary file or process. A seed decides who is hit and how long he is let live; what
he does at that moment is the machine's choice.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from proxyfab.keys import Key
from proxyfab.testing.history import EVENTS, PUTS, ROSTER, History, Log, read
from proxyfab.testing.nursery import Nursery
from proxyfab.testing.processes import DEADLINE, until
from proxyfab.testing.verdict import Promise, Verdict, judge
from proxyfab.testing.workload import SIZES, Actor, Task
from proxyfab.testing.workload import read as read_for_ever
from proxyfab.testing.workload import write as write_for_ever

if TYPE_CHECKING:
    from typing import Self

Victims: TypeAlias = Literal["writers", "readers", "owners", "servers"]
_LIFE = 0.03
"""Seconds that a victim lives at most, once it has done something."""
_STOP = 0.1


class Server(Protocol):
    """A server that can be killed and started again where it was."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None:
        """SIGKILL, and wait for its end."""

    def start(self) -> None:
        """Start it again at the same address, and wait until it answers."""


@dataclass
class Subject:
    """A place under test.

    Args:
        name: What it is called in a report.
        url: What workers open.
        promise: What it promises while nobody but its users are killed.
        owned: The URL of an unnamed place, for `owners`; "" where there is none.
        server: Its server; None for a place without.
        crashed: What it promises when the server is killed.
        leftovers: What lies there although nobody wants it, in words, after everything was cleared.
        modules: What a worker imports.
    """

    name: str
    url: str
    promise: Promise
    owned: str = ""
    server: Server | None = None
    crashed: Promise | None = None
    leftovers: Callable[[], list[str]] = list
    modules: tuple[str, ...] = ()


@dataclass
class Report:
    """What a run did and what came of it."""

    subject: str
    victims: Victims
    seed: int
    kills: int = 0
    stops: int = 0
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    left: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    """Workers that ended by themselves, which none may."""

    @property
    def void(self) -> list[str]:
        """Why the run shows nothing, in words: no fault happened, or no work was done."""
        judged = self.verdict
        facts = {
            "nobody was killed": self.kills,
            "nothing was acknowledged": judged.acknowledged,
            "nothing was read": judged.read,
            "no kill fell into a call": judged.inside or self.victims == "servers",
        }
        return [text for text, fact in facts.items() if not fact]

    @property
    def ok(self) -> bool:
        """Whether faults happened, work was done and every promise was kept."""
        return not (self.verdict.violations or self.left or self.early or self.void)

    def row(self) -> dict[str, object]:
        """Its figures."""
        judged = self.verdict
        rules = ("lost", "silent", "torn", "stale", "resurrected", "hang", "undeclared", "refused")
        return {
            "place": self.subject,
            "killed": self.victims,
            "seed": self.seed,
            "kills": self.kills,
            "inside a call": judged.inside,
            "stops": self.stops,
            "acknowledged": judged.acknowledged,
            "read": judged.read,
            **{rule: judged.broken(rule) for rule in rules},
            "left behind": len(self.left),
            "went with its keeper": judged.lost,
            "slowest answer [s]": round(judged.slowest, 2),
            "errors": dict(judged.errors),
            "seconds": round(self.seconds, 1),
            "ok": self.ok,
        }

    def __str__(self) -> str:
        said = [f"{key}: {value}" for key, value in self.row().items()]
        said += [f"{rule} ({who}): {text}" for rule, who, text in self.verdict.violations[:20]]
        return "\n".join([*said, *self.left[:20], *self.early[:5], *self.void])


class Kills:
    """Runs workers against a subject and kills them.

    Args:
        subject: The place.
        seed: Of everything random here.
        sizes: Bytes of the objects.
        directory: Where the logs go; a temporary one, removed unless a promise was broken, by default.
    """

    def __init__(
        self, subject: Subject, *, seed: int, sizes: tuple[int, ...] = SIZES, directory: Path | None = None
    ) -> None:
        self.subject = subject
        self.seed = seed
        self.sizes = sizes
        self.logs = directory or Path(tempfile.mkdtemp(prefix="proxyfab-kills-"))
        self._dice = random.Random(seed)
        self._count = 0
        self._alive: dict[str, int] = {}
        self._clock = threading.Event()
        self._nursery = Nursery(["proxyfab.testing.workload", *subject.modules])

    def run(self, victims: Victims, count: int) -> Report:
        """Kill as many, one after the other, and judge.

        Two of the victims' kind are at work, and one of the other.
        """
        report = Report(self.subject.name, victims, self.seed)
        begun = time.monotonic()
        where = self.logs / victims
        where.mkdir(parents=True)
        self._events = Log(where, EVENTS)
        self._auditor = Actor(self._task(where, "auditor-0"))
        self._owned = victims == "owners"
        try:
            for role in ("writer", "reader", "reader" if victims == "readers" else "writer"):
                self._start(where, role)
            for number in range(count):
                self._strike(where, victims, report)
                if number % 10 == 9:
                    self._stop_one(report)
        finally:
            self._finish(where, report)
        report.verdict = judge(History.load(where), self._promise(victims))
        report.seconds = time.monotonic() - begun
        return report

    def close(self) -> None:
        """Let the nursery go, and all that lives in it."""
        self._nursery.__exit__(None, None, None)

    def forget(self) -> None:
        """Remove the logs."""
        shutil.rmtree(self.logs, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _promise(self, victims: Victims) -> Promise:
        promise = self.subject.promise
        if victims == "owners":
            return promise._replace(lives_with="writer")
        return self.subject.crashed or promise if victims == "servers" else promise

    # -- workers -----------------------------------------------------------------------------------------------------

    def _task(self, where: Path, who: str) -> Task:
        url = self.subject.owned if where.name == "owners" else self.subject.url
        return Task(where, who, url, f"{self.seed}.{who}", self.sizes)

    def _start(self, where: Path, role: str) -> None:
        self._count += 1
        who = f"{role}-{self._count}"
        work = write_for_ever if role == "writer" else read_for_ever
        self._alive[who] = self._nursery.start(work, self._task(where, who))
        self._write_roster(where)

    def _write_roster(self, where: Path) -> None:
        names = [who for who in self._alive if who.startswith("writer")]
        (where / f"{ROSTER}.new").write_text(" ".join(names))
        os.replace(where / f"{ROSTER}.new", where / ROSTER)

    def _end(self, where: Path, who: str, report: Report) -> None:
        """Kill a worker and see what it left."""
        pid = self._alive.pop(who)
        self._events.event("kill", who)
        os.kill(pid, signal.SIGKILL)
        status = self._nursery.reap(pid)
        if status != -signal.SIGKILL:
            report.early.append(f"{who} ended by itself, with status {status}")
        if who.startswith("writer"):
            self._audit(where, who)

    def _audit(self, where: Path, who: str) -> None:
        """Read what a dead writer left standing, and evict it."""
        standing: dict[str, Key] = {}
        for record in read(where / who):
            if record.op in PUTS and record.definite:
                standing.update(zip(record.ids, map(Key.parse, record.results), strict=True))
            elif record.op in PUTS:
                standing = {**{id: Key(id) for id in record.ids}, **standing}
            elif record.op == "evict" and record.definite:
                standing.pop(record.ids[0], None)
        for key in standing.values():
            self._auditor.get([key])
            self._auditor.evict(key)

    # -- faults ------------------------------------------------------------------------------------------------------

    def _strike(self, where: Path, victims: Victims, report: Report) -> None:
        if victims == "servers":
            self._strike_server(where)
        else:
            role = "reader" if victims == "readers" else "writer"
            who = self._dice.choice([name for name in self._alive if name.startswith(role)])
            self._worked(where / who, report, who)
            self._clock.wait(self._dice.uniform(0, _LIFE))
            self._end(where, who, report)
            self._start(where, role)
        report.kills += 1

    def _worked(self, log: Path, report: Report, who: str) -> None:
        """Wait until a worker has been answered a few times, so that it is a worker that is killed."""
        if not until(lambda: log.exists() and log.stat().st_size > 300, DEADLINE):
            report.early.append(f"{who} did nothing for {DEADLINE} s")

    def _strike_server(self, where: Path) -> None:
        server = self.subject.server
        assert server is not None, "a place without a server has none to kill"
        self._clock.wait(self._dice.uniform(0, 2 * _LIFE))
        self._events.event("down", "server")
        server.kill()
        self._clock.wait(self._dice.uniform(0, _LIFE))
        server.start()
        self._events.event("up", "server")
        self._recovered(where)

    def _recovered(self, where: Path) -> None:
        """Wait until every writer was answered again; who never is hangs, which the verdict shows."""
        since = time.monotonic()
        names = [who for who in self._alive if who.startswith("writer")]
        limit = self.subject.promise.deadline + 2

        def answered(who: str) -> bool:
            tail = (where / who).read_text()[-4000:].split("\n")[1:-1]
            returns = [line.split("\t") for line in tail if line.startswith("r\t")]
            return any(float(fields[2]) > since and not fields[3].startswith("!") for fields in returns)

        until(lambda: all(map(answered, names)), limit)

    def _stop_one(self, report: Report) -> None:
        """Stop somebody for a moment while the others go on."""
        who = self._dice.choice(list(self._alive))
        self._events.event("stop", who)
        os.kill(self._alive[who], signal.SIGSTOP)
        self._clock.wait(self._dice.uniform(0, _STOP))
        os.kill(self._alive[who], signal.SIGCONT)
        self._events.event("continue", who)
        report.stops += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, where: Path, report: Report) -> None:
        for who in list(self._alive):
            self._end(where, who, report)
        connector = self._auditor.connector
        if hasattr(connector, "reap"):
            connector.reap()
        connector.clear()
        if hasattr(connector, "scan"):
            report.left += [f"object {stat.key}" for stat in connector.scan()]
        if hasattr(connector, "reap"):
            report.left += [f"{one.what} ({one.reason})" for one in connector.reap(dry_run=True)]
        connector.close()
        self._auditor.log.close()
        self._events.close()
        report.left += self.subject.leftovers()
