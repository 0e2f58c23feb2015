"""Holdings: who still needs which stored object: clients that claim it, and Dask's tasks that name it.

Pure bookkeeping, for one thread: no store, no clock, no Dask. What it answers with is free: nobody needs it any more.

Rules:
1. An object is free as soon as no client claims it and no task names it, and is answered with exactly once.
2. Claims are counted: a client that claims twice releases twice. All that a client claimed ends with the client.
3. A task names what it was first said to name; who says so again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """Where an object lies."""

    url: str
    """Of the store."""
    key: str
    """The text of its key there."""

    @property
    def id(self) -> str:
        """Of its key, without what the store adds, which differs between those that know more or less of the place."""
        return self.key.partition("@")[0]


class Holdings:
    """What is held, and for whom."""

    def __init__(self) -> None:
        self._claims: dict[Place, Counter[str]] = {}
        self._claimed: dict[str, set[Place]] = {}
        self._tasks: dict[Place, set[Hashable]] = {}
        self._named: dict[Hashable, tuple[Place, ...]] = {}
        self._sizes: dict[Place, int] = {}

    def __len__(self) -> int:
        return len(self._tasks.keys() | self._claims.keys())

    def __contains__(self, place: Place) -> bool:
        return place in self._tasks or place in self._claims

    def ids(self) -> set[str]:
        """Of the keys of all objects that are held, wherever they lie."""
        return {place.id for place in self._tasks.keys() | self._claims.keys()}

    @property
    def nbytes(self) -> int:
        """Of the objects that tasks name, each counted once."""
        return sum(self._sizes.values())

    @property
    def uses(self) -> int:
        """How often an object is named by a task."""
        return sum(map(len, self._tasks.values()))

    def claims(self, client: str) -> bool:
        """Whether this client claims anything."""
        return client in self._claimed

    def names(self, task: Hashable) -> bool:
        """Whether this task is known to name something."""
        return task in self._named

    def claim(self, client: str, places: Iterable[Place]) -> None:
        """The client is about to name these in a graph."""
        for place in places:
            self._claims.setdefault(place, Counter())[client] += 1
            self._claimed.setdefault(client, set()).add(place)

    def release(self, client: str, places: Iterable[Place]) -> list[Place]:
        """One claim of the client's on each ends."""
        free = []
        for place in places:
            claims = self._claims.get(place)
            if claims is None or client not in claims:
                continue
            claims[client] -= 1
            if claims[client] <= 0:
                free += self._end(client, place)
        return free

    def leave(self, client: str) -> list[Place]:
        """All claims of the client's end."""
        return [free for place in tuple(self._claimed.get(client, ())) for free in self._end(client, place)]

    def _end(self, client: str, place: Place) -> list[Place]:
        claimed = self._claimed[client]
        claimed.discard(place)
        if not claimed:
            del self._claimed[client]
        claims = self._claims[place]
        del claims[client]
        if claims:
            return []
        del self._claims[place]
        return [] if place in self._tasks else [place]

    def name(self, task: Hashable, sizes: Mapping[Place, int]) -> None:
        """A task names these objects, of so many bytes each."""
        if task in self._named or not sizes:
            return
        self._named[task] = tuple(sizes)
        self._sizes.update(sizes)
        for place in sizes:
            self._tasks.setdefault(place, set()).add(task)

    def forget(self, task: Hashable) -> list[Place]:
        """A task is gone."""
        free = []
        for place in self._named.pop(task, ()):
            tasks = self._tasks[place]
            tasks.discard(task)
            if not tasks:
                del self._tasks[place], self._sizes[place]
                if place not in self._claims:
                    free.append(place)
        return free

    def forget_all(self) -> list[Place]:
        """All tasks are gone."""
        return [place for task in tuple(self._named) for place in self.forget(task)]

    def end(self) -> list[Place]:
        """Everything is over: all that was held is free."""
        rest = [place for client in tuple(self._claimed) for place in self.leave(client)]
        return self.forget_all() + rest
