"""`python -m proxyfab.demo`: the demonstration as a command."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from proxyfab.demo.experiment import AUTO, Tell, run
from proxyfab.demo.summary import show
from proxyfab.errors import ConfigurationError, ProxyfabError


@click.command("demo")
@click.option("--frames", default=48, show_default=True, help="Rotations to measure, each of one slice.")
@click.option("--size", default=512, show_default=True, help="Detector pixels, and pixels along a picture's edge.")
@click.option("--workers", default=2, show_default=True, help="Processes that reconstruct.")
@click.option("--out", default="demo", show_default=True, help="Directory for report.html and report.png.")
@click.option("--store", default="shm://", show_default=True, help="URL of the store that references point into.")
@click.option("--compare/--no-compare", default=True, help="Run again with the arrays themselves in the messages.")
@click.option("--stream/--no-stream", default=True, help="Run the second act: a stream, and a worker killed in it.")
@click.option("--broker", default=AUTO, show_default=True, help="URL of the second act's broker.")
@click.option("--sites/--no-sites", default=True, help="Run the third act, between two emulated facilities; for root.")
@click.option("--deadline", default=30.0, show_default=True, help="Seconds that a process waits for another.")
@click.option("--json", "as_json", is_flag=True, help="Print figures as JSON in place of the summary.")
def demo(
    frames: int, size: int, workers: int, out: str, store: str, compare: bool, stream: bool, broker: str, sites: bool,
    deadline: float, as_json: bool,
) -> None:  # fmt: skip
    """Stream a tomography scan of a real volume through the fabric and write a report."""
    try:
        with _terminated(), _progress() as tell:
            result = run(
                frames=frames, size=size, workers=workers, out=out, store=store,
                compare=compare, stream=stream, broker=broker, sites=sites, deadline=deadline, tell=tell,
            )  # fmt: skip
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; all processes have ended and the store is gone.")
        sys.exit(130)
    except ProxyfabError as error:
        told = f"[bold red]{type(error).__name__}:[/] {escape(str(error))}"
        Console(stderr=True).print(told, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
    else:
        show(result, Console())


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends the block as an exception, so that what was begun is put away."""
    if threading.current_thread() is not threading.main_thread():  # no other one may say what a signal does
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def _progress() -> Iterator[Tell]:
    """Bars on standard error, where that is a terminal."""
    columns = TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield tell


if __name__ == "__main__":
    demo(prog_name="python -m proxyfab.demo")
