"""`routed://?to=shm://;below=1MiB&to=file:///scratch`: each object goes where the first rule that takes it says.

Rules by size, tag, host and site (`proxyfab.routing`) stand in the URL, so they are the same in every process. A key's
`where` says which child holds its object, so that readers need no rules; a key without one is looked for in all.

Promises:
1. An object lies in one child. A named key is free only where no child has it, and is replaced in all: the new object
   is put before an old one is taken away. On one machine nobody comes in between; of two on different machines who put
   different objects under one name at once both may succeed, if the rules send them to different children.
2. A full child is passed over: the next route that takes the object gets it. So is one that cannot be reached, for
   objects whose key is drawn with the put.
3. Batches are grouped by child, and children that are not local work at once. No lock is held while bytes move.
4. An object under a key that says where it lies stays in that child, whatever its size becomes.
5. What is only ever compared and set (`compare_and_set` where nothing lay) lies in the first child.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from itertools import compress, repeat
from typing import Any, ClassVar, TypeVar

from proxyfab.abc import (
    BaseConnector,
    Finding,
    Reclaimed,
    Stat,
    SupportsDiagnosis,
    check_batch,
    check_range,
    check_swap,
    check_ttl,
)
from proxyfab.abilities import claiming, shared
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, ConnectorError, KeyExists
from proxyfab.groups import grouped, wait_in_turn
from proxyfab.keys import Fresh, Key
from proxyfab.opening import open_connector
from proxyfab.osio.shared import default_root
from proxyfab.osio.turns import Turns, turns_at
from proxyfab.placing import Placing, Route
from proxyfab.routing import PREFER, Judgement, Rule, parse_route, route_text, tagged
from proxyfab.spec import ConnectorSpec

__all__ = ["Route", "RoutedConnector", "tagged"]

R = TypeVar("R")
_STEP = 0.02
"""Seconds after which a waiter for a key that names no child looks into all of them."""
_SAMPLES = (1_000, 1_000_000, 100_000_000)


class RoutedConnector(BaseConnector):
    """Several connectors and rules that choose between them. Thread-safe and fork-safe as the children are.

    Args:
        routes: In order; what no rule takes is a ConfigurationError of the put, so let the last one take anything.
        prefer: Where several routes take an object: `"first"` of them, or the `"cheapest"` as measured.

    Attributes:
        children: The connectors, each once; they are closed with this one.
    """

    scheme: ClassVar[str] = "routed"
    plain: ClassVar[type[Any] | None] = None

    def __new__(cls, routes: Sequence[Route], **_: Any) -> RoutedConnector:
        """An instance of a class that claims what all children have."""
        abilities = shared([route.child for route in routes]) | {SupportsDiagnosis}
        return super().__new__(claiming(cls.plain or cls, abilities))

    def __init__(self, routes: Sequence[Route], *, prefer: str = "first") -> None:
        if not routes:
            raise ConfigurationError("routed:// needs at least one route: routed://?to=shm://.")
        if prefer not in PREFER:
            raise ConfigurationError(
                f"prefer={prefer!r} makes no sense in routed://; write one of {', '.join(PREFER)}."
            )
        self.routes = tuple(routes)
        self.prefer = prefer
        self._placing = Placing(self.routes, prefer)
        self.children = self._placing.children
        self.checksums = any(child.checksums for child in self.children)  # type: ignore[misc]  # it is the children's
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> RoutedConnector:
        options = ConnectorSpec.parse(url).options
        others = dict(option for option in options if option[0] != "to")
        unknown = sorted(set(others) - {"prefer"})
        if unknown or len(others) < sum(option != "to" for option, _ in options):
            raise ConfigurationError(
                f"routed:// has no option {(unknown or ['prefer'])[0]!r} here; it knows to, prefer."
            )
        texts = [parse_route(text) for option, text in options if option == "to"]
        opened = {child: open_connector(child, name=name) for child in dict.fromkeys(child for child, _ in texts)}
        routes = [Route(opened[child], Rule.parse(conditions)) for child, conditions in texts]
        return cls(routes, prefer=others.get("prefer", "first"))

    @property
    def spec(self) -> str:
        routes = [("to", route_text(route.child.spec, str(route.rule))) for route in self.routes]
        prefer = [] if self.prefer == "first" else [("prefer", self.prefer)]
        return str(ConnectorSpec("routed", options=(*routes, *prefer)))

    @property
    def place(self) -> str:
        return str(self.children[0].place)

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return all(child.local for child in self.children)

    @property
    def wait_bound(self) -> float:  # type: ignore[override]  # as above
        return float(max(_STEP, *(child.wait_bound for child in self.children)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.plain or type(self), self.routes, self.prefer)

    # -- where it goes -------------------------------------------------------------------------------------------

    def explain(self, nbytes: int, tag: str | None = None) -> list[Judgement]:
        """What the rules say of an object of this size (and tag) put here and now; the route it takes comes first."""
        return self._placing.explain(nbytes, tag)

    # -- one object ----------------------------------------------------------------------------------------------

    def reserve(self) -> Key:
        return Key.draw()  # its size, and so its child, is not known yet

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        self._use()
        if key is None or (type(key) is Fresh and not key.where):
            return self._placing.put(frames, key, ttl)
        if key.where:
            number, inner = self._split(key)
            return self._placing.put_in(number, frames, inner, ttl, replace)
        with self._turn(key.id):
            holders = self._holders(key)
            if holders and not replace:
                raise KeyExists(f"{key} holds an object, and objects are written once (say replace=True).")
            done = self._placing.put(frames, key, ttl, replace)
            home = self._split(done)[0]
            for number in holders:
                if number != home:
                    self.children[number].evict(key)
        return done

    def get(self, key: Key) -> Frames | None:
        return self._look(key, self._get)

    def _get(self, number: int, key: Key) -> Frames | None:
        started = time.perf_counter()
        found: Frames | None = self.children[number].get(key)
        if found is not None:
            self._placing.costs.add(number, "get", found.nbytes, time.perf_counter() - started)
        return found

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        return self._look(key, lambda number, key: self.children[number].get_range(key, offset, length))

    def exists(self, key: Key) -> bool:
        return self._look(key, lambda number, key: self.children[number].exists(key) or None) is not None

    def stat(self, key: Key) -> Stat | None:
        found = self._look(key, lambda number, key: (stat := self.children[number].stat(key)) and (number, stat))
        return None if found is None else self._as_ours(*found)

    def evict(self, key: Key) -> bool:
        self._use()
        if key.where:
            number, inner = self._split(key)
            return bool(self.children[number].evict(inner))
        with self._turn(key.id):
            return any([child.evict(key) for child in self.children])

    def renew(self, key: Key, ttl: float | None) -> bool:
        check_ttl(ttl)
        return self._look(key, lambda number, key: self.children[number].renew(key, ttl) or None) is not None

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        self._use()
        waits: dict[int, dict[Key, Key]] = {}  # by child: each key as it is called there, and as it was given
        for key in keys:
            for number, inner in [self._split(key)] if key.where else enumerate(repeat(key, len(self.children))):
                waits.setdefault(number, {})[inner] = key
        if len(waits) == 1:
            ((number, there),) = waits.items()
            return [there[inner] for inner in self.children[number].wait_any([*there], timeout)]
        turns = [partial(self.children[number].wait_any, [*there]) for number, there in waits.items()]
        return wait_in_turn(lambda: [*compress(keys, self.exists_many(keys))], turns, timeout, _STEP)

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_swap(old, new)
        self._use()
        if key.where:
            number, inner = self._split(key)
            return bool(self.children[number].compare_and_set(inner, old, new, ttl=ttl))
        with self._turn(key.id):
            home = next(iter(self._holders(key)), 0)
            return bool(self.children[home].compare_and_set(key, old, new, ttl=ttl))

    # -- many ----------------------------------------------------------------------------------------------------

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        check_batch(many, keys)
        check_ttl(ttl)
        self._use()
        if all(type(key) is Fresh and not key.where for key in keys or ()):
            return self._placing.put_many(many, keys, ttl)
        return super().put_many(many, keys=keys, ttl=ttl, replace=replace)

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return self._each(keys, "get_many", self.get)

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return self._each(keys, "exists_many", self.exists)

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        return self._each(keys, "evict_many", self.evict)

    def _each(self, keys: Sequence[Key], many: str, one: Callable[[Key], R]) -> list[R]:
        """An answer for each key: those that say where they lie by child, the others one by one."""
        self._use()
        parts = [self._split(key) if key.where else (-1, key) for key in keys]

        def ask(number: int, places: list[int]) -> list[R]:
            wanted = [parts[place][1] for place in places]
            if number < 0:
                return [one(key) for key in wanted]
            return getattr(self.children[number], many)(wanted)  # type: ignore[no-any-return]

        return self._by_child([number for number, _ in parts], ask)

    def _by_child(self, numbers: list[int], ask: Callable[[int, list[int]], list[R]]) -> list[R]:
        return grouped(numbers, ask, self._placing.far, f"A batch of {self.scheme}://")

    # -- the whole -----------------------------------------------------------------------------------------------

    def scan(self) -> Iterator[Stat]:
        self._use()
        for number, child in enumerate(self.children):
            for stat in child.scan():
                yield self._as_ours(number, stat)

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        self._use()
        return [taken for child in self.children for taken in child.reap(dry_run=dry_run)]

    def clear(self) -> int:
        self._use()
        return sum(child.clear() for child in self.children)

    def diagnose(self) -> Iterator[Finding]:
        for nbytes in _SAMPLES:
            said = self.explain(nbytes)[0]
            child = self.children[self._placing.child_of[said.route]]
            place = child.spec if said.takes else "nowhere: no route takes it"
            yield Finding(f"route of {nbytes} bytes", "ok" if said.takes else "warn", f"to {place}")
        for child in self.children:
            if isinstance(child, SupportsDiagnosis):
                yield from child.diagnose()

    def close(self) -> None:
        self._closed = True
        self.__dict__.pop("_turns", None)  # its file is closed when nobody has it
        self._placing.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _use(self) -> None:
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")

    def _split(self, key: Key) -> tuple[int, Key]:
        """The child that a key names, and the key as that child knows it."""
        parts = self._placing.split(key)
        if parts is None:
            raise ConnectorError(f"{key} does not lie in {self.spec}; ask the store that its reference names.")
        return parts

    def _as_ours(self, number: int, stat: Stat) -> Stat:
        return stat._replace(key=self._placing.joined(number, stat.key))

    def _look(self, key: Key, look: Callable[[int, Key], R | None]) -> R | None:
        """What `look` finds in the child that the key names or, one after the other, in all: twice, as it may move."""
        self._use()
        if key.where:
            return look(*self._split(key))
        count = len(self.children)
        for number in range(count if count == 1 else 2 * count):
            found = look(number % count, key)
            if found is not None:
                return found
        return None

    def _holders(self, key: Key) -> list[int]:
        return [number for number, child in enumerate(self.children) if child.exists(key)]

    def _turn(self, id: str) -> AbstractContextManager[None]:
        """Nobody on this machine changes what lies under a named key meanwhile; one child does that by itself."""
        if len(self.children) == 1:
            return nullcontext()
        return self._turns.take(f"{'+'.join(sorted(self._placing.labels))} {id}")

    @cached_property
    def _turns(self) -> Turns:
        return turns_at(default_root())


def _rebuild(kind: Any, routes: Sequence[Route], prefer: str) -> RoutedConnector:
    return kind(routes, prefer=prefer)  # type: ignore[no-any-return]
