"""Kill -9 writers, readers, owners and servers at random moments, and judge the recorded history afterwards.

    with subject("shm", directory) as one, Kills(one, seed=7) as kills:
        report = kills.run("writers", 1000)
    assert report.ok, report

The victim is hit at a random moment after it has done some work; every tenth time a worker, and every tenth time the
server, is stopped (SIGSTOP) for a moment in addition. What a dead writer had been told is there is read by an auditor,
and evicted. At the end nothing may be left: no object, segment, temporary file or process. A seed decides who is hit
and how long he is let live; what he does at that moment is the machine's choice.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from proxyfab.spec import ConnectorSpec
from proxyfab.testing.crew import Crew, Work
from proxyfab.testing.history import History
from proxyfab.testing.nursery import Nursery
from proxyfab.testing.processes import until
from proxyfab.testing.verdict import Promise, Verdict, judge
from proxyfab.testing.workload import SIZES, Task
from proxyfab.testing.workload import read as read_for_ever
from proxyfab.testing.workload import write as write_for_ever

if TYPE_CHECKING:
    from typing import Self

Victims: TypeAlias = Literal["writers", "readers", "owners", "servers"]
_LIFE = 0.03
"""Seconds that a victim lives at most, once it has done something."""
_STOP = 0.1
_MORE = 50
"""Kills beyond those that were asked for, until one falls into a call."""


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
        modules: What workers import besides its connector.
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
        directory: Where the logs go; a temporary one by default, which `forget` removes.
    """

    def __init__(
        self, subject: Subject, *, seed: int, sizes: tuple[int, ...] = SIZES, directory: Path | None = None
    ) -> None:
        self.subject = subject
        self.seed = seed
        self.sizes = sizes
        self.logs = directory or Path(tempfile.mkdtemp(prefix="proxyfab-kills-"))
        self._nursery = Nursery([ConnectorSpec.parse(subject.url).scheme], [Task.__module__, *subject.modules])

    def run(self, victims: Victims, count: int) -> Report:
        """Kill as many, one after the other, and judge.

        Two of the victims' kind are at work, and one of the other.
        """
        report = Report(self.subject.name, victims, self.seed)
        begun = time.monotonic()
        url = self.subject.owned if victims == "owners" else self.subject.url
        task = Task(self.logs, "", url, "", self.sizes)
        crew = Crew(self.logs / victims, task, self._nursery, self.seed)
        try:
            for role in ("writer", "reader", "reader" if victims == "readers" else "writer"):
                crew.start(role, _WORK[role])
            for number in range(count):
                self._strike(crew, victims, report)
                if number % 10 == 9:
                    crew.stop(crew.pick(), _STOP)
                if number % 10 == 4 and self.subject.server is not None:
                    crew.stop_process(self.subject.server.pid, "server", _STOP)
            for _ in range(_MORE if victims != "servers" else 0):
                if crew.inside:  # a few kills may all have come between two fast calls
                    break
                self._strike(crew, victims, report)
        except BaseException:
            crew.abandon()
            raise
        report.left = [*crew.end(), *self.subject.leftovers()]
        report.early, report.stops = crew.early, crew.stops
        report.verdict = judge(History.load(crew.where), self._promise(victims))
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

    def _strike(self, crew: Crew, victims: Victims, report: Report) -> None:
        if victims == "servers":
            self._strike_server(crew)
        else:
            role = "reader" if victims == "readers" else "writer"
            who = crew.pick(role)
            crew.worked(who)
            crew.pause(_LIFE)
            crew.kill(who)
            crew.start(role, _WORK[role])
        report.kills += 1

    def _strike_server(self, crew: Crew) -> None:
        server = self.subject.server
        assert server is not None, "a place without a server has none to kill"
        crew.pause(2 * _LIFE)
        crew.events.event("down", "server")
        server.kill()
        crew.pause(_LIFE)
        server.start()
        crew.events.event("up", "server")
        self._recovered(crew)

    def _recovered(self, crew: Crew) -> None:
        """Wait until every writer was answered again; who never is hangs, which the verdict shows."""
        since = time.monotonic()
        names = [who for who in crew.alive if who.startswith("writer")]

        def answered(who: str) -> bool:
            tail = (crew.where / who).read_text()[-4000:].split("\n")[1:-1]
            returns = [line.split("\t") for line in tail if line.startswith("r\t")]
            return any(float(fields[2]) > since and not fields[3].startswith("!") for fields in returns)

        until(lambda: all(map(answered, names)), self.subject.promise.deadline + 2)


_WORK: dict[str, Work] = {"writer": write_for_ever, "reader": read_for_ever}
