"""Hours of mixed load on a server, with kills, stops, cuts and pauses, and whether all is as before at the end.

`python -m proxyfab.testing.soak` runs it on a Redis and on a node server, behind a `Cable`, prints a table over time
and a verdict, and ends with status 1 when a promise was broken or something did not come back to its baseline: the
server's memory, descriptors, threads and objects. The baseline is taken after a first load, when buffers have their
size.
"""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console

from proxyfab.abc import SupportsScan
from proxyfab.opening import open_connector
from proxyfab.spec import ConnectorSpec
from proxyfab.testing.cable import Cable
from proxyfab.testing.crew import Crew
from proxyfab.testing.history import History
from proxyfab.testing.kills import Subject
from proxyfab.testing.mixture import SIZES, mix
from proxyfab.testing.nursery import Nursery
from proxyfab.testing.processes import until
from proxyfab.testing.subjects import subject
from proxyfab.testing.verdict import Promise, Verdict, judge
from proxyfab.testing.workload import Task

DEADLINE = 10.0
WORKERS = 4
SETTLE = 40.0
"""Seconds in which everything has to come back; a node server gives memory back twice a minute."""
_FAULT = 1.0
"""Seconds that a fault of the cable lasts at most."""
_MEMORY = 48 << 20
"""Bytes that a server's memory may be above its baseline: what its allocator keeps for the next load."""
_MORE = {"files": 16, "threads": 8, "objects": 0}
"""What a server may have more of: threads come when they are needed, up to a limit, each with its descriptors."""
_ERRORS = frozenset({"ConnectorError", "ResolveTimeout"})


class Sample(NamedTuple):
    """How a server was at a moment."""

    seconds: float
    memory: int
    """Bytes of memory of its own, without the shared memory that it maps."""
    files: int
    threads: int
    objects: int
    kills: int
    faults: int


@dataclass
class Soaked:
    """What came of a soak."""

    place: str
    seed: int
    baseline: Sample
    samples: list[Sample] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    left: list[str] = field(default_factory=list)
    resets: int = 0
    carried: int = 0

    @property
    def wrong(self) -> list[str]:
        """All that is not as it should be, in words."""
        judged, last = self.verdict, self.samples[-1]
        facts = {
            "nobody was killed": last.kills,
            "the cable did nothing": self.resets and sum(self.faults.values()),
            "nothing was acknowledged": judged.acknowledged,
            "nothing was read": judged.read,
        }
        found = [text for text, fact in facts.items() if not fact] + self.left
        found += [f"{rule} ({who}): {text}" for rule, who, text in judged.violations[:30]]
        return found + off(self.baseline, last)

    def __str__(self) -> str:
        judged = self.verdict
        lines = [f"{self.place}, seed {self.seed}", _HEAD, *(row(one) for one in (self.baseline, *self.samples))]
        lines.append(f"faults: {self.faults}; connections reset: {self.resets}; {self.carried / 1e6:.0f} MB carried")
        lines.append(
            f"acknowledged {judged.acknowledged}, read {judged.read}, evicted {judged.evicted}, calls killed "
            f"{judged.inside}, slowest answer {judged.slowest:.1f} s, errors {dict(judged.errors)}"
        )
        return "\n".join([*lines, *(self.wrong or ["all is as before, and every promise was kept"])])


_HEAD = "  seconds  memory MB  files  threads  objects  kills  faults"


def row(sample: Sample) -> str:
    """A sample as a line of the table."""
    return (
        f"{sample.seconds:9.0f}  {sample.memory / 1e6:9.1f}  {sample.files:5d}  {sample.threads:7d}  "
        f"{sample.objects:7d}  {sample.kills:5d}  {sample.faults:6d}"
    )


def off(before: Sample, after: Sample) -> list[str]:
    """What is more than before, in words."""
    found = []
    if after.memory > before.memory + _MEMORY:
        found.append(f"the server's memory went from {before.memory / 1e6:.1f} to {after.memory / 1e6:.1f} MB")
    for name, more in _MORE.items():
        old, new = getattr(before, name), getattr(after, name)
        if new > old + more:
            found.append(f"the server's {name} went from {old} to {new}")
    return found


class Soak:
    """One soak on one place.

    Args:
        at: The place; it has a server.
        cable: What lies between.
        seed: Of everything random here.
        directory: Where the logs go.
        tell: Called with each line of the table.
    """

    def __init__(
        self, at: Subject, cable: Cable, *, seed: int, directory: Path, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.at = at
        self.cable = cable
        self.seed = seed
        self.tell = tell
        self.faults: dict[str, int] = {}
        self._directory = directory
        self._urls = [cable.through(at.url)]
        if at.name == "zmq":
            self._urls.append(self._urls[0].replace("shared=1", "shared=0"))

    def run(self, seconds: float) -> Soaked:
        """Load the place for that long."""
        with ExitStack() as stack:
            nursery = stack.enter_context(Nursery([ConnectorSpec.parse(self.at.url).scheme], [Task.__module__]))
            self._begun = time.monotonic()
            self._load(nursery, "warm", min(seconds / 4, 30.0), gently=True)
            until(lambda: self._sample(None).objects == 0, SETTLE)
            result = Soaked(self.at.name, self.seed, self._sample(None))
            self.tell(f"{_HEAD}\n{row(result.baseline)}")
            self.faults.clear()
            resets, carried = self.cable.resets, self.cable.carried()
            crew = self._load(nursery, "soak", seconds, result=result)
        until(lambda: not off(result.baseline, self._sample(crew)), SETTLE)
        result.samples.append(self._sample(crew))
        self.tell(row(result.samples[-1]))
        result.resets, result.carried = self.cable.resets - resets, self.cable.carried() - carried
        result.faults = dict(self.faults)
        result.left += self.at.leftovers()
        result.verdict = judge(History.load(crew.where), Promise(DEADLINE, errors=_ERRORS))
        return result

    def _load(
        self, nursery: Nursery, name: str, seconds: float, *, gently: bool = False, result: Soaked | None = None
    ) -> Crew:
        """Let a crew work for a while; faults happen unless `gently`."""
        task = Task(self._directory, "", self._urls[0], "", SIZES, keep=10)
        crew = Crew(self._directory / name, task, nursery, self.seed)
        try:
            for number in range(WORKERS):
                crew.start("writer", mix, self._urls[number % len(self._urls)])
            end = time.monotonic() + seconds
            step = max(seconds / 20, 2.0)
            shown = time.monotonic()
            while time.monotonic() < end:
                crew.pause(1.0, 0.1)
                if not gently:
                    self._disturb(crew)
                if result is not None and time.monotonic() - shown > step:
                    shown = time.monotonic()
                    result.samples.append(self._sample(crew))
                    self.tell(row(result.samples[-1]))
        except BaseException:
            crew.abandon()
            raise
        self.cable.heal()
        left = crew.end()
        if result is not None:
            result.left += [*left, *crew.early]
        return crew

    def _disturb(self, crew: Crew) -> None:
        """One fault of a random kind, and its end."""
        name = crew.dice.choice([*_FAULTS, "kill", "kill", "kill"])
        self.faults[name] = self.faults.get(name, 0) + 1
        if name == "kill":
            who = crew.pick()
            crew.worked(who)
            crew.kill(who)
            crew.start("writer", mix, crew.dice.choice(self._urls))
        elif name == "stop":
            crew.stop(crew.pick(), _FAULT)
        else:
            _FAULTS[name](self.cable, crew)
            crew.pause(_FAULT)
            self.cable.heal()

    def _sample(self, crew: Crew | None) -> Sample:
        assert self.at.server is not None, "a soak needs a server"
        proc = Path(f"/proc/{self.at.server.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        maps = dict(line.split(":") for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
        memory = int(maps["Anonymous"].split()[0]) * 1024  # segments that are kept to be filled again have a bound
        connector = open_connector(self.at.url)  # not through the cable, which may be cut
        try:
            assert isinstance(connector, SupportsScan)
            objects = len(list(connector.scan()))
        finally:
            connector.close()
            gc.collect()
        files, threads = _files(proc), int(status["Threads"])
        kills = 0 if crew is None else crew.kills
        seconds = time.monotonic() - self._begun
        return Sample(seconds, memory, files, threads, objects, kills, sum(self.faults.values()))


def _files(proc: Path) -> int:
    """Open descriptors, without those of mappings that are kept warm: their number is bounded by itself."""
    count = 0
    for path in (proc / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            count += not os.readlink(path).startswith("/dev/shm/")
    return count


_FAULTS: dict[str, Callable[[Cable, Crew], None]] = {
    "stop": lambda _cable, _crew: None,
    "reset": lambda cable, _: cable.reset(),
    "cut": lambda cable, _: cable.cut(),
    "cut after": lambda cable, crew: cable.cut_after(crew.dice.randrange(2_000_000), crew.dice.choice(("up", "down"))),
    "black hole": lambda cable, _: cable.black_hole(),
    "pause": lambda cable, _: cable.pause(),
    "delay": lambda cable, _: cable.delay(0.005, 0.005),
    "limit": lambda cable, _: cable.limit(30e6),
    "slice": lambda cable, _: cable.slice(1000),
    "half open": lambda cable, crew: cable.half_open(crew.dice.choice(("client", "server"))),
}


@contextmanager
def soaking(place: str, seed: int, directory: Path, tell: Callable[[str], None] = lambda _: None) -> Iterator[Soak]:
    """A soak on a fresh server with a cable in front."""
    with subject(place, directory) as at:
        address = ConnectorSpec.parse(at.url).host
        with Cable(address, seed=seed) as cable:
            yield Soak(at, cable, seed=seed, directory=directory / "logs", tell=tell)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=30.0, show_default=True, help="How long on each place.")
@click.option("--place", "places", multiple=True, default=("redis-memory", "zmq"), show_default=True)
@click.option("--seed", type=int, help="Repeats an earlier run.")
def main(minutes: float, places: tuple[str, ...], seed: int | None) -> None:
    """Load servers for long, with kills, cuts and pauses, and see whether all is as before."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    console = Console(markup=False, highlight=False)
    wrong = 0
    for place in places:
        directory = Path(tempfile.mkdtemp(prefix="proxyfab-soak-"))
        console.print(f"{place}: {minutes:g} minutes, seed {seed}; logs in {directory}")
        with soaking(place, seed, directory, console.print) as soak:
            result = soak.run(minutes * 60)
        console.print(str(result))
        wrong += len(result.wrong)
        if not result.wrong:
            shutil.rmtree(directory)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
