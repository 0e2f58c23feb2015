"""Placing: of several connectors, which one an object is put into, and what becomes of those that did not take it.

Rules:
1. A plan is made from rules and costs before anything moves (`routing.judge`); then its children are tried in order.
2. A full child is passed over; one that cannot be reached only for keys that were drawn with the put. What such a child
   has stored all the same, its answer being lost, is evicted there in the background as soon as it can be reached, for
   as long as this process lives: nobody knows its key.
3. A key says by a label of its child where its object lies, so that readers need no rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

from proxyfab.abc import Connector
from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.exit import Drain
from proxyfab.groups import grouped
from proxyfab.keys import Fresh, Key
from proxyfab.opening import open_connector
from proxyfab.routing import Costs, Judgement, Rule, Want, judge
from proxyfab.trace import Link, Meter, here, span


class Route(NamedTuple):
    """A child and which objects it takes. Make it by `Route.to`."""

    child: Any
    rule: Rule

    @classmethod
    def to(
        cls,
        child: str | Connector,
        *,
        above: int | str = 0,
        below: int | str | None = None,
        tag: str = "",
        host: str = "",
        site: str = "",
    ) -> Route:
        """A route to a connector, or the URL of one, for objects of which all of this holds; see `routing.Rule`."""
        rule = Rule.make(above=above, below=below, tag=tag, host=host, site=site)
        return cls(open_connector(child) if isinstance(child, str) else child, rule)


_Lost = tuple[int, Key]
"""A child, and a key under which it may hold an object that nobody knows of."""


class _Failed(NamedTuple):
    child: int
    error: Exception


class Placing:
    """Puts objects into one of several children. Thread-safe and fork-safe as they are.

    Args:
        routes: In order of preference.
        prefer: Of the routes that take an object, the `"first"` or the `"cheapest"`.

    Attributes:
        children: The connectors, each once.
        labels: What stands for each in a key.
        costs: What it has cost so far to move objects there.
    """

    def __init__(self, routes: Sequence[Route], prefer: str) -> None:
        by_spec = {str(route.child.spec): route.child for route in routes}
        self.children: list[Any] = list(by_spec.values())
        self.labels = [blake2b(spec.encode(), digest_size=4).hexdigest() for spec in by_spec]
        self.costs = Costs()
        self.child_of = [list(by_spec).index(route.child.spec) for route in routes]
        self._rules = [route.rule for route in routes]
        self._prefer = prefer
        self._meter = Meter()
        self._closed = False
        self._lost: Drain[tuple[int, Key]] = Drain(self._take_back, "taking back")

    def explain(self, nbytes: int, tag: str | None = None) -> list[Judgement]:
        """What the rules say of an object of this size (and tag) put here and now; the route it takes comes first."""
        known = self.costs.of(nbytes)
        costs = {route: known[child] for route, child in enumerate(self.child_of) if child in known}
        return judge(self._rules, Want.here(nbytes, tag), costs, self._prefer)

    def plan(self, nbytes: int) -> list[int]:
        """The children that take an object, in order.

        Raises:
            ConfigurationError: No rule takes it.
        """
        takers = [self.child_of[said.route] for said in self.explain(nbytes) if said.takes]
        if not takers:
            raise ConfigurationError(
                f"No route takes an object of {nbytes} bytes from {here()}, neither to "
                f"{' nor '.join(str(child.spec) for child in self.children)}; add one without conditions."
            )
        return list(dict.fromkeys(takers))

    def put(self, frames: Frames, key: Key | None, ttl: float | None, replace: bool = False) -> Key:
        """Put where the plan says; `key` is a name, Fresh, or None."""
        if key is None or type(key) is Fresh:
            return self._put_drawn(frames, key, ttl, [])
        plan = self.plan(frames.nbytes)
        for number in plan[:-1]:
            with suppress(CapacityError):
                return self.put_in(number, frames, key, ttl, replace)
        return self.put_in(plan[-1], frames, key, ttl, replace)

    def _put_drawn(
        self, frames: Frames, key: Key | None, ttl: float | None, lost: list[_Lost], failed: _Failed | None = None
    ) -> Key:
        """Put where the plan says, but for a child that failed already; `lost` may lie in those that did."""
        failure = None if failed is None else failed.error
        for number in self.plan(frames.nbytes):
            mine: list[_Lost] = []
            if failed is not None and number == failed.child:
                continue
            try:
                mine = [(number, self._drawn(number, key))]
                done = self.put_in(number, frames, mine[0][1], ttl, replace=False)
            except CapacityError as error:
                failure = error
            except ConnectorError as error:
                failure, lost = error, lost + mine
            else:
                if lost:  # not before: who is told of the failure may put under this very key again
                    self._lost.add([(asked, key.plain()) for asked, key in lost])
                return done
        assert failure is not None  # a plan is never empty
        raise failure

    def put_in(self, number: int, frames: Frames, key: Key | None, ttl: float | None, replace: bool) -> Key:
        """Put into one child, and note what it cost."""
        child = self.children[number]
        with span("put", Link(here(), child.place, child.scheme), key or "", frames.nbytes, self._meter) as step:
            done = child.put(frames, key=key, ttl=ttl, replace=replace)
        self.costs.add(number, "put", frames.nbytes, step.seconds)
        return self.joined(number, done)

    def put_many(self, many: Sequence[Frames], keys: Sequence[Key] | None, ttl: float | None) -> list[Key]:
        """Put under drawn keys (Fresh, or None), each child's share in one batch."""
        plans = [self.plan(frames.nbytes)[0] for frames in many]

        def put(number: int, places: list[int]) -> list[Key]:
            group = [many[at] for at in places]
            return self._put_group(number, group, None if keys is None else [keys[at] for at in places], ttl)

        return grouped(plans, put, self.far, "A batch of routed://")

    def _put_group(self, number: int, many: list[Frames], keys: list[Key] | None, ttl: float | None) -> list[Key]:
        child = self.children[number]
        mine: list[Key] = []
        failed = None
        try:
            mine = [self._drawn(number, keys[at] if keys else None) for at in range(len(many))]
            return [self.joined(number, key) for key in child.put_many(many, keys=mine, ttl=ttl)]
        except CapacityError:
            try:
                child.evict_many([key.plain() for key in mine])  # what of it was stored: now, as it takes room
            except ProxyfabError as error:
                failed = _Failed(number, error)
        except ConnectorError as error:
            failed = _Failed(number, error)
        done = []
        for at, frames in enumerate(many):
            lost = [(number, mine[at])] if failed is not None and mine else []
            name = mine[at] if lost else keys[at] if keys else None
            done.append(self._put_drawn(frames, name, ttl, lost, failed))
        return done

    def _drawn(self, number: int, key: Key | None) -> Key:
        """A key that nobody has, as a child draws it, so that it is known should the answer be lost."""
        drawn: Key = self.children[number].reserve()
        return Fresh.of(drawn if key is None else Key(key.id, drawn.where))

    def close(self) -> None:
        """Close the children, and let go of what could not be reached in them."""
        self._closed = True
        for child in self.children:
            child.close()

    def _take_back(self, lost: list[tuple[int, Key]]) -> None:
        if self._closed:
            return
        for number in {number for number, _ in lost}:
            self.children[number].evict_many([key for child, key in lost if child == number])

    @property
    def far(self) -> list[int]:
        """Children that are not local: they work side by side."""
        return [number for number, child in enumerate(self.children) if not child.local]

    # -- keys --------------------------------------------------------------------------------------------------------

    def joined(self, number: int, key: Key) -> Key:
        """A child's key as one of ours."""
        return Key(key.id, f"{self.labels[number]}:{key.where}")

    def split(self, key: Key) -> tuple[int, Key] | None:
        """The child that a key names, and the key as that child knows it; None where it names none of ours."""
        label, _, where = key.where.partition(":")
        return (self.labels.index(label), Key(key.id, where)) if label in self.labels else None
