"""The summary in the terminal, and the table that it shares with the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxyfab.demo.between.passage import Passage
from proxyfab.demo.between.plan import RATE, ROUND_TRIP
from proxyfab.demo.pipeline import Outcome
from proxyfab.demo.result import Result, busy, figures
from proxyfab.demo.stream.course import Course
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


def table_of_stream(course: Course) -> list[Row]:
    """What the second act came to."""
    said, kill = course.as_dict(), course.kill
    others = ", ".join(f"{worker} {count}" for worker, count in course.shares.items())
    again = f"{len(course.again)} (frames {', '.join(map(str, course.again))})" if course.again else "none"
    return [
        ("killed with SIGKILL", f"{kill.worker}, at frame {kill.frame}, after {kill.at - course.started:.2f} s"),
        ("came in its place", kill.replaced_by),
        ("slices lost", str(course.lost)),
        ("slices delivered again, and done", again),
        ("pictures that came twice, left aside", str(course.duplicates)),
        ("pictures by worker", others),
        ("throughput, with the kill", f"{said['frames_per_second']:.1f} frames/s"),
        ("time for all frames", f"{course.seconds:.2f} s"),
        ("bytes of events at the broker", f"{size(course.held.nbytes)} in {course.held.records} records"),
        ("… per frame", size(said["broker_bytes_per_frame"])),
        ("bytes moved through the store", size(course.bulk)),
        ("not acknowledged, dead letters", f"{course.held.lag}, {course.held.dead_letters}"),
        ("objects left in the store", str(course.left)),
    ]


def verdict_of_stream(result: Result) -> str:
    """What the second act has shown, or why there was none."""
    if result.course is None:
        return f"The second act did not run. {result.without}" if result.without else ""
    same = "the same as in the first pass, bit for bit" if result.merit.streamed else "NOT those of the first pass"
    twice = f"; of {len(result.course.differing)} slices the second picture DIFFERS" if result.course.differing else ""
    lost = "Nothing was lost" if not result.course.lost else f"{result.course.lost} slices were LOST"
    return f"{lost}; the stream's pictures are {same}{twice}."


def table_of_sites(passage: Passage) -> list[Row]:
    """What the third act came to."""
    said, carried = passage.as_dict(), passage.carried
    cut, shares = said["cut"], ", ".join(f"{worker} {count}" for worker, count in said["shares"].items())
    return [
        ("the link", f"{RATE / 1e6:.0f} Mbit/s, {1e3 * ROUND_TRIP:.0f} ms there and back"),
        ("cut", f"for {cut['seconds']:.1f} s, after {cut['began']:.2f} s, amid frame {cut['frame']}"),
        ("packets came again", f"{passage.recovery:.2f} s after the cut's end"),
        ("bytes that came during the cut", size(passage.in_cut)),
        ("slices lost, reconstructed twice", f"{passage.lost}, {passage.duplicates}"),
        ("pictures by worker", shares),
        ("time for all frames, with the cut", f"{passage.seconds:.2f} s"),
        ("bytes of counts", size(passage.counts)),
        ("… that gateways sent, of these again", f"{size(carried.sent)}, {passage.again:.1%}"),
        ("bytes of all packets from aps", size(passage.sent)),
        ("… lost by the link, and sent again by TCP", f"{size(passage.dropped)}, {passage.dropped / passage.sent:.1%}"),
        ("bytes of events at the broker", f"{size(said['broker_bytes'])} in {said['broker_records']} records"),
    ]


def verdict_of_sites(result: Result) -> str:
    """What the third act has shown, or why there was none."""
    passage = result.passage
    if passage is None:
        return f"The third act did not run: {result.apart}." if result.apart else ""
    once = "Every slice was reconstructed exactly once"
    if passage.lost or passage.duplicates:
        once = f"{passage.lost} slices were LOST and {passage.duplicates} reconstructed TWICE"
    same = "the same as in the first pass, bit for bit" if result.merit.carried else "NOT those of the first pass"
    return f"{once}; the pictures are {same}."


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
    if result.course is not None:
        _show(console, f"The same scan as a stream at {result.course.broker}", table_of_stream(result.course))
    if verdict_of_stream(result):
        console.print(verdict_of_stream(result), highlight=False)
    if result.passage is not None:
        _show(console, "The same scan between two emulated facilities", table_of_sites(result.passage))
    if verdict_of_sites(result):
        console.print(verdict_of_sites(result), highlight=False)
    console.print(
        f"Specimen: {result.source}, a real volume; its projections and their noise are computed. "
        f"Took {result.seconds:.1f} s in all."
    )
    if busy():
        console.print(f"[yellow]{busy()}[/]")
    pictures = ", ".join(f"[bold]{path}[/]" for path in (result.picture, result.throughput) if path)
    console.print(f"Report: [bold]{result.report}[/]   pictures: {pictures}")


def _show(console: Console, title: str, rows: Sequence[Row]) -> None:
    from rich.table import Table

    table = Table("", "", title=title, show_header=False)
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)


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
