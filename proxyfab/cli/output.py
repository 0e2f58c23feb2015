"""How commands print: a table for people, JSON with `--json` for programs, sizes and ages as people read them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
store_url = click.argument("url", default="shm://")


def show(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table; columns whose cells are all numbers or sizes stand on the right."""
    table = Table(*columns, title=title or None, title_justify="left", box=None, header_style="bold")
    for index, column in enumerate(table.columns):
        if rows and all(str(row[index])[:1].isdigit() for row in rows):
            column.justify = "right"
        column.overflow = "fold"
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, default=str))


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
