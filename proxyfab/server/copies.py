"""Copies of objects at other sites than their home: which a gateway has, and which other sites have of its own.

Also which go first when there are too many. Arithmetic.

What is in use by a request that is being answered is spared, so a batch may be larger than the limit for that long.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from proxyfab.keys import Key
from proxyfab.server.index import Name

_WORTH = 1 << 20
"""Bytes from which on an object is fetched from the nearest site, and not from its home."""
_REMEMBERED = 100_000


class Copies:
    """Belongs to one thread.

    Args:
        limit: Bytes of copies at most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._known: OrderedDict[Name, int] = OrderedDict()
        self._used: Counter[Name] = Counter()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: Name) -> bool:
        return name in self._known

    def add(self, name: Name, nbytes: int) -> None:
        """A copy is here."""
        self.forget(name)
        self._known[name] = nbytes
        self.nbytes += nbytes

    def forget(self, name: Name) -> None:
        """It is not here any more."""
        self.nbytes -= self._known.pop(name, 0)

    def use(self, names: Iterable[Name]) -> None:
        """Spare these until `leave`."""
        for name in names:
            self._used[name] += 1
            if name in self._known:
                self._known.move_to_end(name)

    def leave(self, names: Iterable[Name]) -> None:
        """These are not in use any more."""
        self._used.subtract(names)
        self._used += Counter()  # without those that nobody uses

    def victims(self) -> list[Name]:
        """What has to go so that the others are within the limit, least recently used first; forgets it."""
        found: list[Name] = []
        if self.nbytes > self.limit:
            for name in list(self._known):
                if self.nbytes <= self.limit:
                    break
                if not self._used[name]:
                    self.forget(name)
                    found.append(name)
        return found

    def names(self) -> list[Name]:
        """All of them."""
        return list(self._known)


class Holders:
    """Which sites were given which objects, as far as is remembered. Belongs to one thread.

    A name's holders are those of the version that was given last: another one was put in its place since.
    """

    def __init__(self) -> None:
        self._sites: OrderedDict[Name, tuple[Key, list[str]]] = OrderedDict()

    def note(self, name: Name, place: Key, site: str, nbytes: int) -> None:
        """A site was given what lies at `place` under a name; small objects are not worth a way."""
        if nbytes >= _WORTH:
            known, sites = self._sites.get(name, (place, []))
            self._sites[name] = place, [site, *[each for each in sites if known == place and each != site]]
            self._sites.move_to_end(name)
            while len(self._sites) > _REMEMBERED:
                self._sites.popitem(last=False)

    def nearest(self, name: Name, place: Key, near: Sequence[str]) -> str:
        """The first of some sites, the nearest one first, that may have what lies at `place`; `""` for none."""
        known, sites = self._sites.get(name, (place, ()))
        return next((site for site in near if site in sites and known == place), "")
