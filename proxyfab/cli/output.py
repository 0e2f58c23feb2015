"""How commands print: a table for people, JSON with `--json` for programs, sizes and ages as people read them."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxyfab.abc import Reclaimed

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
store_url = click.argument("url", default="shm://")
_ONE_LINE = 100_000
_LONGEST = 1e9
"""Seconds: some thirty years, which every clock can count."""


class Seconds(click.FloatRange):
    """An option's number of seconds, from `least` on.

    Args:
        least: The fewest.
        open_: Whether it has to be more than that.
    """

    def __init__(self, least: float = 0, *, open_: bool = False) -> None:
        super().__init__(min=least, max=_LONGEST, min_open=open_)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):  # which no comparison finds
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return found


def show(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table; columns whose cells are all numbers or sizes stand on the right.

    Into a pipe or file every row, and the title, is one line, however long.
    """
    table = Table(*columns, box=None, header_style="bold")
    for index, column in enumerate(table.columns):
        if rows and all(str(row[index])[:1].isdigit() for row in rows):
            column.justify = "right"
        column.overflow = "fold"
    for row in rows:
        table.add_row(*[Text(str(cell)) for cell in row])  # a key may look like markup
    head = [Text(title, style="italic")] if title else []  # the table's own would break where the table ends
    console = Console()
    if console.is_terminal:
        console.print(*head, table, sep="\n")
        return
    console.width = _ONE_LINE
    with console.capture() as printed:
        console.print(*head, table, sep="\n")
    click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def public(url: str) -> str:
    """The URL as it may be shown and exported: without a password that was typed into it."""
    hidden = re.sub(r"(//[^/?#@]*?):[^/?#]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:password|secret|token)=)(?!env:|file:)[^&#]*", r"\1***", hidden)


def working(what: str) -> contextlib.AbstractContextManager[object]:
    """Says `what` on standard error while it lasts, if that is a terminal."""
    return Console(stderr=True).status(what) if sys.stderr.isatty() else contextlib.nullcontext()


def show_reclaimed(found: Sequence[Reclaimed], what: str, *, dry_run: bool, as_json: bool) -> None:
    """Print what was taken back, or would be; `what` sums it up, as in `3 pieces at shm://`."""
    if as_json:
        show_json([item._asdict() for item in found])
        return
    if found:
        show(("what", "size", "why"), [(item.what, size(item.nbytes), item.reason) for item in found])
    verb = "would reclaim" if dry_run else "reclaimed"
    click.echo(f"{verb} {size(sum(item.nbytes for item in found))} in {what}")


def show_json(value: Any) -> None:
    """Print one JSON document; numbers that JSON does not know are null."""
    click.echo(json.dumps(finite(value), indent=2, default=str, allow_nan=False))


def finite(value: Any) -> Any:
    """The value with null for each number that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def size(nbytes: float) -> str:
    """`1.5 MiB` from a number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def age(moment: float) -> str:
    """`5 min` from seconds since the epoch, past or to come."""
    seconds = abs(time.time() - moment)
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < length:
            return f"{seconds:.0f} {unit}"
        seconds /= length
    return f"{seconds:.0f} d"
