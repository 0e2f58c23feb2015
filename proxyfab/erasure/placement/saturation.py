"""D-Rex SC (arXiv 2506.02026), "saturation-controlled": fast while there is room, thrifty and balanced as it fills."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from operator import itemgetter

from proxyfab.erasure.placement.case import Case
from proxyfab.erasure.placement.policy import Choice, Policy
from proxyfab.erasure.placement.subsets import MOST, Allowed, Sets, all_sets
from proxyfab.erasure.placement.times import Times, moving

_OFFERED = 10_000.0
"""MB after which the simulator orders its nodes anew for each item."""


_Costs = tuple[float, float, float, int]
"""MB stored, seconds to write and read it, how full its nodes are then, and its number."""
_Fitting = tuple[int, tuple[int, ...], float, float]
"""k, the places of nodes, and the slowest MB/s to write to and to read from them."""


class SaturationControlled(Policy):
    """Of all sets of nodes that no other surpasses in balance, time and bytes at once, the one with the best score.

    The more of all room is taken, the less time counts in it. Its simulator measures that by the smallest item so far;
    without `compatible=True` it is the object itself, or what `smallest` says.

    Args:
        times: How long coding takes.
        smallest: MB of the smallest object to come; None for each object itself.
    """

    def __init__(
        self,
        times: Times | None = None,
        *,
        smallest: float | None = None,
        compatible: bool = False,
        site_safe: bool = True,
    ) -> None:
        super().__init__(compatible=compatible, site_safe=site_safe)
        self.times = times or Times()
        self._smallest = smallest
        self._offered = 0.0
        self._reference = 0.0
        self._allowed = Allowed()
        self._first: list[int] = []
        self._known: tuple[object, tuple[list[float], list[float]]] = (None, ([], []))

    def _choose(self, case: Case) -> Choice | None:
        order = self._order(case)
        if len(order) < 2:
            return None
        smallest, reference = self._seen(case.size)
        fitting = self._fitting(case, order)
        if not fitting:
            return None
        costs = self._costs(case, order, fitting, smallest, reference)
        total = sum(node.capacity for node in case.nodes)
        saturation = _full(len(order), sum(case.free), total, smallest)
        k, places, *_ = fitting[_best(costs, saturation)]
        return Choice(k, [order[place] for place in places])

    def _fitting(self, case: Case, order: list[int]) -> list[_Fitting]:
        """What meets the target and has room."""
        sets = all_sets(len(order))
        ks = self._allowed.largest(case, sets, tuple(order))
        found = [one for one in zip(ks, sets, *self._slowest(case, order, sets), strict=True) if one[0]]
        if min(case.free) >= case.size / case.least:
            return found
        free = [case.free[number] for number in order].__getitem__
        return [one for one in found if min(map(free, one[1])) >= case.size / one[0]]

    def _slowest(self, case: Case, order: list[int], sets: Sets) -> tuple[list[float], list[float]]:
        """Of each set, the slowest to write to and to read from; remembered, as it seldom changes."""
        about = tuple([(case.nodes[number].write_bandwidth, case.nodes[number].read_bandwidth) for number in order])
        known, found = self._known
        if known != about:
            writes, reads = ([one[axis] for one in about].__getitem__ for axis in (0, 1))
            found = [min(map(writes, places)) for places in sets], [min(map(reads, places)) for places in sets]
            self._known = about, found
        return found

    def _order(self, case: Case) -> list[int]:
        by_capacity = sorted(range(len(case.nodes)), key=lambda at: case.nodes[at].capacity, reverse=True)
        if 2 ** len(by_capacity) <= MOST:
            return by_capacity
        if not self.compatible or self._offered >= _OFFERED or len(self._first) != len(by_capacity):
            self._first = sorted(by_capacity, key=case.free.__getitem__, reverse=True)
        return self._first

    def _seen(self, size: float) -> tuple[float, float]:
        """The smallest item so far, and the size whose measurements count."""
        nearest = self.times.nearest(size)
        if not self.compatible:
            return min(size, self._smallest or size), nearest
        self._offered += size
        self._smallest = size if self._smallest is None else min(size, self._smallest)
        if nearest != 1:  # the simulator keeps the last one where it should take 1 MB
            self._reference = nearest
        return self._smallest, self._reference

    def _costs(
        self, case: Case, order: list[int], fitting: Sequence[_Fitting], smallest: float, reference: float
    ) -> list[_Costs]:
        count, size, free = len(order), case.size, case.free
        nodes = [case.nodes[number] for number in order]
        largest = max([node.capacity for node in nodes])
        by_k = {}
        for k in {one[0] for one in fitting}:
            writing = {speed: moving(size, k, speed) for speed in {node.write_bandwidth for node in nodes}}
            reading = {speed: moving(size, k, speed) for speed in {node.read_bandwidth for node in nodes}}
            coding = [0.0, 0.0, *[self.times.coding(size, reference, n, k) for n in range(2, count + 1)]]
            fullness = [_full(count, free[number] - size / k, largest, smallest) for number in order]  # with a share
            by_k[k] = size / k, coding, writing, reading, fullness.__getitem__
        found = []
        for number, (k, places, writes, reads) in enumerate(fitting):
            n = len(places)
            share, coding, writing, reading, full = by_k[k]
            seconds = coding[n] + writing[writes] + reading[reads]
            found.append((share * n, seconds, sum(map(full, places)) / n, number))
        return found


def _full(count: int, free: float, capacity: float, smallest: float) -> float:
    """How saturated it is: 0 where all is free, 1 - 1 / count where nothing but the smallest item fits."""
    if smallest >= capacity:
        return 0.0
    left: float = (1 / count) ** ((free - capacity) / (smallest - capacity))
    return 1 - left


def _best(costs: list[_Costs], saturation: float) -> int:
    """The number of the best score among those that none surpasses; the first of two that are as good."""
    front = _front(costs)
    stored, seconds, fullness = [_progress([one[axis] for one in front]) for axis in range(3)]
    scores = [
        (1 - saturation) * second + (space + full) / 2
        for space, second, full in zip(stored, seconds, fullness, strict=True)
    ]
    return front[scores.index(max(scores))][3]


def _front(costs: list[_Costs]) -> list[_Costs]:
    """Those of which no other is as good in all three and better in one, by number; the first of several alike."""
    alike: dict[float, list[_Costs]] = {}
    for one in costs:
        alike.setdefault(one[0], []).append(one)
    kept = []
    seconds: list[float] = []  # of those that stored no more: the quicker, the fuller
    fullness: list[float] = [inf]
    for _, group in sorted(alike.items()):
        # Most are surpassed by who stores less: only the others are sorted. Whoever surpasses another comes before it.
        for one in sorted([one for one in group if fullness[bisect_right(seconds, one[1])] > one[2]]):
            _, second, full, _ = one
            at = bisect_right(seconds, second)
            if fullness[at] <= full:
                continue
            kept.append(one)
            end = at
            while end < len(seconds) and fullness[end + 1] >= full:
                end += 1
            at -= bool(at and seconds[at - 1] == second)
            seconds[at:end] = [second]
            fullness[at + 1 : end + 1] = [full]
    return sorted(kept, key=itemgetter(3))


def _progress(axis: list[float]) -> list[float]:
    """From 100 for the smallest to 0 for the largest; 0 for all where they are the same, or not finite."""
    low, high = min(axis), max(axis)
    if low == high or high == inf:
        return [0.0] * len(axis)
    return [100 - 100 * (one - low) / (high - low) for one in axis]
