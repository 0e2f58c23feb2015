"""Many kills of everything on every place, with a table and a JSON report: `python -m proxyfab.testing.campaign`.

`--plane data` kills who puts and gets objects, and servers of objects; `--plane events` who sends and consumes events,
and brokers; `--plane sites` gateways of two sites, and the relay between them. Ends with status 1 when a promise was
broken or a run shows nothing; the logs of such a run are kept, and it is said where. A run is repeated with its seed,
which decides who is hit when.
"""

from __future__ import annotations

import json
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import click
from rich.console import Console
from rich.table import Table

from proxyfab.testing import sitekills
from proxyfab.testing.kills import Kills, Report, Victims
from proxyfab.testing.streamkills import places as brokers
from proxyfab.testing.streamkills.running import Report as StreamReport
from proxyfab.testing.streamkills.running import StreamKills
from proxyfab.testing.subjects import kinds, names, subject

_SHOWN = ("place", "killed", "kills", "inside a call", "acknowledged", "read", "lost", "silent", "torn", "stale")
_ALSO = ("resurrected", "hang", "undeclared", "refused", "left behind", "slowest answer [s]", "seconds", "ok")
_EVENTS = ("place", "killed", "kills", "inside a call", "acknowledged", "taken", "again", "relayed", "lost")
_EVENTS_ALSO = ("duplicate", "invented", "disorder", "torn", "released")


class Row(Protocol):
    """What a run came to."""

    @property
    def ok(self) -> bool: ...
    def row(self) -> dict[str, object]: ...


class Plane(NamedTuple):
    """What can be killed where, and how that is shown."""

    names: Callable[[], list[str]]
    kinds: Callable[[str], Sequence[str]]
    run: Callable[[str, str, int, int, float | None], tuple[Row, Path | None]]
    columns: tuple[str, ...]


def one_run(place: str, victims: Victims, count: int, seed: int) -> tuple[Report, Path | None]:
    """Kill `count` victims on a fresh place; the report, and where the logs are if something was wrong."""
    with tempfile.TemporaryDirectory(prefix="proxyfab-place-") as directory, subject(place, Path(directory)) as at:
        with Kills(at, seed=seed) as kills:
            report = kills.run(victims, count)
        if report.ok:
            kills.forget()
        return report, None if report.ok else kills.logs


def one_stream_run(
    place: str, struck: brokers.Struck, count: int, seed: int, minutes: float | None = None
) -> tuple[StreamReport, Path | None]:
    """The same at a fresh broker; with `minutes` fewer, if they take longer."""
    directory = tempfile.TemporaryDirectory(prefix="proxyfab-place-")
    with directory as name, brokers.place(place, Path(name)) as at:
        with StreamKills(at, seed=seed) as kills:
            report = kills.run(struck, count, minutes)
        if report.ok:
            kills.forget()
        return report, None if report.ok else kills.logs


def _data(place: str, kind: str, count: int, seed: int, minutes: float | None) -> tuple[Row, Path | None]:
    if minutes is not None:
        raise click.UsageError("Of the data plane every kill is made, however long that takes.")
    return one_run(place, cast("Victims", kind), count, seed)


def _events(place: str, kind: str, count: int, seed: int, minutes: float | None) -> tuple[Row, Path | None]:
    return one_stream_run(place, cast("brokers.Struck", kind), count, seed, minutes)


def _sites(place: str, kind: str, count: int, seed: int, minutes: float | None) -> tuple[Row, Path | None]:
    if minutes is not None:
        raise click.UsageError("Between sites every kill is made, however long that takes.")
    with sitekills.SiteKills(place, seed=seed) as kills:
        return kills.run(cast("sitekills.Struck", kind), count), None


PLANES = {
    "data": Plane(names, kinds, _data, _SHOWN + _ALSO),
    "events": Plane(brokers.names, brokers.kinds, _events, _EVENTS + _EVENTS_ALSO + _ALSO[1:]),
    "sites": Plane(sitekills.places, sitekills.kinds, _sites, sitekills.COLUMNS),
}


def table(reports: Sequence[Row], columns: Sequence[str] = _SHOWN + _ALSO) -> Table:
    """The figures of all runs."""
    shown = Table(title="kill -9 at random moments")
    for column in columns:
        shown.add_column(column, justify="right" if column not in ("place", "killed") else "left")
    for report in reports:
        row = report.row()
        shown.add_row(*(str(row[column]) for column in columns))
    return shown


def write(output: Path, reports: Sequence[Row]) -> None:
    """The figures of all runs, as JSON."""
    machine = f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    made = {"at": time.time(), "machine": machine, "runs": [report.row() for report in reports]}
    output.write_text(json.dumps(made, indent=1))


def _offered(pick: Callable[[Plane], Sequence[str]]) -> click.Choice[str]:
    return click.Choice(sorted({name for plane in PLANES.values() for name in pick(plane)}))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--plane", type=click.Choice(list(PLANES)), default="data", show_default=True, help="Objects or streams.")
@click.option(
    "--place", "places", multiple=True, type=_offered(lambda plane: plane.names()), help="Which; all without it."
)
@click.option(
    "--victims",
    multiple=True,
    type=_offered(lambda plane: [kind for name in plane.names() for kind in plane.kinds(name)]),
    help="Whom; all without it.",
)
@click.option("--count", default=1000, show_default=True, help="Kills of each kind.")
@click.option("--minutes", type=float, help="Fewer kills of each kind, if they take longer (events).")
@click.option("--seed", type=int, help="Repeats an earlier run.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the JSON report goes.")
def main(
    plane: str,
    places: tuple[str, ...],
    victims: tuple[str, ...],
    count: int,
    minutes: float | None,
    seed: int | None,
    output: Path | None,
) -> None:
    """Kill those at work and their servers at random moments, and judge what others saw."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    console = Console(width=240, markup=False)
    reports: list[Row] = []
    chosen = PLANES[plane]
    for place in [name for name in chosen.names() if not places or name in places]:
        for kind in chosen.kinds(place):
            if victims and kind not in victims:
                continue
            console.print(f"{place}: {count} {kind}, seed {seed} ...")
            report, kept = chosen.run(place, kind, count, seed, minutes)
            reports.append(report)
            if not report.ok:
                console.print(f"{report}\nlogs: {kept}")
            if output is not None:  # after each, so that an interrupted campaign has shown what it has shown
                write(output, reports)
    console.print(table(reports, chosen.columns))
    sys.exit(0 if reports and all(report.ok for report in reports) else 1)


if __name__ == "__main__":
    main()
