"""One object that wants a place: what is known of the nodes, as numbers, and what sets of them would do.

Leaves to policies which of those sets to take.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import repeat

from proxyfab.erasure.placement.node import Node
from proxyfab.erasure.placement.odds import Spread, failing, spread, spread_at
from proxyfab.errors import ConfigurationError


def single(number: float) -> float:
    """A number as 32 bits hold it."""
    return float(struct.unpack("f", struct.pack("f", number))[0])


class Case:
    """One object and the nodes that are up. Sets of nodes are sequences of their numbers.

    Args:
        nodes: What is up.
        size: MB.
        target: How probable it must be that the object survives.
        retention: Days.
        compatible: As D-Rex's simulator counts: no sites, k from 2 on, 32 bits.
        site_safe: No more shards at a site than may be lost.

    Attributes:
        free: MB that each node can take.
        chances: How probable it is that each fails.
        sites: The site of each, as a number; None where no two nodes share one.
        least: The smallest k that may be chosen.
    """

    __slots__ = (
        "_allowed",
        "_compatible",
        "_limited",
        "_target",
        "chances",
        "free",
        "least",
        "nodes",
        "site_chances",
        "sites",
        "size",
        "target",
    )

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        size: float,
        target: float,
        retention: float,
        compatible: bool,
        site_safe: bool,
    ) -> None:
        self.nodes = nodes
        self.size = single(size) if compatible else size
        self.target = target
        self.free = [node.capacity - node.used for node in nodes]
        self.chances = [failing(node.annual_failure_rate, retention) for node in nodes]
        self.least = 2
        self.sites: list[int] | None = None
        self.site_chances: dict[int, float] = {}
        self._compatible = compatible
        self._limited = site_safe and not compatible
        self._target = single(target)
        self._allowed = 1.0 - target
        if not compatible and any([node.site is not None or node.annual_site_failure_rate for node in nodes]):
            self._look_at_sites(retention)

    def _look_at_sites(self, retention: float) -> None:
        numbers: dict[object, int] = {}
        sites = []
        for number, node in enumerate(self.nodes):
            site = numbers.setdefault(number if node.site is None else node.site, len(numbers))
            chance = failing(node.annual_site_failure_rate, retention)
            self.site_chances[site] = max(chance, self.site_chances.get(site, 0.0))
            sites.append(site)
        if len(numbers) < len(sites):
            self.sites = sites
        else:  # a node that is alone at its site fails when either does
            whole = self.site_chances
            self.chances = [1 - (1 - one) * (1 - whole[site]) for one, site in zip(self.chances, sites, strict=True)]

    def spread(self, members: Sequence[int]) -> Spread:
        """How many of these nodes fail."""
        if self.sites is None:
            return spread(tuple([self.chances[member] for member in members]))
        there: dict[int, list[float]] = {}
        for member in members:
            there.setdefault(self.sites[member], []).append(self.chances[member])
        return spread_at(tuple((self.site_chances[site], tuple(chances)) for site, chances in there.items()))

    def crowd(self, members: Sequence[int]) -> int:
        """The most of these nodes that one failure takes, as far as that is to be limited; at least 1."""
        if self.sites is None or not self._limited:
            return 1
        at = [self.sites[member] for member in members]
        return max(map(at.count, at), default=1)

    def survives(self, found: Spread, lost: int) -> bool:
        """Whether the target is met where so many may be lost."""
        if self._compatible:
            return found.at_most[lost] >= self._target
        return found.more[lost] <= self._allowed

    def largest_k(self, members: Sequence[int]) -> int:
        """The largest k with which one shard on each of these nodes meets the target; 0 if there is none."""
        return self.largest_of_each([self.reach(self.spread(members), self.crowd(members))])[0]

    def reach(self, found: Spread, crowd: int) -> tuple[float, ...]:
        """What says how large k may be on a set of which one failure takes so many: rising, k + 1 of it in bounds."""
        if self._compatible:
            return tuple([-one for one in reversed(found.at_most[crowd:])])
        return found.rising[: len(found.rising) - crowd]

    def largest_of_each(self, reaches: Sequence[tuple[float, ...]]) -> list[int]:
        """As `largest_k`, of many sets whose reach is known."""
        least, bound = self.least, -self._target if self._compatible else self._allowed
        return [k - 1 if k > least else 0 for k in map(bisect_right, reaches, repeat(bound))]

    def first(self, order: Sequence[int], count: int, lost: int, share: float) -> Sequence[int] | None:
        """The first nodes in an order with room for a share, no more at a site than may be lost; None if too few."""
        if self.sites is None or not self._limited:
            found = [member for member in order if self.free[member] >= share]
            return found[:count] if len(found) >= count else None
        found, full = [], dict.fromkeys(self.sites, 0)
        for member in order:
            site = self.sites[member]
            if full[site] < lost and self.free[member] >= share:
                full[site] += 1
                found.append(member)
                if len(found) == count:
                    return found
        return None

    def best(self, order: Sequence[int], count: int) -> tuple[int, Sequence[int]] | None:
        """The largest k, and its nodes, for so many shards on the first nodes that will do; None if none will."""
        if self._compatible or self.sites is None:
            members = order[:count]
            k = self.largest_k(members)
            # Orders are by room, so that who has none is behind those who have.
            return (k, members) if k and min([self.free[member] for member in members]) >= self.size / k else None
        for lost in range(1, count - self.least + 1):
            found = self.first(order, count, lost, self.size / (count - lost))
            if found is not None and self.survives(self.spread(found), lost):
                return count - lost, found
        return None


def check(nodes: Sequence[Node], size: float, target: float, retention: float) -> None:
    """Refuse what makes no sense."""
    if not size >= 0 or size == float("inf"):
        raise ConfigurationError(f"An object's size is a number of MB, not {size!r}.")
    if not 0 <= target < 1:
        raise ConfigurationError(f"A target is a probability of surviving, from 0 on and below 1, not {target!r}.")
    if not 0 <= retention < float("inf"):
        raise ConfigurationError(f"A retention is a number of days, not {retention!r}.")
    if len({node.name for node in nodes}) < len(nodes):
        raise ConfigurationError(f"Two nodes share a name: {', '.join(sorted(node.name for node in nodes))}.")
