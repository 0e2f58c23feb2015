"""`relay`: connects gateways of which neither can be dialled, until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from proxyfab.cli.gateway import address
from proxyfab.cli.output import Seconds
from proxyfab.cli.serve import run_until_told
from proxyfab.errors import ConfigurationError

if TYPE_CHECKING:
    from proxyfab.relay.server import Limits

_Some = click.IntRange(min=1)


@click.command()
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="HOST:PORT; port 0 is any.")
@click.option("--allow", multiple=True, help="Public key of a site that is served (`proxyfab keys show SITE`).")
@click.option("--open", "open_to_all", is_flag=True, help="Serve every site that can sign with a key of its own.")
@click.option("--sites", default=256, type=_Some, show_default=True, help="Sites that are registered at most.")
@click.option("--pairs", default=1024, type=_Some, show_default=True, help="Connections that are passed on at most.")
@click.option("--pairs-of-one", default=256, type=_Some, show_default=True, help="Of these of one site at most.")
@click.option(
    "--idle",
    default=3600.0,
    type=Seconds(open_=True),
    show_default=True,
    help="Seconds that a connection may be silent.",
)
@click.option("--ready-file", type=click.Path(dir_okay=False), help="Written when sites can connect (JSON).")
@click.option("--ready-fd", type=int, help="Written to and closed when sites can connect (JSON).")
def relay(
    listen: str,
    allow: tuple[str, ...],
    open_to_all: bool,
    sites: int,
    pairs: int,
    pairs_of_one: int,
    idle: float,
    ready_file: str | None,
    ready_fd: int | None,
) -> None:
    """Run a relay: gateways of both sites dial it, and it passes on what it cannot read. It keeps nothing."""
    from proxyfab.relay.server import Limits

    if not allow and not open_to_all:
        raise ConfigurationError("A relay serves the sites that it is told by --allow KEY, or all with --open.")
    _run(listen, allow, Limits(sites=sites, pairs=pairs, pairs_of_one=pairs_of_one, idle=idle), ready_file, ready_fd)


def _run(listen: str, allow: tuple[str, ...], limits: Limits, ready_file: str | None, ready_fd: int | None) -> None:
    from proxyfab.cli.gateway import public_key
    from proxyfab.relay.server import Relay

    allowed = frozenset(public_key(key) for key in allow) or None
    server = Relay(address(listen), allowed, limits)

    where = "{}:{}".format(*server.address)
    run_until_told("relay", f"at {where}", server, {"listen": where}, ready_file, ready_fd)
    click.echo(f"proxyfab relay: {dict(server.counters)}", err=True)
