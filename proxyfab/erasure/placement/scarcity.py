"""The scarcity price: what a shard takes is weighed by how scarce room is where it takes it."""

from __future__ import annotations

from proxyfab.erasure.placement.case import Case
from proxyfab.erasure.placement.policy import Choice, Policy
from proxyfab.erasure.placement.subsets import MOST, Allowed, all_sets, windows
from proxyfab.errors import ConfigurationError


class ScarcityPrice(Policy):
    """Of all sets of nodes the one that pays the least, where a node's price is (mean free / its free) ** power.

    Power 0 is the fewest bytes; the higher, the more it spares nodes with little room. With more than ten nodes only
    sets of neighbours in price are looked at. Promising in small trials, and not yet confirmed at full scale.

    Args:
        power: How much scarcity counts.
    """

    def __init__(self, power: float = 0.3, *, compatible: bool = False, site_safe: bool = True) -> None:
        if not 0 <= power < float("inf"):
            raise ConfigurationError(f"A power of scarcity is a number from 0 on, not {power!r}.")
        super().__init__(compatible=compatible, site_safe=site_safe)
        self.power = power
        self._allowed = Allowed()

    def _said(self) -> str:
        return f"{self.power:g}"

    def _choose(self, case: Case) -> Choice | None:
        having = [number for number, free in enumerate(case.free) if free > 0]
        if len(having) < 2:
            return None
        mean = sum(case.free) / len(case.free)
        prices = {number: (mean / case.free[number]) ** self.power for number in having}
        if 2 ** len(having) <= MOST:
            order, sets = tuple(having), all_sets(len(having))
        else:
            order, sets = tuple(sorted(having, key=prices.__getitem__)), windows(len(having))
        price = [prices[number] for number in order].__getitem__
        free = [case.free[number] for number in order].__getitem__
        ks = self._allowed.largest(case, sets, order)
        costs = [sum(map(price, places)) / k if k else float("inf") for places, k in zip(sets, ks, strict=True)]
        while True:
            cheapest = min(costs)
            if cheapest == float("inf"):
                return None
            at = costs.index(cheapest)
            if min(map(free, sets[at])) >= case.size / ks[at]:
                return Choice(ks[at], [order[place] for place in sets[at]])
            costs[at] = float("inf")
