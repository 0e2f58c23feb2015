"""Whose an unnamed namespace is, and what becomes of it when its process has ended.

The process that drew a namespace says so in Redis before its first object, under a key with a lease that `keeper`
extends. Who ends in order takes its namespaces along. Of who is killed they are taken back by whoever looks next: at
once on the same machine, where the process can be looked up, otherwise when the lease is over. Nothing looks but
`reap`, and the first put of an unnamed namespace in a process.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from proxyfab.connectors.redis import header as names
from proxyfab.connectors.redis.rounds import each, scan
from proxyfab.osio.owner import Process, Writer, running
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import pack


class Owner(NamedTuple):
    """A process that a namespace lives with, as it is written in Redis."""

    machine: str
    pid: int
    start: int
    host: str

    @classmethod
    def of(cls, process: Process) -> Owner:
        return cls(*process.writer, process.host)

    @classmethod
    def parse(cls, raw: bytes | None) -> Owner | None:
        """What was written; None for nothing, or for what nobody can read."""
        try:
            machine, pid, start, host = json.loads(raw or b"")
            return cls(str(machine), int(pid), int(start), str(host))
        except (ValueError, TypeError):
            return None

    def pack(self) -> bytes:
        """What is written."""
        return json.dumps(self).encode()

    def lives(self) -> bool | None:
        """Whether it runs; None where that cannot be known."""
        return running(Writer(self.machine, self.pid, self.start))

    def __str__(self) -> str:
        return f"{self.pid}@{self.host}"


def write(fleet: Fleet, namespace: str, owner: Owner) -> None:
    """Say whose a namespace is, for one lease from now."""
    key, lease = names.owner_name(namespace), b"%d" % int(fleet.place.lease * 1000)
    fleet.run(key, lambda link: link.call(b"SET", key, owner.pack(), b"PX", lease), "renewing the lease")
    fleet.run(names.OWNERS, lambda link: link.call(b"SADD", names.OWNERS, namespace.encode()), "renewing the lease")


def read(fleet: Fleet, namespace: str) -> Owner | None:
    """Whose a namespace is; None when nobody says so."""
    key = names.owner_name(namespace)
    return Owner.parse(fleet.run(key, lambda link: link.call(b"GET", key), "asking for an owner"))


def known(fleet: Fleet) -> dict[str, Owner | None]:
    """Every unnamed namespace that was not taken back yet, and its owner; None where the lease is over."""
    members = fleet.run(names.OWNERS, lambda link: link.call(b"SMEMBERS", names.OWNERS), "asking for owners")
    return {name: read(fleet, name) for name in sorted(bytes(member).decode(errors="replace") for member in members)}


def reason(owner: Owner | None) -> str | None:
    """Why a namespace may be taken back; None when its owner lives, or may live."""
    if owner is None:
        return "its process gave no sign of life for a whole lease"
    return f"its process {owner} has ended" if owner.lives() is False else None


def remove(fleet: Fleet, namespaces: set[str]) -> None:
    """Delete everything in unnamed namespaces, and the word of their owners."""
    only = next(iter(namespaces)) if len(namespaces) == 1 else "~*"
    for found in scan(fleet, names.space_prefix(only) + b"*"):
        doomed = [name for name in found if names.namespace_of(name) in namespaces]
        each(fleet, doomed, lambda name: (pack(b"UNLINK", name),), "taking back a namespace")
    for namespace in namespaces:
        key = names.owner_name(namespace)
        fleet.run(key, lambda link, key=key: link.call(b"UNLINK", key), "taking back a namespace")  # type: ignore[misc]
        fleet.run(
            names.OWNERS,
            lambda link, name=namespace: link.call(b"SREM", names.OWNERS, name.encode()),  # type: ignore[misc]
            "taking back a namespace",
        )
