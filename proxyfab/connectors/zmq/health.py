"""What is wrong with a node server, step by step: for `proxyfab doctor`. Changes nothing there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from proxyfab.abc import Finding, Status
from proxyfab.connectors.zmq.link import Link
from proxyfab.errors import AccessDenied, ConfigurationError, IntegrityError, ProxyfabError
from proxyfab.osio.addresses import reach
from proxyfab.wire.messages import VERSION

STEP = 5.0
"""Seconds that each step may take."""
_SKEW = 2.0
_NEARLY = 0.9


def diagnose(link: Link, status: Callable[[], Status]) -> Iterator[Finding]:
    """See `abc.SupportsDiagnosis`.

    Args:
        link: A fresh one to the server, with `STEP` as its timeout; it is closed here.
        status: Asks the server what it holds.
    """
    for finding in _reached(link.address, link.timeout):
        yield finding
        if finding.state == "fail":
            return
    try:
        before = time.time()
        hello = link.call("hello", lambda channel, _request: channel.welcome)
        after = time.time()
        welcome = link.known()
    except ProxyfabError as error:
        yield _no_entry(error, link.address)
        return
    finally:
        link.close()
    yield Finding("key", "ok", f"the server lets this client in (incarnation {welcome.incarnation})")
    yield Finding("version", "ok", f"both sides speak version {VERSION} of the protocol")
    yield _clock((hello.seconds("time") or before) - (before + after) / 2)
    yield _sharing(welcome.space, welcome.address)
    try:
        yield _memory(status())
    except ProxyfabError as error:
        yield Finding("memory", "fail", str(error))


def _reached(address: str, timeout: float) -> Iterator[Finding]:
    if not address.startswith("/"):
        host, _, port = address.rpartition(":")
        yield from reach(host.strip("[]"), int(port), timeout=timeout)
    elif os.path.exists(address):
        yield Finding("socket", "ok", address)
    else:
        yield Finding("socket", "fail", f"{address} is not there; start the server with `proxyfab serve`")


def _no_entry(error: ProxyfabError, address: str) -> Finding:
    if isinstance(error, ConfigurationError):  # it has a key, and this client has none to show
        return Finding("key", "fail", str(error))
    if isinstance(error, AccessDenied):
        hint = (
            f"here `proxyfab keys make curve client` and `proxyfab keys trust {address} <the server's public key>`, "
            "there `proxyfab keys allow <the server's id> <this client's public key>`"
        )
        return Finding("key", "fail", f"{error} Where the server has a key, this lets a client in: {hint}")
    if isinstance(error, IntegrityError) and "version" in str(error):
        return Finding("version", "fail", str(error))
    return Finding("server", "fail", str(error))


def _clock(ahead: float) -> Finding:
    if abs(ahead) > _SKEW:
        detail = (
            f"the server's clock is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}; ages of objects are off"
        )
        return Finding("clock", "warn", f"{detail}, times to live are not (they are the server's); synchronize both")
    return Finding("clock", "ok", f"differs by {abs(ahead) * 1e3:.0f} ms")


def _sharing(space: str, address: str) -> Finding:
    how = "through shared memory: it is of this machine" if space else "over the network"
    return Finding("path", "ok", f"large objects of {address} come {how}")


def _memory(status: Status) -> Finding:
    held = f"{status.objects} objects, {status.nbytes / 2**20:,.0f} MiB"
    if status.limit is None:
        return Finding("memory", "ok", f"{held}, without a limit")
    held += f" of {status.limit / 2**20:,.0f} MiB"
    if status.nbytes > _NEARLY * status.limit:
        return Finding("memory", "warn", f"{held}; evict objects, run `proxyfab gc`, or give the server more")
    return Finding("memory", "ok", held)
