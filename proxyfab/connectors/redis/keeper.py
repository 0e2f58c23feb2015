"""Beats: the leases of the unnamed namespaces of this process are extended every quarter, by one thread for all.

Promises: a living process that reaches the server once in a lease keeps its objects; one that was cut off, or stopped,
for longer may lose them, and what it puts later is owned again. A server that was away for three leases is not asked
any more until there is such a put. No connection is held between two beats. A forked child's beats are for its parent,
as long as that lives. Who ends in order takes its namespaces along.

A finalizer that the garbage collector runs in the midst of anything here may put into a new namespace itself: what is
kept changes by single calls of the interpreter, nothing is called under the lock, and the thread is woken by a
`SimpleQueue`, which may interrupt itself.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import threading
import time
from _queue import Empty, SimpleQueue

from proxyfab.connectors.redis.header import EPOCH
from proxyfab.connectors.redis.owners import Owner, remove, write
from proxyfab.errors import ProxyfabError
from proxyfab.exit import left
from proxyfab.fork import on_fork
from proxyfab.osio.owner import this_process
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.place import Place

_GIVEN_UP = 3
"""Leases after which a server that cannot be reached is not asked any more."""


class _Keeper:
    """All namespaces that this process answers for. One thread for all, which ends when there is none."""

    def __init__(self) -> None:
        self.hooked = False
        self.after_fork()

    def after_fork(self) -> None:
        """The parent keeps beating for what it owns."""
        self.lock = threading.RLock()
        """Of the thread's beginning and end."""
        self.kept: dict[tuple[Place, str], Owner] = {}
        self.wake: SimpleQueue[None] = SimpleQueue()
        self.next = 0.0
        self.thread: threading.Thread | None = None
        self.away: dict[Place, float] = {}
        """Since when a place could not be reached."""

    def keeps(self, place: Place, namespace: str) -> bool:
        """Whether this process already beats for a namespace."""
        return (place, namespace) in self.kept

    def keep(self, place: Place, namespace: str, owner: Owner) -> None:
        """Beat for a namespace from now on.

        Raises:
            RuntimeError: No thread can be had for it.
        """
        self.kept[place, namespace] = owner
        if not self.hooked:
            self.hooked = True
            atexit.register(self.leave)
        if self.thread is None:
            try:
                self._begin()
            except BaseException:
                self._drop(place, {namespace})
                raise
        elif time.monotonic() + place.lease / 4 < self.next:
            self.wake.put(None)

    def _begin(self) -> None:
        thread = threading.Thread(target=self._beat, name="proxyfab-background-lease", daemon=True)
        with self.lock:
            if self.thread is not None:
                return  # somebody else's, who looks at what is kept from now on
            self.thread = thread
        try:
            thread.start()
        except BaseException:
            self.thread = None
            raise

    def leave(self) -> None:
        """At exit: take along what this process owns."""
        mine = Owner.of(this_process())
        for place, spaces in self._spaces().items():
            owned = {namespace for namespace, owner in spaces.items() if owner == mine}
            if owned:
                fleet = Fleet(place._replace(timeout=left()), EPOCH)
                with contextlib.suppress(ProxyfabError, RuntimeError):  # else the lease ends by itself
                    remove(fleet, owned)
                fleet.close()

    def _spaces(self) -> dict[Place, dict[str, Owner]]:
        found: dict[Place, dict[str, Owner]] = {}
        for (place, namespace), owner in self.kept.copy().items():
            found.setdefault(place, {})[namespace] = owner
        return found

    def _beat(self) -> None:
        due: dict[Place, float] = {}
        while True:
            with self.lock:
                if not self.kept:
                    self.thread = None
                    return
            self.next = math.inf  # whoever comes while we compute wakes us
            beats, now = self._spaces(), time.monotonic()
            due = {place: due.get(place, now + place.lease / 4) for place in beats}
            for place in [place for place, when in due.items() if when <= now]:
                due[place] = now + self._extend(place, beats[place])
            self.next = min(due.values(), default=now)
            with contextlib.suppress(Empty):
                self.wake.get(timeout=max(self.next - time.monotonic(), 0.0))

    def _extend(self, place: Place, spaces: dict[str, Owner]) -> float:
        """Renew the leases at one place; seconds until it should be done again."""
        gone = {namespace for namespace, owner in spaces.items() if owner.lives() is False}
        self._drop(place, gone)
        fleet = Fleet(place._replace(timeout=min(place.timeout, max(place.lease / 4, 1.0))), EPOCH)
        try:
            for namespace, owner in spaces.items():
                if namespace not in gone:
                    write(fleet, namespace, owner)
        except ProxyfabError:
            now = time.monotonic()
            if now - self.away.setdefault(place, now) > _GIVEN_UP * place.lease:
                del self.away[place]
                self._drop(place, set(spaces))
            return min(1.0, place.lease / 8)
        finally:
            fleet.close()
        self.away.pop(place, None)
        return place.lease / 4

    def _drop(self, place: Place, namespaces: set[str]) -> None:
        for namespace in namespaces:
            self.kept.pop((place, namespace), None)


keeper = _Keeper()
on_fork(keeper)
