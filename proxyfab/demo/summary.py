"""The summary in the terminal, and the table that it shares with the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxyfab.demo.pipeline import Outcome
from proxyfab.demo.result import Result, busy, figures
from proxyfab.demo.trip import STAGES

if TYPE_CHECKING:
    from rich.console import Console

Row = tuple[str, ...]


def size(nbytes: float) -> str:
    """Bytes for people: `85.6 MB`, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def table_of_passes(passes: Sequence[Outcome]) -> tuple[Row, list[Row]]:
    """Head and rows: each figure with and without references."""
    columns = [figures(outcome) for outcome in passes]
    head = ("", *(f"by {outcome.setup.passing}" for outcome in passes))
    rows = [
        ("bytes through control flow, all hops", *(size(each["control_bytes"]) for each in columns)),
        ("… per frame", *(size(each["control_bytes_per_frame"]) for each in columns)),
        ("bytes put into the store, got from it", *(_moved(each["data_plane"]) for each in columns)),
        ("throughput", *(f"{each['frames_per_second']:.1f} frames/s" for each in columns)),
        ("time for all frames", *(f"{each['seconds']:.2f} s" for each in columns)),
        *(
            (f"{stage}, median per frame", *(_milliseconds(each["stage_median_ms"][stage]) for each in columns))
            for stage in STAGES
        ),
        ("processor time, all processes", *(f"{sum(each['cpu_seconds'].values()):.2f} s" for each in columns)),
        ("… of the dispatcher", *(f"{each['cpu_seconds']['dispatcher']:.2f} s" for each in columns)),
        ("peak memory of the dispatcher", *(size(each["peak_memory_bytes"]["dispatcher"]) for each in columns)),
        ("peak memory of the largest worker", *(size(_largest(each["peak_memory_bytes"])) for each in columns)),
    ]
    return head, rows


def show(result: Result, console: Console) -> None:
    """Print the summary."""
    from rich.table import Table

    setup = result.passes[0].setup
    head, rows = table_of_passes(result.passes)
    table = Table(title=f"{setup.frames} frames of {setup.angles} x {setup.size} counts, {setup.workers} workers")
    for column, name in enumerate(head):
        table.add_column(name, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(_verdict(result))
    console.print(
        f"Specimen: {result.source}, a real volume; its projections and their noise are computed. "
        f"Took {result.seconds:.1f} s in all."
    )
    if busy():
        console.print(f"[yellow]{busy()}[/]")
    console.print(f"Report: [bold]{result.report}[/]   picture: [bold]{result.picture}[/]")


def _verdict(result: Result) -> str:
    merit = result.merit
    quality = f"Pictures: median PSNR {merit.psnr:.1f} dB, SSIM {merit.ssim:.3f}"
    same = {True: "; both passes gave the same, bit for bit.", False: "; the two passes DIFFER.", None: "."}
    loaded = result.passes[0].reports["dispatcher"]["loaded"]
    touched = f"loaded {', '.join(loaded)}" if loaded else "had no NumPy and opened no message's body"
    return f"{quality}{same[merit.identical]} The dispatcher {touched}."


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms"


def _moved(plane: dict[str, float]) -> str:
    return f"{size(plane['put_bytes'])}, {size(plane['get_bytes'])}" if plane["put_count"] else "none"


def _largest(peaks: dict[str, Any]) -> float:
    return max(float(peak) for name, peak in peaks.items() if name.startswith("worker"))
