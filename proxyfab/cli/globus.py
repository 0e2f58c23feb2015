"""`globus`: log in to Globus, and try the sites of a `globus://` URL. The only commands of it that may prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from proxyfab.abc import Finding
from proxyfab.buffers import Frames
from proxyfab.cli.output import as_json, show, show_json
from proxyfab.connectors.globus import GlobusConnector
from proxyfab.connectors.globus.account import log_in
from proxyfab.connectors.globus.sites import Site
from proxyfab.errors import ConfigurationError, ProxyfabError
from proxyfab.spec import ConnectorSpec

_BYTES = 2**20
_PATIENCE = 300.0
_SPACE = "proxyfab-selftest"
"""Of the self-test alone: what the namespace of a URL holds, or waits to be sent, is not its business."""


@click.group()
def globus() -> None:
    """Move objects between facilities by Globus: log in, and try it."""


@globus.command()
@click.argument("url", default="")
@click.option("--consent", "consents", multiple=True, help="A scope that Globus asked for; may be repeated.")
def login(url: str, consents: tuple[str, ...]) -> None:
    """Log in, with the consents that the collections of URL (globus://...) ask for."""
    spec = ConnectorSpec.parse(url or "globus://")
    if spec.scheme != "globus":
        raise ConfigurationError(f"{url!r} is no globus:// URL: no other place wants a login at Globus.")
    collections = [Site.parse(text).collection for option, text in spec.options if option == "at"]
    click.echo(f"logged in; tokens are in {log_in(collections, consents)}")


@globus.command()
@click.argument("url")
@as_json
def selftest(url: str, as_json: bool) -> None:
    """Try the collections of URL with 1 MiB: put it here, send it to the others, evict it everywhere.

    In a namespace of its own, whichever URL names.
    """
    findings = list(_try(url))
    if as_json:
        show_json([finding._asdict() for finding in findings])
    else:
        show(("check", "state", "detail"), findings)
    if any(finding.state == "fail" for finding in findings):
        raise SystemExit(1)


def _try(url: str) -> Iterator[Finding]:
    with GlobusConnector.from_url(url, name=_SPACE) as connector:
        begun = time.monotonic()
        step = "put"
        try:
            key = connector.put(Frames([b"\x07" * _BYTES]))
            yield Finding(step, "ok", f"1 MiB at {connector.here.collection}")
            step = "sent"
            connector.flush(_PATIENCE)
            yield Finding(step, "ok", f"to {len(connector.sites) - 1} sites after {time.monotonic() - begun:.1f} s")
            step = "evicted"
            connector.evict(key)
            connector.flush(_PATIENCE)
            yield Finding(step, "ok", f"everywhere after {time.monotonic() - begun:.1f} s")
        except ProxyfabError as error:
            yield Finding(step, "fail", f"{type(error).__name__}: {error}")
