"""`gc`: report what ended processes and passed deadlines left behind, then take it back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import Progress

from proxyfab.abc import Reclaimed, SupportsReap, SupportsScan
from proxyfab.cli.holdings import connect_there
from proxyfab.cli.output import as_json, public, show_reclaimed, store_url
from proxyfab.errors import CapabilityError
from proxyfab.osio.lodging import sparing
from proxyfab.patterns.leftovers import leftovers
from proxyfab.store import Store


@click.command()
@store_url
@click.option("-n", "--dry-run", is_flag=True, help="Only report.")
@as_json
def gc(url: str, dry_run: bool, as_json: bool) -> None:
    """Reclaim what is left of ended processes and expired objects at a store's place.

    Owned objects whose owner and borrowers have all ended go too, before their lease has passed. Objects of running
    processes and of named stores, unless they expired, are never touched.
    """
    connector = connect_there(url)
    if not isinstance(connector, SupportsReap | SupportsScan):
        raise CapabilityError(f"{connector.scheme}:// leaves nothing behind that could be reclaimed from here.")
    with _progress(f"looking through {public(url)}") as seen, contextlib.closing(connector), sparing():
        found = leftovers(Store(connector), dry_run=dry_run, seen=seen)
        if isinstance(connector, SupportsReap):
            found += _others(connector.reap(dry_run=dry_run), found)
    pieces = sum(not item.what.endswith("(left)") for item in found)
    show_reclaimed(found, f"{pieces} pieces at {public(url)}", dry_run=dry_run, as_json=as_json)


def _others(found: list[Reclaimed], known: list[Reclaimed]) -> list[Reclaimed]:
    """Those that were not named before: a dry run meets what expires in between twice."""
    names = {item.what for item in known}
    return [item for item in found if item.what not in names]


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], object]]:
    """A bar on standard error, if that is a terminal; to be told how many of how many."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
