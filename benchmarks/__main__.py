"""`python -m benchmarks`: measure, write bench/results.json, results.md and pictures, say what was reached."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click

from benchmarks import plots, report
from benchmarks.harness import Outcome, Place, Settings, Skipped, filesystem, machine
from benchmarks.pairs import ROOT
from benchmarks.payloads import KB, MB
from benchmarks.results import Results
from benchmarks.targets import Verdict, check

BENCHES = (
    "limits",
    "store",
    "gets",
    "small",
    "memory",
    "concurrency",
    "import",
    "proxy",
    "serialize",
    "shm",
    "redis",
    "zmq",
    "layers",
    "seal",
    "erasure",
    "futures",
    "executor",
    "lifetimes",
    "ownership",
    "events",
    "dask",
)
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
DASK = ROOT / "docs" / "dask.md"
BROKEN = "broken"
"""Stands for the system of a benchmark that failed as a whole; what is only not installed is no failure."""


@click.command()
@click.option("--quick", is_flag=True, help="Fewer sizes, kinds and rounds; README stays as it is.")
@click.option("--only", multiple=True, type=click.Choice(BENCHES), help="Only this benchmark; may be repeated.")
@click.option("--systems", multiple=True, help="Only this system; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "bench", help="Where results go.")
@click.option("--tmpfs", default="/dev/shm", show_default=True, help="A directory on tmpfs.")
@click.option("--disk", default=None, help="A directory on a disk; by default where the results go.")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the rounds; at least 3 stay.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a target is missed.")
def main(
    quick: bool,
    only: tuple[str, ...],
    systems: tuple[str, ...],
    out: Path,
    tmpfs: str,
    disk: str | None,
    scale: float,
    strict: bool,
) -> None:
    """Measure proxyfab beside its peers and beside what the machine can do."""
    signal.signal(signal.SIGTERM, _end)
    out.mkdir(parents=True, exist_ok=True)
    disk = disk or str(out)
    results = Results.load(out / "results.json", machine() | {"tmpfs": filesystem(tmpfs), "disk": filesystem(disk)})
    with _place(tmpfs, disk) as place:
        settings = _settings(place, quick, systems, scale)
        for bench in only or BENCHES:
            click.echo(f"{datetime.now(UTC):%H:%M:%S} {bench} ...", err=True)
            results.add(bench, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", run(bench, settings))
            _write(results, out)
    verdicts = check(results)
    if only:
        verdicts = [verdict for verdict in verdicts if verdict.verdict != "not measured"]
    _publish(results, verdicts, out)
    if not (quick or systems):
        _fill(results, DOCUMENTS if not only else (), report.short)
        _fill(results, (DASK,) if not only or "dask" in only else (), report.dask)
    broken = [skip for skip in results.skipped if skip.system == BROKEN and skip.bench in (only or BENCHES)]
    for skip in broken:
        click.echo(f"{skip.bench} was not measured, as it broke: {skip.reason}", err=True)
    if broken or (strict and any(verdict.verdict == "missed" for verdict in verdicts)):
        sys.exit(1)


def run(bench: str, settings: Settings) -> Outcome:
    """One benchmark's outcome. One that breaks is noted with the reason: hours of others must not be lost with it."""
    try:
        outcome: Outcome = importlib.import_module(f"benchmarks.bench_{bench}").run(settings)
    except Exception as error:  # whatever a measured system raises belongs in the report
        click.echo("".join(traceback.format_exception(error)), err=True)
        return Outcome([], [Skipped(bench, BROKEN, f"{type(error).__name__}: {error}")])
    return outcome


def _settings(place: Place, quick: bool, systems: tuple[str, ...], scale: float) -> Settings:
    if quick:
        return Settings(place, (KB, MB, 100 * MB), ("ndarray", "bytes"), scale=0.3, systems=systems)
    return Settings(place, scale=scale, systems=systems)


@contextmanager
def _place(tmpfs: str, disk: str) -> Iterator[Place]:
    """Directories for this run, on the two file systems; gone afterwards. PROXYFAB_SHM_DIR points into them."""
    place = Place(tempfile.mkdtemp(prefix="bench-", dir=tmpfs), tempfile.mkdtemp(prefix="bench-", dir=disk))
    os.environ["PROXYFAB_SHM_DIR"] = os.path.join(place.tmpfs, "shm")
    try:
        yield place
    finally:
        for folder in place:
            shutil.rmtree(folder, ignore_errors=True)


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)


def _write(results: Results, out: Path) -> None:
    verdicts = check(results)
    results.save(out / "results.json", {"targets": [verdict._asdict() for verdict in verdicts]})
    (out / "results.md").write_text(report.full(results, verdicts))


def _publish(results: Results, verdicts: Sequence[Verdict], out: Path) -> None:
    pictures = plots.draw(results, out)
    click.echo(_aligned(verdicts))
    click.echo(f"\n{out / 'results.md'}, results.json, {', '.join(path.name for path in pictures) or 'no pictures'}")


def _fill(results: Results, documents: Iterable[Path], text_of: Callable[[Results], str]) -> None:
    """The tables of pages; of none where nothing was to be measured for them."""
    for document in documents:
        if report.fill(document, text_of(results)):
            click.echo(f"filled the table of {document.relative_to(ROOT)}")


def _aligned(verdicts: Sequence[Verdict]) -> str:
    lines = [Verdict("target", "goal", "measured", "verdict"), *verdicts]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        "  ".join([line[3].ljust(12), *[line[column].ljust(widths[column]) for column in range(3)]]).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    main()
