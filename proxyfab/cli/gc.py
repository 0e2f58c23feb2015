"""`gc`: report what ended processes and passed deadlines left behind, then take it back."""

from __future__ import annotations

import click

from proxyfab.abc import SupportsReap
from proxyfab.cli.holdings import connect
from proxyfab.cli.output import as_json, public, show, show_json, size, store_url
from proxyfab.errors import CapabilityError


@click.command()
@store_url
@click.option("-n", "--dry-run", is_flag=True, help="Only report.")
@as_json
def gc(url: str, dry_run: bool, as_json: bool) -> None:
    """Reclaim what is left of ended processes and expired objects at a store's place.

    Objects of running processes and of named stores are never touched.
    """
    connector = connect(url)
    if not isinstance(connector, SupportsReap):
        raise CapabilityError(f"{connector.scheme}:// leaves nothing behind that could be reclaimed from here.")
    found = connector.reap(dry_run=dry_run)
    if as_json:
        show_json([item._asdict() for item in found])
        return
    if found:
        show(("what", "size", "why"), [(item.what, size(item.nbytes), item.reason) for item in found])
    verb = "would reclaim" if dry_run else "reclaimed"
    click.echo(f"{verb} {size(sum(item.nbytes for item in found))} in {len(found)} pieces at {public(url)}")
