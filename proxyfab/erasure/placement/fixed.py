"""Policies whose code is given: what HDFS, GlusterFS, DAOS and DynoStore do."""

from __future__ import annotations

from collections.abc import Sequence

from proxyfab.erasure.field import MOST
from proxyfab.erasure.placement.case import Case
from proxyfab.erasure.placement.policy import Choice, Policy
from proxyfab.errors import ConfigurationError

_DAOS = {10: ((9, 8), (10, 8), (4, 1), (6, 1)), 6: ((5, 4), (6, 4), (4, 1), (6, 1))}


class Static(Policy):
    """Always k and m, on the nodes that are written to the fastest; unreliable ones make way until the target is met.

    `Static(3, 2)` and `Static(6, 3)` are HDFS's, `Static(4, 2)` is GlusterFS's.

    Args:
        k: Shards that are needed.
        m: Shards that may be lost.
    """

    def __init__(self, k: int, m: int, *, compatible: bool = False, site_safe: bool = True) -> None:
        if type(k) is not int or type(m) is not int or k < 1 or m < 0 or k + m > MOST:
            raise ConfigurationError(f"A code needs k >= 1, m >= 0 and at most {MOST} shards, not k={k!r} and m={m!r}.")
        super().__init__(compatible=compatible, site_safe=site_safe)
        self.k = k
        self.m = m

    def _said(self) -> str:
        return f"{self.k}, {self.m}"

    def _shape(self, case: Case) -> tuple[int, int, int]:  # noqa: ARG002 - others look at it
        return self.k, self.k + self.m, self.k

    def _choose(self, case: Case) -> Choice | None:
        chosen = self._begin(case, self.k, self.m)
        if chosen is not None and self._improve(case, chosen, self.k, self.m):
            return Choice(self.k, chosen)
        return None

    def _order(self, case: Case) -> list[int]:
        return sorted(range(len(case.nodes)), key=lambda number: case.nodes[number].write_bandwidth, reverse=True)

    def _begin(self, case: Case, k: int, m: int) -> list[int] | None:
        """The first nodes; who has no room gives his place to the first that has."""
        order = self._order(case)
        if len(order) < k + m:
            return None
        if case.sites is not None:
            found = case.first(order, k + m, m or k, case.size / k)
            return None if found is None else list(found)
        chosen = order[: k + m]
        for place, member in enumerate(chosen):
            if case.free[member] < case.size / k:
                others = [other for other in order if other not in chosen and case.free[other] >= case.size / k]
                if not others:
                    return None
                chosen[place] = others[0]
        return chosen

    def _improve(self, case: Case, chosen: list[int], k: int, m: int) -> bool:
        """Exchange the least reliable of the nodes for the most reliable of the others until the target is met."""
        for _ in range(len(case.nodes) - len(chosen) + 2):
            if case.survives(case.spread(chosen), m):
                return case.crowd(chosen) <= max(m, 1) or not m
            worst = max(chosen, key=case.chances.__getitem__)
            others = [number for number in self._fitting(case, chosen, k) if self._may(case, chosen, worst, number, m)]
            if not others:
                return False
            chosen[chosen.index(worst)] = min(others, key=case.chances.__getitem__)
        return False

    def _fitting(self, case: Case, chosen: list[int], k: int) -> list[int]:
        return [number for number in self._order(case) if number not in chosen and case.free[number] >= case.size / k]

    @staticmethod
    def _may(case: Case, chosen: Sequence[int], worst: int, other: int, m: int) -> bool:
        return case.crowd([other if member == worst else member for member in chosen]) <= max(m, 1)


class Replicate(Static):
    """Whole copies.

    Args:
        copies: How many.
    """

    def __init__(self, copies: int, *, compatible: bool = False, site_safe: bool = True) -> None:
        if type(copies) is not int or not 1 <= copies <= MOST:
            raise ConfigurationError(f"Of an object 1 to {MOST} copies can be kept, not {copies!r}.")
        super().__init__(1, copies - 1, compatible=compatible, site_safe=site_safe)

    def _said(self) -> str:
        return str(self.m + 1)


class Daos(Static):
    """DAOS's codes, one after the other until the target is met: (8, 1), (8, 2), (1, 3), (1, 5) on ten nodes and more,
    (4, 1), (4, 2), (1, 3), (1, 5) on six to nine. With `compatible=True` no other is tried where one lacks room.
    """

    def __init__(self, *, compatible: bool = False, site_safe: bool = True) -> None:
        super().__init__(1, 5, compatible=compatible, site_safe=site_safe)

    def _said(self) -> str:
        return ""

    def _shape(self, case: Case) -> tuple[int, int, int]:  # noqa: ARG002 - as above
        return 1, 6, 8

    def _choose(self, case: Case) -> Choice | None:
        codes = next((codes for least, codes in _DAOS.items() if len(case.nodes) >= least), ())
        for count, k in codes:
            chosen = self._begin(case, k, count - k)
            if chosen is None and self.compatible:
                return None
            if chosen is not None and self._improve(case, chosen, k, count - k):
                return Choice(k, chosen)
        return None


class UtilizationFactor(Static):
    """DynoStore's (arXiv 2507.00576): given k and m, on the nodes that would be the least full with all of the object.

    With `compatible=True` no target is looked at, as there; nodes without room for a shard are passed over in any case.
    """

    def __init__(self, k: int = 2, m: int = 3, *, compatible: bool = False, site_safe: bool = True) -> None:
        super().__init__(k, m, compatible=compatible, site_safe=site_safe)

    def _order(self, case: Case) -> list[int]:
        def fullness(number: int) -> float:
            node = case.nodes[number]
            return (node.used + case.size) / node.capacity if node.capacity else float("inf")

        return sorted(range(len(case.nodes)), key=fullness)

    def _improve(self, case: Case, chosen: list[int], k: int, m: int) -> bool:
        return self.compatible or super()._improve(case, chosen, k, m)
