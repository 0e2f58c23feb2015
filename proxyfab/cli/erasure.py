"""`erasure`: places that keep objects in shards: how they do, scrubbing, repairing, draining, adding, and planning."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from proxyfab.abc import Stat, SupportsScan
from proxyfab.cli.holdings import connect
from proxyfab.cli.output import as_json, public, show, show_json, size
from proxyfab.cli.places import absences
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import parse
from proxyfab.erasure.field import MOST
from proxyfab.erasure.placement import Node
from proxyfab.erasure.placement.odds import losses_of
from proxyfab.errors import CapabilityError, ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.opening import open_connector
from proxyfab.scattering.means import GONE, UPLOAD
from proxyfab.scattering.moving import NOTE
from proxyfab.scattering.registers import SUFFIX
from proxyfab.scattering.roll import ROLL, latest
from proxyfab.scattering.upkeep import Report, Upkeep
from proxyfab.spec import StoreSpec

place = click.argument("url")
_SHOWN = 10


@click.group()
def erasure() -> None:
    """Look after objects that are kept in shards over several places (erasure://).

    URL is the store's whole URL, with the namespace of each child, as `store.url` gives it.
    """


@erasure.command()
@place
@as_json
def status(url: str, as_json: bool) -> None:
    """What each child holds, whether it answers, and where it stands."""
    one = _opened(url)
    known = latest(one.scattering.means)
    drained = frozenset() if known is None else known.former
    rows = [_standing(one, number, drained) for number in range(len(one.members))]
    one.close()
    if as_json:
        show_json(rows)
        return
    cells = [
        (row["child"], row["site"] or "-", row["state"], row["shards"], size(row["bytes"]), row["capacity"])
        for row in rows
    ]
    show(("child", "site", "state", "shards", "size", "capacity"), cells, title=public(url))
    for row in rows:
        if row["fault"]:
            click.echo(f"{row['child']}: {row['fault']}", err=True)


def _standing(one: ErasureConnector, number: int, drained: frozenset[bytes]) -> dict[str, Any]:
    member = one.members[number]
    stats, fault = [], ""
    absent = "; ".join(absences(member.child))
    left = member.label in drained
    try:
        if not isinstance(member.child, SupportsScan):
            raise CapabilityError(f"{member.spec} cannot list what it holds.")
        stats = list(one.members.timed(number, "scan", lambda child: list(child.scan()), 0)())
    except ProxyfabError as error:
        fault = str(error)
    capacity = member.standing.capacity
    return {
        "child": public(member.spec),
        "site": member.standing.site,
        "state": "down" if fault else "drained" if left else "absent" if absent else "well",
        "shards": sum(_counts(stat, left) for stat in stats),
        "bytes": sum(stat.nbytes for stat in stats),
        "capacity": size(capacity) if capacity else "-",
        "fault": fault or absent,
    }


def _counts(stat: Stat, left: bool) -> bool:
    """Whether it is a shard; where all were moved away, what is no larger than the notes in their place is none."""
    return not stat.key.id.endswith((SUFFIX, GONE, UPLOAD, ROLL)) and not (left and stat.nbytes <= NOTE)


@erasure.command()
@place
@as_json
def scrub(url: str, as_json: bool) -> None:
    """Read and check every shard; changes nothing. Status 1 if something is lost, missing or broken."""
    report = _run(url, "scrubbing", lambda upkeep, _: upkeep.scrub())
    _tell(report, as_json)
    if report.missing or report.broken or report.lost or report.failures:
        sys.exit(1)


@erasure.command()
@place
@as_json
def repair(url: str, as_json: bool) -> None:
    """Read every shard and restore those that are missing or broken; take back what nobody means."""
    report = _run(url, "repairing", lambda upkeep, _: upkeep.scrub(repair=True))
    _tell(report, as_json)
    if report.lost or report.failures:
        sys.exit(1)


@erasure.command()
@place
@click.argument("child")
@as_json
def drain(url: str, child: str, as_json: bool) -> None:
    """Move everything that CHILD holds to the others; take it out of the URL then. CHILD is its URL, or its number.

    Before, all that is missing or broken is restored; where that cannot be, nothing is moved.
    """
    report = _run(url, "draining", lambda upkeep, one: upkeep.drain(_number(one, child)))
    _tell(report, as_json)
    if report.failures:
        sys.exit(1)


@erasure.command()
@place
@click.argument("child")
@click.option("--rebalance", is_flag=True, help="Move shards to it until all hold about as much.")
@as_json
def add(url: str, child: str, rebalance: bool, as_json: bool) -> None:
    """Add CHILD, a URL and what is said of it ('file:///new?ns=run7;site=houston'), and print the new URL.

    One at a time, with k and m as they are; every process is to use the new URL from then on.
    """
    one = _opened(url)
    new = parse(f"erasure://?child={child}")[1][0]
    opened = open_connector(new[0])
    standings = [member.standing for member in one.members.all]
    how = one.options.checked(len(one.members))
    options = one.options._replace(k=how.k, m=how.m)
    more = ErasureConnector([*one.children, opened], options, standings=[*standings, new[1]])
    Upkeep(one.scattering, one.registers, _bar("looking")).settle(opened)
    upkeep = Upkeep(more.scattering, more.registers, _bar("adding"))
    report = upkeep.joined()
    if rebalance:
        report = report.plus(upkeep.rebalance())
    url = str(StoreSpec.parse(url)._replace(connector=more.spec))
    more.close()
    if as_json:
        show_json(report._asdict() | {"url": url})
        return
    click.echo(url)
    _tell(report, as_json)


@erasure.command()
@click.option("--sites", default=6, show_default=True, help="How many places there are that fail independently.")
@click.option("--per-site", default=1, show_default=True, help="Children at each of them.")
@click.option("--afr", default=0.01, show_default=True, help="Failures a year that lose what a child holds.")
@click.option("--site-afr", default=0.0, show_default=True, help="Failures a year of a whole site.")
@click.option("--target", default=0.99999, show_default=True, help="How probable it must be that an object survives.")
@click.option("--days", default=365.0, show_default=True, help="For how long, if nobody repairs anything.")
@as_json
def plan(sites: int, per_site: int, afr: float, site_afr: float, target: float, days: float, as_json: bool) -> None:
    """Which k and m keep objects well enough, the cheapest first."""
    if sites < 1 or per_site < 1 or not 0 <= target < 1 or not 0 < days < float("inf"):
        raise ConfigurationError("A plan needs --sites and --per-site of 1 or more, a --target below 1, and --days.")
    every = (
        Node(f"{site}.{one}", capacity=1, site=str(site), annual_failure_rate=afr, annual_site_failure_rate=site_afr)
        for one in range(per_site)
        for site in range(sites)
    )
    nodes = list(islice(every, MOST))
    rows = _codes(nodes, sites, target, days)
    if as_json:
        show_json(rows)
        return
    if not rows:
        raise ConnectorError(f"No k and m keep objects with a probability of {target}; add sites, or repair meanwhile.")
    cells = [(row["k"], row["m"], f"{row['overhead']:.2f}x", f"{row['loss']:.2g}") for row in rows[:_SHOWN]]
    show(("k", "m", "takes", "loss within the time"), cells)
    best = rows[0]
    click.echo(f"erasure://?k={best['k']}&m={best['m']}&child=... over {best['k'] + best['m']} children")


def _codes(nodes: list[Node], sites: int, target: float, days: float) -> list[dict[str, Any]]:
    """Every code that meets the target, the cheapest and then the smallest first."""
    rows = []
    for count in range(2, len(nodes) + 1):
        losses = losses_of(nodes[:count], retention=days)
        for m in range(-(-count // sites), count):  # with fewer one site would take more shards along than may be lost
            if losses[m] <= 1 - target:
                rows.append({"k": count - m, "m": m, "overhead": count / (count - m), "loss": losses[m]})
    return sorted(rows, key=lambda row: (row["overhead"], row["k"]))


# -- inside ----------------------------------------------------------------------------------------------------------


def _opened(url: str) -> ErasureConnector:
    one: Any = connect(url)
    while not isinstance(one, ErasureConnector) and hasattr(one, "child"):
        one = one.child
    if not isinstance(one, ErasureConnector):
        raise ConfigurationError(f"{public(url)} keeps nothing in shards; an erasure:// URL does.")
    return one


def _number(one: ErasureConnector, child: str) -> int:
    specs = [member.spec for member in one.members.all]
    if child in specs:
        return specs.index(child)
    if child.isdigit() and int(child) < len(specs):
        return int(child)
    raise ConfigurationError(
        f"{child!r} is no child; they are {', '.join(map(public, specs))}, or their numbers from 0."
    )


def _bar(what: str) -> Any:
    console = Console(stderr=True)

    def shown(items: Iterable[Any], total: int) -> Iterable[Any]:
        hidden = not console.is_terminal
        return track(items, what, total=total, console=console, transient=True, disable=hidden)

    return shown


def _run(url: str, what: str, work: Any) -> Report:
    one = _opened(url)
    try:
        report: Report = work(Upkeep(one.scattering, one.registers, _bar(what)), one)
        one.scattering.means.flush(10.0)
        return report
    finally:
        one.close()


def _tell(report: Report, as_json: bool) -> None:
    if as_json:
        show_json(report._asdict())
        return
    numbers = {name: value for name, value in report._asdict().items() if isinstance(value, int)}
    click.echo(", ".join(f"{value} {name}" for name, value in numbers.items() if value) or "nothing is stored there")
    for name in report.lost:
        click.echo(f"lost: {name} has fewer shards than it needs", err=True)
    for failure in report.failures[:_SHOWN]:
        click.echo(failure, err=True)
