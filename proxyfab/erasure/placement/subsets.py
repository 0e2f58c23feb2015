"""Sets of nodes to choose from: all of them where nodes are few, and what each set allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations, islice
from operator import itemgetter

from proxyfab.erasure.placement.case import Case

MOST = 1024
"""Sets that are looked at."""
Sets = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=32)
def all_sets(count: int) -> Sets:
    """Every set of two and more of so many, small ones first; of too many, the first of each size."""
    if 2**count <= MOST:
        return tuple(found for size in range(2, count + 1) for found in combinations(range(count), size))
    each = (MOST + 1) // (count - 1)
    return tuple(found for size in range(2, count + 1) for found in islice(combinations(range(count), size), each))


@lru_cache(maxsize=32)
def _masks(count: int) -> Callable[[Sequence[float]], Sequence[float]]:
    return itemgetter(*[sum(1 << place for place in places) for places in all_sets(count)])


def sums(values: Sequence[float], sets: Sets) -> Sequence[float]:
    """For each set of places, the sum of what lies there. Of all sets each adds one value to another: that is quick."""
    if 2 ** len(values) > MOST:
        return [sum(map(values.__getitem__, places)) for places in sets]
    found = [0.0]
    for value in values:
        found += [one + value for one in found]
    return _masks(len(values))(found) if len(sets) > 1 else [sum(values)]


@lru_cache(maxsize=32)
def windows(count: int) -> Sets:
    """Every stretch of two and more of so many in a row."""
    return tuple(tuple(range(low, low + size)) for size in range(2, count + 1) for low in range(count - size + 1))


class Allowed:
    """The largest k of each of some sets of nodes; how their nodes fail is remembered, as it seldom changes.

    Thread-safe: what is remembered is replaced as a whole.
    """

    def __init__(self) -> None:
        self._reaches: tuple[object, list[tuple[float, ...]]] = (None, [])
        self._largest: tuple[object, list[int]] = (None, [])

    def largest(self, case: Case, sets: Sets, order: tuple[int, ...]) -> list[int]:
        """For each set of places in an order, the largest k, or 0. How long the order is says which the sets are."""
        about = (tuple(case.chances), tuple(case.sites or ()), tuple(case.site_chances.items()), order)
        asked = (about, case.target, case.least)
        known, ks = self._largest
        if known != asked:
            ks = case.largest_of_each(self._of(case, sets, order, about))
            self._largest = (asked, ks)
        return ks

    def _of(self, case: Case, sets: Sets, order: tuple[int, ...], about: object) -> list[tuple[float, ...]]:
        known, found = self._reaches
        if known != about:
            members = [[order[place] for place in places] for places in sets]
            found = [case.reach(case.spread(one), case.crowd(one)) for one in members]
            self._reaches = (about, found)
        return found
