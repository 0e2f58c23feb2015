"""Run producers and consumers at a broker, kill -9 one of them or the broker again and again, and judge.

    with place("redis", directory) as one, StreamKills(one, seed=7) as kills:
        report = kills.run("consumers", 200)
    assert report.ok, report

Two producers with names that go on after each death; two members of a plain group, two of an ordered one, and one that
relays effectively once. Who is killed begins again at once. At the end the producers end their streams, and everybody
has to come to the end; then the output is read, and nothing may be left: no object, dead letter, topic or process.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING

from proxyfab.spec import ConnectorSpec
from proxyfab.testing.history import EVENTS, History, Log
from proxyfab.testing.nursery import Nursery
from proxyfab.testing.processes import until
from proxyfab.testing.streamkills.aftermath import Aftermath
from proxyfab.testing.streamkills.judging import RULES, Verdict, judge
from proxyfab.testing.streamkills.looking import be_seen, look
from proxyfab.testing.streamkills.places import Place, Struck
from proxyfab.testing.streamkills.work import ORDERED, PLAIN, RELAY, Job, consume, produce, relay

if TYPE_CHECKING:
    from typing import Self

ACK_WAIT = 2.0
DEADLINE = 30.0
"""Seconds in which every call is answered, whoever was killed, on a machine that has others to serve."""
END = 60.0
"""Seconds without anything that a process does after which it does not see the end of a stream that has ended."""
SLOTS: dict[str, Callable[[Job], None]] = {
    "producer-a": produce,
    "producer-b": produce,
    f"{PLAIN}-a": consume,
    f"{PLAIN}-b": consume,
    f"{ORDERED}-a": consume,
    f"{ORDERED}-b": consume,
    f"{RELAY}-a": relay,
}
_KINDS: tuple[Struck, ...] = ("producers", "consumers", "brokers")
_LIFE = 0.15
"""Seconds that a victim lives at most, once it has done something."""
_DOWN = 0.1
_WORKED = 300
"""Bytes in the log of one that has done something."""


@dataclass
class Report:
    """What a run did and what came of it."""

    place: str
    struck: Struck
    seed: int
    kills: int = 0
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    left: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    """Processes that ended by themselves, or did nothing, in words."""

    @property
    def void(self) -> list[str]:
        """Why the run shows nothing, in words."""
        judged = self.verdict
        facts = {
            "nobody was killed": self.kills,
            "nothing was acknowledged": judged.acknowledged,
            "nobody took anything": judged.taken,
            "nothing was relayed": judged.relayed,
        }
        return [text for text, fact in facts.items() if not fact]

    @property
    def ok(self) -> bool:
        """Whether faults happened, work was done and every promise was kept."""
        return not (self.verdict.violations or self.left or self.early or self.void)

    def row(self) -> dict[str, object]:
        """Its figures."""
        judged = self.verdict
        return {
            "place": self.place,
            "killed": self.struck,
            "seed": self.seed,
            "kills": self.kills,
            "inside a call": judged.inside,
            "acknowledged": judged.acknowledged,
            "taken": judged.taken,
            "again": judged.again,
            "relayed": judged.relayed,
            **{rule: judged.broken(rule) for rule in RULES},
            "left behind": len(self.left),
            "slowest answer [s]": round(judged.slowest, 2),
            "errors": dict(judged.errors),
            "seconds": round(self.seconds, 1),
            "ok": self.ok,
        }

    def __str__(self) -> str:
        said = [f"{key}: {value}" for key, value in self.row().items()]
        said += [f"{rule} ({who}): {text}" for rule, who, text in self.verdict.violations[:30]]
        return "\n".join([*said, *self.left[:20], *self.early[:5], *self.void])


class StreamKills:
    """Runs a stream and kills who works at it. One thread at a time.

    Args:
        at: The broker.
        seed: Of everything random here.
        pause: Seconds between two batches of a producer, at most.
    """

    def __init__(self, at: Place, *, seed: int, pause: float = 0.1) -> None:
        self.place = at
        self.seed = seed
        self.logs = Path(tempfile.mkdtemp(prefix="proxyfab-stream-kills-"))
        self._pause = pause
        schemes = [ConnectorSpec.parse(at.store).scheme]
        broker = ConnectorSpec.parse(at.url).scheme
        self._nursery = Nursery(schemes, [produce.__module__, f"proxyfab.brokers.{broker}"])

    def run(self, struck: Struck, count: int, minutes: float | None = None) -> Report:
        """Kill as many, one after the other, or as many as are possible in some minutes, and judge."""
        report = Report(self.place.name, struck, self.seed)
        begun = time.monotonic()
        run = _Run(self.place, self.logs / struck, self._nursery, self.seed, self._pause)
        try:
            run.begin()
            while report.kills < count and (minutes is None or time.monotonic() - begun < 60 * minutes):
                run.strike(struck)
                report.kills += 1
            run.finish()
        except BaseException:
            run.abandon()
            raise
        away = struck == "brokers" or (struck == "everybody" and self.place.server is not None)
        errors = frozenset({"ConnectorError"}) if away else frozenset()
        report.left, report.early = run.left, run.early
        history = History.load(run.where)
        report.verdict = judge(history, run.output, deadline=DEADLINE, errors=errors)
        report.seconds = time.monotonic() - begun
        return report

    def forget(self) -> None:
        """Remove the logs."""
        shutil.rmtree(self.logs, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nursery.__exit__(None, None, None)


class _Run:
    """One stream, and who works at it."""

    def __init__(self, at: Place, directory: Path, nursery: Nursery, seed: int, pause: float) -> None:
        self.where = directory / "logs"
        self.where.mkdir(parents=True)
        self.early: list[str] = []
        self.left: list[str] = []
        self.output: list[str] = []
        self._place, self._nursery, self._seed, self._pause = at, nursery, seed, pause
        self._seen = directory / "seen"
        self._seen.mkdir()
        self._over = directory / "over"
        self._dice = random.Random(seed)
        self._clock = threading.Event()
        self._events = Log(self.where, EVENTS)
        self._alive: dict[str, tuple[str, int]] = {}
        """By slot: who is there, and its process."""
        self._lives = 0
        self._after = Aftermath(at, f"kills-{seed}")

    def begin(self) -> None:
        """Make the topics, and start everybody."""
        self._after.prepare((PLAIN, ORDERED, RELAY), ACK_WAIT)
        for slot in SLOTS:
            self._start(slot)

    def _start(self, slot: str) -> None:
        self._lives += 1
        who, at = f"{slot}-{self._lives}", self._place
        job = Job(
            self.where,
            self._over,
            who,
            slot if slot.startswith("producer") else slot.partition("-")[0],
            f"{self._seed}.{who}",
            at.url,
            self._after.topic,
            self._after.output,
            at.store,
            ACK_WAIT,
            DEADLINE - 5,
            self._pause,
        )
        self._alive[slot] = who, self._nursery.start(live, SLOTS[slot], job, self._seen / who)

    # -- kills -------------------------------------------------------------------------------------------------------

    def strike(self, struck: Struck) -> None:
        """Kill one of a kind, and have it begin again."""
        if struck == "everybody":
            struck = self._dice.choice(_KINDS[: 2 if self._place.server is None else 3])
        if struck == "brokers":
            self._strike_broker()
            return
        kind = [slot for slot in SLOTS if slot.startswith("producer") == (struck == "producers")]
        slot = self._dice.choice(kind)
        who, pid = self._alive[slot]
        log = self.where / who
        if not until(lambda: log.exists() and log.stat().st_size > _WORKED, DEADLINE):
            self._look(f"{who} did nothing for {DEADLINE} s")
        self._clock.wait(self._dice.uniform(0, _LIFE))
        self._events.event("kill", who)
        os.kill(pid, signal.SIGKILL)
        self._reap(who, pid, -signal.SIGKILL)
        self._start(slot)

    def _strike_broker(self) -> None:
        server = self._place.server
        assert server is not None, "a broker that keeps nothing is not started again"
        self._clock.wait(self._dice.uniform(0, 2 * _LIFE))
        self._events.event("down", "server")
        server.kill()
        self._clock.wait(self._dice.uniform(0, _DOWN))
        server.start()
        self._events.event("up", "server")
        since = time.monotonic()
        producers = [who for slot, (who, _) in self._alive.items() if slot.startswith("producer")]
        if not until(lambda: all(_answered(self.where / who, since) for who in producers), DEADLINE):
            self._look(f"producers were not answered in {DEADLINE} s after the broker was back")

    def _look(self, trouble: str) -> None:
        self.early.append(f"{trouble}; what was to be seen: {self._seen}")
        look(self._seen, dict(self._alive.values()), self._place, (self._after.topic, self._after.output))

    def _reap(self, who: str, pid: int, expected: int) -> None:
        status = self._nursery.reap(pid)
        if status != expected:
            self.early.append(f"{who} ended with status {status}")

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Have the stream end, everybody come to its end, the output read and everything cleared."""
        self._over.touch()
        for slot in SLOTS:
            who, pid = self._alive[slot]
            ended = self._comes_to_the_end(who, pid)
            if not ended:
                self._look(f"{who} does not see the end of the stream")
                os.kill(pid, signal.SIGKILL)
            self._reap(who, pid, 0 if ended else -signal.SIGKILL)
            del self._alive[slot]
        self._events.close()
        self.output = self._after.read(END)
        self.left = self._after.clear()

    def _comes_to_the_end(self, who: str, pid: int) -> bool:
        """Whether a process ends, for which it has time as long as it does something."""
        log, size = self.where / who, -1
        while size != (size := log.stat().st_size if log.exists() else 0):
            if until(lambda: _ended(pid), END):
                return True
        return False

    def abandon(self) -> None:
        """Kill all; the broker is left as it is, as it may be what failed."""
        for _, pid in self._alive.values():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # of the last one nothing may be left
                os.kill(pid, signal.SIGKILL)
                self._nursery.reap(pid)
        self._alive.clear()
        self._after.close()


def live(role: Callable[[Job], None], job: Job, seen: Path) -> None:
    """Do a job, and write into `seen` what is to be seen when `look` asks."""
    end = be_seen(seen)
    role(job)
    end()


def _ended(pid: int) -> bool:
    """Whether a process only waits for being reaped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _answered(log: Path, since: float) -> bool:
    lines = [line.split("\t") for line in log.read_text()[-4000:].split("\n")[1:-1] if line.startswith("r\t")]
    return any(float(fields[2]) > since and not fields[3].startswith("!") for fields in lines)
