"""Many kills of everything on every place, with a table and a JSON report: `python -m proxyfab.testing.campaign`.

Ends with status 1 when a promise was broken or a run shows nothing; the logs of such a run are kept, and it is said
where. A run is repeated with its seed, which decides who is hit when.
"""

from __future__ import annotations

import json
import platform
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.table import Table

from proxyfab.testing.kills import Kills, Report, Victims
from proxyfab.testing.subjects import kinds, names, subject

_SHOWN = ("place", "killed", "kills", "inside a call", "acknowledged", "read", "lost", "silent", "torn", "stale")
_ALSO = ("resurrected", "hang", "undeclared", "refused", "left behind", "slowest answer [s]", "seconds", "ok")


def one_run(place: str, victims: Victims, count: int, seed: int) -> tuple[Report, Path | None]:
    """Kill `count` victims on a fresh place; the report, and where the logs are if something was wrong."""
    with tempfile.TemporaryDirectory(prefix="proxyfab-place-") as directory, subject(place, Path(directory)) as at:
        with Kills(at, seed=seed) as kills:
            report = kills.run(victims, count)
        if report.ok:
            kills.forget()
        return report, None if report.ok else kills.logs


def table(reports: list[Report]) -> Table:
    """The figures of all runs."""
    shown = Table(title="kill -9 at random moments")
    for column in (*_SHOWN, *_ALSO):
        shown.add_column(column, justify="right" if column not in ("place", "killed") else "left")
    for report in reports:
        row = report.row()
        shown.add_row(*(str(row[column]) for column in (*_SHOWN, *_ALSO)))
    return shown


def write(output: Path, reports: list[Report]) -> None:
    """The figures of all runs, as JSON."""
    machine = f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    made = {"at": time.time(), "machine": machine, "runs": [report.row() for report in reports]}
    output.write_text(json.dumps(made, indent=1))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--place", "places", multiple=True, type=click.Choice(names()), help="Which places; all without it.")
@click.option("--victims", multiple=True, type=click.Choice(get_args(Victims)), help="Whom; all without it.")
@click.option("--count", default=1000, show_default=True, help="Kills of each kind.")
@click.option("--seed", type=int, help="Repeats an earlier run.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the JSON report goes.")
def main(places: tuple[str, ...], victims: tuple[str, ...], count: int, seed: int | None, output: Path | None) -> None:
    """Kill writers, readers, owners and servers at random moments and judge what others saw."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    console = Console(width=240, markup=False)
    reports = []
    for place in places or names():
        for kind in kinds(place):
            if victims and kind not in victims:
                continue
            console.print(f"{place}: {count} {kind}, seed {seed} ...")
            report, kept = one_run(place, kind, count, seed)
            reports.append(report)
            if not report.ok:
                console.print(f"{report}\nlogs: {kept}")
            if output is not None:  # after each, so that an interrupted campaign has shown what it has shown
                write(output, reports)
    console.print(table(reports))
    sys.exit(0 if reports and all(report.ok for report in reports) else 1)


if __name__ == "__main__":
    main()
