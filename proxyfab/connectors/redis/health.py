"""What is wrong with a Redis, step by step, and what it holds and does: for `proxyfab doctor` and `proxyfab top`.

Promises: nothing is changed there, not even our own mark; what the server forbids us to ask is left out and said.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from redis import exceptions
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from proxyfab.abc import Finding, Status
from proxyfab.errors import AccessDenied, ProxyfabError
from proxyfab.osio.addresses import reach
from proxyfab.resp.errors import FOREIGN, SOON, Doing, translate
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import CONNECT, Link, pack
from proxyfab.resp.place import Address, Place

_OLDEST = (6, 0)
_SKEW = 2.0
_NEARLY = 0.9
_NEEDED = (
    # what a connector does, by commands that must be allowed to its user
    (b"SET", b"proxyfab:x", b"x"),
    (b"GETRANGE", b"proxyfab:x", b"0", b"0"),
    (b"UNLINK", b"proxyfab:x"),
    (b"PEXPIRE", b"proxyfab:x", b"1"),
    (b"SCAN", b"0"),
    (b"MULTI",),
)
_COUNTERS = {
    "total_commands_processed": "commands",
    "keyspace_hits": "hits",
    "keyspace_misses": "misses",
    "total_net_input_bytes": "received_bytes",
    "total_net_output_bytes": "sent_bytes",
    "expired_keys": "expired",
    "evicted_keys": "evicted",
}
_PEER = {"name": "name", "user": "user", "age": "seconds", "idle": "idle_seconds", "tot-mem": "memory_bytes"}


def diagnose(place: Place) -> Iterator[Finding]:
    """See `abc.SupportsDiagnosis`. Of several hosts each is looked at; one that answers is enough."""
    answering: list[Address] = []
    for host, port in place.hosts:
        steps = list(reach(host, port, timeout=min(CONNECT, place.timeout))) if port else [_socket(host)]
        if steps[-1].state == "ok":
            answering.append((host, port))
        elif len(place.hosts) > 1:
            steps[-1] = steps[-1]._replace(state="warn")
        yield from steps
    if not answering and len(place.hosts) > 1:
        yield Finding("port", "fail", f"none of the {len(place.hosts)} hosts of {place.label} answers")
    if not answering:
        return
    yield from _servers(place)


def _servers(place: Place) -> Iterator[Finding]:
    fleet = Fleet(place)
    try:
        secret = place.secret()
        masters = fleet.masters()
    except AccessDenied as error:
        yield Finding("key", "fail", str(error))
        return
    except ProxyfabError as error:
        yield Finding("sentinel" if place.sentinel else "cluster" if place.cluster else "server", "fail", str(error))
        return
    finally:
        fleet.close()
    for address in masters:
        named = f"{address[0]}:{address[1]}: " if len(masters) > 1 else ""
        for finding in _server(address, place, secret):
            yield finding._replace(detail=named + finding.detail)
            if finding.state == "fail":
                return


def _socket(path: str) -> Finding:
    if not os.path.exists(path):
        return Finding("socket", "fail", f"{path} is not there; start the server, or correct its `unixsocket`")
    return Finding("socket", "ok", path)


def _server(address: Address, place: Place, secret: str | None) -> Iterator[Finding]:
    seconds = min(CONNECT, place.timeout)
    doing = Doing("looking", place.label, f"was not finished within {seconds:g} s")
    try:
        link = Link(address, place, secret, seconds=seconds)
    except FOREIGN as error:
        yield _no_entry(error, doing, secret, place.tls)
        return
    try:
        link.begin(seconds)
        yield Finding("key", "ok", _entered(place, secret))
        for step in (_version, _role, _clock, _permission, _memory):
            yield step(link)
    except FOREIGN as error:
        yield Finding("server", "fail", str(translate(error, doing)))
    finally:
        link.close()


def _entered(place: Place, secret: str | None) -> str:
    who = f"user {place.user}" if place.user else "the default user"
    tls = "with TLS" if place.tls else "without TLS"
    return f"{who} entered {'without a password' if secret is None else 'with a password'}, {tls}"


def _no_entry(error: BaseException, doing: Doing, secret: str | None, tls: bool) -> Finding:
    if isinstance(error, AuthenticationError) or "NOAUTH" in str(error) or "WRONGPASS" in str(error):
        used = "no password was given" if secret is None else "the password is wrong, or the user is disabled"
        hint = (
            "set PROXYFAB_REDIS_PASSWORD, or ?password=env:NAME or ?password=file:/path, and ?user= where there is one"
        )
        return Finding("key", "fail", f"{used} ({error}); {hint}")
    said = str(translate(error, doing))
    if isinstance(error, SOON):
        return Finding("server", "fail", said)
    late = isinstance(error, (TimeoutError, exceptions.TimeoutError))
    if tls and late:
        detail = f"looking {doing.late}; does the port speak TLS at all (redis:// is without)?"
        return Finding("tls", "fail", detail)
    if late:
        said = f"it accepts connections and says nothing: looking {doing.late}"
        return Finding("server", "fail", f"{said}; is it stopped, or busy? Look there, or restart it")
    broken = isinstance(error, (OSError, exceptions.ConnectionError)) and not isinstance(
        error, exceptions.InvalidResponse
    )
    if broken and not tls:
        return Finding("server", "fail", f"it breaks off the conversation ({error}); does it want TLS (rediss://)?")
    return Finding("tls" if " in TLS: " in said else "server", "fail", said)


def _version(link: Link) -> Finding:
    info = _info(link, b"server")
    text = str(info.get("redis_version", ""))
    parts = tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    if parts and parts < _OLDEST:
        return Finding("version", "fail", f"{name} {text} is too old: waiting needs 6.0 or newer; update the server")
    return Finding("version", "ok", f"{name} {text or 'of a version it does not tell'}")


def _role(link: Link) -> Finding:
    info = _info(link, b"replication")
    if info.get("role") == "slave":
        master = f"{info.get('master_host')}:{info.get('master_port')}"
        return Finding("role", "fail", f"a replica of {master}, which takes no objects; name that, or ?sentinel=")
    if _info(link, b"persistence").get("loading", 0) not in (0, "0"):
        return Finding("role", "warn", "it is loading its data; wait until it has")
    return Finding("role", "ok", f"{info.get('role', 'master')} with {info.get('connected_slaves', 0)} replicas")


def _clock(link: Link) -> Finding:
    before = time.time()
    try:
        seconds, micros = link.call(b"TIME")
    except NoPermissionError as error:  # no operation needs it
        return Finding("clock", "ok", f"not told ({error})")
    after = time.time()
    ahead = int(seconds) + int(micros) / 1e6 - (before + after) / 2
    if abs(ahead) > _SKEW:
        detail = (
            f"the server's clock is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}; ages of objects are off"
        )
        return Finding("clock", "warn", f"{detail}, times to live are not (they are the server's); synchronize both")
    return Finding("clock", "ok", f"differs by {abs(ahead) * 1e3:.0f} ms")


def _permission(link: Link) -> Finding:
    """What the user may do, by the server's own dry run (from Redis 7.0)."""
    try:
        user = link.call(b"ACL", b"WHOAMI")
    except ResponseError as error:
        return Finding("permission", "ok", f"not told ({error})")
    refused = []
    for command in _NEEDED:
        try:
            answer = link.call(b"ACL", b"DRYRUN", user, *command)
        except ResponseError as error:
            return Finding("permission", "ok", f"user {_text(user)}, whose rights are not told ({error})")
        if _text(answer) != "OK":
            refused.append(_text(command[0]))
    if refused:
        rule = "allow it ~proxyfab* +@read +@write +@connection +@transaction +scan +client|tracking (ACL SETUSER)"
        return Finding("permission", "fail", f"user {_text(user)} may not {', '.join(refused)}; {rule}")
    return Finding("permission", "ok", f"user {_text(user)} may read, write and remove")


def _memory(link: Link) -> Finding:
    info = _info(link, b"memory")
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    shown = f"{used / 2**20:,.0f} MiB used of {f'{limit / 2**20:,.0f} MiB' if limit else 'no limit (maxmemory 0)'}"
    if limit and policy != "noeviction":
        hint = "objects may vanish before they are used; set maxmemory-policy noeviction"
        return Finding("memory", "warn", f"{shown}; when it is full it evicts by itself ({policy}): {hint}")
    if limit and used > _NEARLY * limit:
        return Finding(
            "memory",
            "fail" if used >= limit else "warn",
            f"{shown}; evict objects, run `proxyfab gc`, or raise maxmemory",
        )
    return Finding("memory", "ok", shown)


def status(fleet: Fleet, spec: str) -> Status:
    """See `abc.SupportsStatus`. Counts all keys of the database, also those of others; sums over a cluster's nodes."""
    now = time.time()
    found = [fleet.run_at(address, lambda link: _figures(link, fleet.place), "status") for address in fleet.masters()]
    infos = [info for info, _, _ in found]
    counters = {ours: float(sum(int(info.get(theirs, 0)) for info in infos)) for theirs, ours in _COUNTERS.items()}
    limits = [int(info.get("maxmemory", 0)) for info in infos]
    return Status(
        spec,
        sum(keys for _, keys, _ in found),
        sum(int(info.get("used_memory", 0)) for info in infos),
        sum(limits) if all(limits) else None,
        counters,
        tuple(peer for _, _, peers in found for peer in peers),
        now - max([int(info.get("uptime_in_seconds", 0)) for info in infos], default=0),
    )


def _figures(link: Link, place: Place) -> tuple[dict[str, Any], int, list[dict[str, str | float]]]:
    info, keys = link.calls([pack(b"INFO"), pack(b"DBSIZE")])
    try:
        clients = _text(link.call(b"CLIENT", b"LIST"))
    except ResponseError:  # not allowed to everybody
        clients = ""
    rows = [dict(pair.partition("=")[::2] for pair in line.split()) for line in clients.splitlines()]
    mine = [row for row in rows if row.get("db") in (None, str(place.database))]
    return _parsed(info), int(keys), [_peer(row) for row in mine]


def _peer(row: dict[str, str]) -> dict[str, str | float]:
    found: dict[str, str | float] = {"address": row.get("addr", "")}
    for theirs, ours in _PEER.items():
        value = row.get(theirs, "")
        found[ours] = float(value) if value.isdecimal() else value
    return found


def _info(link: Link, section: bytes) -> dict[str, Any]:
    try:
        return _parsed(link.call(b"INFO", section))
    except ResponseError:  # not allowed to everybody
        return {}


def _parsed(info: Any) -> dict[str, Any]:
    pairs = (line.partition(":") for line in _text(info).splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


def _text(reply: Any) -> str:
    return bytes(reply).decode(errors="replace") if isinstance(reply, (bytes, memoryview)) else str(reply)
