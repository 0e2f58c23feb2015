"""The index: which objects a server holds, under which names, until when. Arithmetic; where the bytes lie is a key.

Every version of an object lies under a storage key of its own, that nobody else draws. So to publish is one assignment,
to replace is another one, and a reader who was told a storage key reads that version or finds it gone.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from proxyfab.abc import Stat
from proxyfab.errors import KeyExists
from proxyfab.keys import Key


class Name(NamedTuple):
    """What clients call an object."""

    namespace: str
    id: str


class Entry(NamedTuple):
    """One version of an object."""

    place: Key
    """Where it lies in the storage."""
    nbytes: int
    created: float
    expires: float | None
    version: int

    def alive(self, now: float) -> bool:
        """Whether its time to live has not passed at `now`."""
        return self.expires is None or now < self.expires


class Index:
    """Names to entries. Belongs to one thread; times are those of `State.now` and are passed in."""

    def __init__(self) -> None:
        self.count = 0
        self.nbytes = 0
        self._spaces: dict[str, dict[str, Entry]] = {}
        self._deadlines: list[tuple[float, int, Name]] = []
        self._versions = itertools.count(1)

    def find(self, name: Name, now: float) -> Entry | None:
        """The live entry under a name."""
        space = self._spaces.get(name.namespace)
        entry = None if space is None else space.get(name.id)
        return entry if entry is None or entry.alive(now) else None

    def publish(
        self, name: Name, place: Key, nbytes: int, now: float, ttl: float | None, *, replace: bool
    ) -> Entry | None:
        """Let a name mean what lies at `place`; returns what it meant before, for the storage to let go.

        Raises:
            KeyExists: It means a live object, and `replace` is not said.
        """
        if not replace and self.find(name, now) is not None:
            raise KeyExists(f"{name.id} is there already; objects are written once (say replace=True).")
        before = self.remove(name)
        entry = Entry(place, nbytes, now, None if ttl is None else now + ttl, next(self._versions))
        self._spaces.setdefault(name.namespace, {})[name.id] = entry
        self.count += 1
        self.nbytes += nbytes
        self._watch(name, entry)
        return before

    def renew(self, name: Name, now: float, ttl: float | None) -> bool:
        """Move the expiry of a live object; False when there is none."""
        entry = self.find(name, now)
        if entry is None:
            return False
        entry = entry._replace(expires=None if ttl is None else now + ttl)
        self._spaces[name.namespace][name.id] = entry
        self._watch(name, entry)
        return True

    def remove(self, name: Name) -> Entry | None:
        """Forget a name, whether what it means is alive or not."""
        space = self._spaces.get(name.namespace)
        entry = None if space is None else space.pop(name.id, None)
        if space is None or entry is None:
            return None
        if not space:
            del self._spaces[name.namespace]
        self.count -= 1
        self.nbytes -= entry.nbytes
        return entry

    def namespaces(self) -> list[str]:
        """Every namespace that holds something."""
        return list(self._spaces)

    def within(self, namespace: str | None) -> Iterator[tuple[Name, Entry]]:
        """Names and entries of a namespace, or of all, expired ones among them; as they are now."""
        for space in list(self._spaces) if namespace is None else [namespace]:
            for id, entry in list(self._spaces.get(space, {}).items()):
                yield Name(space, id), entry

    def expired(self, now: float, grace: float = 0.0) -> list[tuple[Name, Entry]]:
        """What expired at least `grace` seconds before `now`; still there until it is removed."""
        due, dead = [], []
        while self._deadlines and self._deadlines[0][0] <= now - grace:
            deadline, version, name = heapq.heappop(self._deadlines)
            entry = self._spaces.get(name.namespace, {}).get(name.id)
            if entry is not None and entry.version == version and entry.expires == deadline:
                due.append((deadline, version, name))
                dead.append((name, entry))
        for item in due:
            heapq.heappush(self._deadlines, item)
        return dead

    def stat(self, name: Name, entry: Entry, where: str, owner: str) -> Stat:
        """An entry as clients see it."""
        return Stat(Key(name.id, where), entry.nbytes, entry.created, entry.expires, name.namespace, owner)

    def _watch(self, name: Name, entry: Entry) -> None:
        if entry.expires is not None:
            heapq.heappush(self._deadlines, (entry.expires, entry.version, name))
            if len(self._deadlines) > 4 * self.count + 1000:  # renewed and removed ones have left theirs behind
                self._deadlines = [item for item in self._deadlines if self._is_current(item)]
                heapq.heapify(self._deadlines)

    def _is_current(self, item: tuple[float, int, Name]) -> bool:
        deadline, version, name = item
        entry = self._spaces.get(name.namespace, {}).get(name.id)
        return entry is not None and entry.version == version and entry.expires == deadline
