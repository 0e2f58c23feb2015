"""Whose an unnamed namespace is, and what becomes of it when its process has ended.

The process that drew a namespace says so in Redis before its first object, under a key with a lease that a background
thread extends every quarter of it. Who ends in order takes its namespaces along. Of who is killed they are taken back
by whoever looks next: at once on the same machine, where the process can be looked up, otherwise when the lease is
over. Nothing looks but `reap`, and the first put of an unnamed namespace in a process.

Promises: a living process that reaches the server once in a lease keeps its objects; one that was cut off, or stopped,
for longer may lose them, and what it puts later is owned again. A server that was away for three leases is not asked
any more until there is such a put. No connection is held between two beats. A forked child's beats are for its parent,
as long as that lives.
"""

from __future__ import annotations

import atexit
import json
import math
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from proxyfab.connectors.redis import header as names
from proxyfab.connectors.redis.fleet import Fleet
from proxyfab.connectors.redis.link import pack
from proxyfab.connectors.redis.place import Place
from proxyfab.connectors.redis.rounds import each, scan
from proxyfab.errors import ProxyfabError
from proxyfab.exit import left
from proxyfab.fork import on_fork
from proxyfab.osio.owner import Process, Writer, running, this_process

_GIVEN_UP = 3
"""Leases after which a server that cannot be reached is not asked any more."""


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


class _Keeper:
    """All namespaces that this process answers for. One thread for all, which ends when there is none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: dict[Place, dict[str, Owner]] = {}
        self.wake = threading.Event()
        self.next = 0.0
        self.thread: threading.Thread | None = None
        self.away: dict[Place, float] = {}
        """Since when a place could not be reached."""
        self.hooked = False

    def after_fork(self) -> None:
        """The parent keeps beating for what it owns."""
        self.lock = threading.Lock()
        self.kept = {}
        self.wake = threading.Event()
        self.thread = None
        self.away = {}

    def keeps(self, place: Place, namespace: str) -> bool:
        """Whether this process already beats for a namespace."""
        return namespace in self.kept.get(place, ())

    def keep(self, place: Place, namespace: str, owner: Owner) -> None:
        """Beat for a namespace from now on."""
        with self.lock:
            self.kept.setdefault(place, {})[namespace] = owner
            if not self.hooked:
                atexit.register(self.leave)
                self.hooked = True
            if self.thread is None:
                self.thread = threading.Thread(target=self._beat, name="proxyfab-background-lease", daemon=True)
                self.thread.start()
            elif time.monotonic() + place.lease / 4 < self.next:
                self.wake.set()

    def drop(self, place: Place, namespaces: Iterable[str]) -> None:
        """Beat no longer."""
        with self.lock:
            for namespace in namespaces:
                self.kept.get(place, {}).pop(namespace, None)
            if not self.kept.get(place):
                self.kept.pop(place, None)
            self.wake.set()

    def leave(self) -> None:
        """At exit: take along what this process owns."""
        mine = Owner.of(this_process())
        for place, spaces in list(self.kept.items()):
            owned = {namespace for namespace, owner in spaces.items() if owner == mine}
            if owned:
                fleet = Fleet(place._replace(timeout=left()))
                try:
                    remove(fleet, owned)
                except (ProxyfabError, RuntimeError):
                    pass  # no server, or no thread can be had: the lease ends by itself
                finally:
                    fleet.close()

    def _beat(self) -> None:
        due: dict[Place, float] = {}
        while True:
            with self.lock:
                beats = {place: dict(spaces) for place, spaces in self.kept.items()}
                if not beats:
                    self.thread = None
                    return
                self.wake.clear()
                self.next = math.inf  # whoever comes while we compute wakes us
            now = time.monotonic()
            due = {place: due.get(place, now + place.lease / 4) for place in beats}
            for place in [place for place, when in due.items() if when <= now]:
                due[place] = now + self._extend(place, beats[place])
            self.next = min(due.values())
            self.wake.wait(max(self.next - time.monotonic(), 0.0))

    def _extend(self, place: Place, spaces: dict[str, Owner]) -> float:
        """Renew the leases at one place; seconds until it should be done again."""
        gone = [namespace for namespace, owner in spaces.items() if owner.lives() is False]
        if gone:
            self.drop(place, gone)
        fleet = Fleet(place._replace(timeout=min(place.timeout, max(place.lease / 4, 1.0))))
        try:
            for namespace, owner in spaces.items():
                if namespace not in gone:
                    write(fleet, namespace, owner)
        except ProxyfabError:
            now = time.monotonic()
            if now - self.away.setdefault(place, now) > _GIVEN_UP * place.lease:
                del self.away[place]
                self.drop(place, spaces)
            return min(1.0, place.lease / 8)
        finally:
            fleet.close()
        self.away.pop(place, None)
        return place.lease / 4


keeper = _Keeper()
on_fork(keeper)


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
