"""What is wrong with a node server, step by step: for `proxyfab doctor`. Changes nothing there."""

from __future__ import annotations

import os
import socket
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
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f\x03\x00"
_GREETING = 64
"""Bytes of a greeting of ZMTP 3 (RFC 23), and the first ones of ours."""


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
    lock = _lock(link)
    if lock is not None:
        yield lock
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


def _lock(link: Link) -> Finding | None:
    """What stands between both before a word is said: no ZeroMQ there, or a key on one side only.

    ZeroMQ's own events cannot tell it each time: the server may hang up before its greeting was read.
    """
    if link.address.startswith("/"):
        return None
    try:
        wanted = b"CURVE" if link.guarded else b"NULL"
        spoken = _mechanism(link.address, link.timeout)
    except ProxyfabError as error:
        return _no_entry(error, link.address)
    except OSError as error:
        detail = (
            f"{link.address} accepts connections and says nothing ({error}); is it stopped? Look there, or restart it"
        )
        return Finding("server", "fail", detail)
    if spoken == wanted:
        return None
    if spoken == b"CURVE":
        detail = f"the server has a key, and this client was not told which. {_hint(link.address)}"
        return Finding("key", "fail", detail)
    if spoken == b"NULL":
        detail = (
            f"this client was told a key for {link.address}, and the server has none: start it with --key, or forget"
        )
        return Finding("key", "fail", f"{detail} that key here (known_servers among the keys, or ?key= in the URL)")
    return Finding("server", "fail", f"what answers at {link.address} is no node server; check the port")


def _mechanism(address: str, timeout: float) -> bytes:
    """How a ZeroMQ socket wants to be spoken to, out of its greeting; b"" where it is none."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout) as link:
        link.sendall(_SIGNATURE)  # no more: who disagrees with the rest hangs up before we have read theirs
        greeting = b""
        while len(greeting) < _GREETING and (more := link.recv(_GREETING - len(greeting))):
            greeting += more
            if greeting[:1] != _SIGNATURE[:1]:
                return b""
    return greeting[12:32].rstrip(b"\0") if greeting[9:10] == _SIGNATURE[9:10] else b""


def _no_entry(error: ProxyfabError, address: str) -> Finding:
    if isinstance(error, ConfigurationError):  # it has a key, and this client has none to show
        return Finding("key", "fail", str(error))
    if isinstance(error, AccessDenied):
        return Finding("key", "fail", f"{error} {_hint(address)}")
    if isinstance(error, IntegrityError) and "version" in str(error):
        return Finding("version", "fail", str(error))
    return Finding("server", "fail", str(error))


def _hint(address: str) -> str:
    return (
        "To let a client in: here `proxyfab keys make curve client` and `proxyfab keys trust "
        f"{address} <the server's public key>`, there `proxyfab keys allow <its id> <this client's public key>`"
    )


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
        fast = status.gauges.get("storage_fast_limit")
        behind = f"; {fast / 2**20:,.0f} MiB stay in memory, the others go to its disk" if fast else ""
        return Finding("memory", "ok", f"{held}, without a limit{behind}")
    held += f" of {status.limit / 2**20:,.0f} MiB"
    if status.nbytes > _NEARLY * status.limit:
        return Finding("memory", "warn", f"{held}; evict objects, run `proxyfab gc`, or give the server more")
    return Finding("memory", "ok", held)
