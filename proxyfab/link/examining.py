"""Which way leads to another site, and why the others do not: for `proxyfab doctor --peer`. Changes nothing there.

Promises: each step ends in its time; every way is tried, in the order in which a gateway would.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence

from proxyfab.abc import Finding
from proxyfab.errors import ProxyfabError
from proxyfab.link.attending import call
from proxyfab.link.dialling import Dial, proxy_for, usual
from proxyfab.link.doors import LINK, Hello, knock
from proxyfab.link.identity import Identity
from proxyfab.osio.addresses import reach

_STEP = 5.0
Address = tuple[str, int]


def examine(
    identity: Identity, peer: str, address: Address | None, relays: Sequence[Address], dial: Dial = usual
) -> Iterator[Finding]:
    """What was found on each way, and at last which one a gateway would take.

    Args:
        identity: This site's.
        peer: The other site's name.
        address: Where it listens, if it does.
        relays: Host and port of each relay.
        dial: Makes connections.
    """
    tried: list[tuple[str, list[Finding]]] = []
    if address is not None:
        tried.append(("direct", list(_direct(identity, peer, address, dial))))
    for relay in relays:
        name = "relay" if len(relays) == 1 else "relay {}:{}".format(*relay)
        tried.append((name, list(_relayed(identity, peer, relay, dial, name))))
    good = [name for name, findings in tried if all(finding.state != "fail" for finding in findings)]
    for _, findings in tried:
        for finding in findings:
            yield finding._replace(state="warn") if good and finding.state == "fail" else finding
    if good:
        yield Finding("way", "ok", f"links to site {peer} go {_word(good[0])}")
    elif tried:
        yield Finding("way", "fail", f"no way leads to site {peer}; what is wrong on each is above")
    else:
        detail = f"neither an address of site {peer} nor a relay is known here, so that site has to dial this one"
        yield Finding("way", "warn", f"{detail}: say where with --peer {peer}=HOST:PORT, or --relay HOST:PORT")


def _word(name: str) -> str:
    return "directly" if name == "direct" else f"through the {name}"


def _direct(identity: Identity, peer: str, address: Address, dial: Dial) -> Iterator[Finding]:
    yield from _reached("direct", address, dial)
    yield _greeted("direct", identity, peer, address, dial)


def _relayed(identity: Identity, peer: str, relay: Address, dial: Dial, name: str) -> Iterator[Finding]:
    yield from _reached(name, relay, dial)
    target = identity.public_of(peer)

    def through(host: str, port: int, timeout: float) -> socket.socket:
        return call(identity, (host, port), target, timeout, dial)

    yield _greeted(name, identity, peer, relay, through)


def _reached(way: str, address: Address, dial: Dial) -> Iterator[Finding]:
    """Name and port, or the proxy that is asked instead."""
    host, port = address
    proxy = proxy_for(host, os.environ) if dial is usual else ""
    if proxy:
        where = proxy.rpartition("@")[2]
        yield Finding(f"{way}: proxy", "ok", f"HTTPS_PROXY is asked for {host}:{port}: {where} (NO_PROXY spares hosts)")
        return
    for finding in reach(host, port, timeout=_STEP):
        yield finding._replace(check=f"{way}: {finding.check}")


def _greeted(way: str, identity: Identity, peer: str, address: Address, dial: Dial) -> Finding:
    """Whether who answers is that site, and lets us in."""
    hello = Hello(identity.name, bytes(LINK), 0, probe=True)
    begun = time.monotonic()
    try:
        connection, _ = knock(identity, peer, address, hello, timeout=_STEP, dial=dial)
    except ProxyfabError as error:
        return Finding(f"{way}: key", "fail", str(error))
    with connection:
        took = (time.monotonic() - begun) * 1e3
        may = getattr(connection, "may", "")
        rights = f"; what we may do there: {may}" if may else ""
        return Finding(f"{way}: key", "ok", f"site {peer} proves its key and knows ours ({took:.0f} ms){rights}")
