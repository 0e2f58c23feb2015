"""Copies of other sites' objects: which a gateway has, and which go first when there are too many. Arithmetic.

What is in use by a request that is being answered is spared, so a batch may be larger than the limit for that long.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from proxyfab.server.index import Name


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
