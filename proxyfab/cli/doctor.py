"""`doctor`: what this machine and a store's place allow, what is wrong, and what to do about it.

Promises: it ends, also where the place never answers. A place is only given one object, for the moment of a round trip,
in a namespace of its own where there can be one; a place that is not there is not made.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

import click

from proxyfab.abc import Connector, Finding, SupportsDiagnosis
from proxyfab.background import aside
from proxyfab.brokers.opening import open_broker
from proxyfab.cli.doctor_broker import examine_broker
from proxyfab.cli.doctor_site import examine_peer
from proxyfab.cli.holdings import connect
from proxyfab.cli.machine import examine_machine
from proxyfab.cli.output import Seconds, as_json, public, show, show_json, store_url, working
from proxyfab.cli.places import absences, fresh_memory, is_unnamed_memory, unnamed
from proxyfab.cli.top_broker import is_broker
from proxyfab.errors import ConfigurationError, ProxyfabError, ResolveTimeout
from proxyfab.spec import StoreSpec
from proxyfab.store import Store, open_store

T = TypeVar("T")
_STEP = 15.0
_PAYLOAD = 2**20


@click.command()
@store_url
@click.option(
    "--timeout",
    default=_STEP,
    type=Seconds(open_=True),
    show_default=True,
    help="Seconds that a place may take for each step.",
)
@click.option("--broker", is_flag=True, help="URL is a broker's, as nats:// and kafka:// always are.")
@click.option("--peer", default="", help="Which way leads to this site: NAME=HOST:PORT#KEY, as `serve` takes it.")
@click.option("--site", default="", help="With --peer: this site, whose key is shown there.")
@click.option("--relay", "relays", multiple=True, help="With --peer: HOST:PORT of a relay; may be repeated.")
@as_json
def doctor(
    url: str, timeout: float, broker: bool, peer: str, site: str, relays: tuple[str, ...], as_json: bool
) -> None:
    """Check this machine and a store's place, a broker, or the ways to another site, step by step.

    Exit status 1 when something is broken.
    """
    examine = _examine_broker if is_broker(url, broker) else _examine_place
    with working(f"looking at {peer.partition('#')[0] or public(url)}"):
        found = [*examine_machine(), *(examine_peer(site, peer, relays) if peer else examine(url, timeout))]
    if as_json:
        show_json([finding._asdict() for finding in found])
    else:
        show(("check", "state", "detail"), found)
    sys.exit(any(finding.state == "fail" for finding in found))


def _examine_place(url: str, timeout: float) -> Iterator[Finding]:
    """What the connector finds out itself, and then, if all is well, what happens to an object."""
    try:
        connector = connect(url)
    except ConfigurationError:
        raise
    except ProxyfabError as error:
        yield Finding(url.partition(":")[0], "fail", str(error))
        return
    own = connector.diagnose() if isinstance(connector, SupportsDiagnosis) else iter(())
    failed = False
    for name, steps in ((connector.scheme, own), ("round trip", _trial(url, connector))):
        for finding in () if failed else _in_time(steps, timeout, name):
            failed = failed or finding.state == "fail"
            yield finding
    connector.close()


def _examine_broker(url: str, timeout: float) -> Iterator[Finding]:
    """The same for a broker."""
    try:
        broker = open_broker(url)
    except ConfigurationError:
        raise
    except ProxyfabError as error:
        yield Finding(url.partition(":")[0], "fail", str(error))
        return
    for name, steps in examine_broker(broker):
        for finding in _in_time(steps, timeout, name):
            yield finding
            if finding.state == "fail":
                return


def _in_time(steps: Iterator[Finding], timeout: float, name: str) -> Iterator[Finding]:
    """The findings, and a failure in place of one that takes too long; who still waits for it is left behind."""
    last = ""
    while True:
        try:
            finding = aside(lambda: next(steps, None), "the place").result(timeout)
        except ResolveTimeout:
            behind = f" after the step {last!r}" if last else ""
            hint = "the machine or its server hangs, or something between drops what is sent"
            yield Finding(name, "fail", f"no answer within {timeout:g} s{behind}: {hint}; look there, or try again")
            return
        except ProxyfabError as error:
            yield Finding(name, "fail", str(error))
            return
        except Exception as bug:  # noqa: BLE001 - of a connector's: what was found until then is worth seeing
            yield Finding(name, "fail", f"unexpected {type(bug).__name__}: {bug}; a fault of the connector, report it")
            return
        if finding is None:
            return
        last = finding.check
        yield finding


def _trial(url: str, connector: Connector) -> Iterator[Finding]:
    """A round trip where it makes nothing that stays."""
    absent = absences(connector)
    if absent and not is_unnamed_memory(url):
        yield Finding("round trip", "warn", f"not tried: {'; '.join(absent)}. Check the URL; the first put makes it")
        return
    with fresh_memory() if absent else contextlib.nullcontext(), open_store(unnamed(url)) as store:
        yield from _round_trip(store, StoreSpec.parse(url).seal)


def _round_trip(store: Store, seal: str) -> Iterator[Finding]:
    """Put, get and evict one object, as a user's process would."""
    payload = os.urandom(_PAYLOAD)
    started = time.perf_counter()
    key = store.put(payload, ttl=60)
    answers = {"get": store.get(key) == payload, "evict": store.evict(key), "exists": not store.exists(key)}
    took = (time.perf_counter() - started) * 1e3
    wrong = [step for step, right in answers.items() if not right]
    if wrong:
        detail = f"wrong answer to {', '.join(wrong)}; report it with the place's version"
        yield Finding("round trip", "fail", detail)
    else:
        sealed = f", sealed ({seal})" if seal else ""
        detail = f"put, get and evict of 1 MiB in {took:.1f} ms at {store.connector.place}{sealed}"
        yield Finding("round trip", "ok", detail)
