"""Policies that look at the nodes with the most room: three of D-Rex (arXiv 2506.02026), each some ten lines."""

from __future__ import annotations

from proxyfab.erasure.placement.case import Case
from proxyfab.erasure.placement.policy import Choice, Policy


class GreedyMinStorage(Policy):
    """The fewest bytes: of all numbers of shards on the emptiest nodes, the one that stores the least. The default."""

    def _choose(self, case: Case) -> Choice | None:
        order = self._by_room(case)
        best, smallest = None, float("inf")
        for count in range(len(order), 1, -1):
            found = case.best(order, count)
            if found is not None and case.size / found[0] * count < smallest:
                best, smallest = Choice(*found), case.size / found[0] * count
        return best


class GreedyLeastUsed(Policy):
    """The fewest shards that will do, on the emptiest nodes."""

    def _choose(self, case: Case) -> Choice | None:
        order = self._by_room(case)
        for count in range(2, len(order) + 1):
            found = case.best(order, count)
            if found is not None:
                return Choice(*found)
        return None


class LoadBalance(Policy):
    """D-Rex LB: as little parity as will do, and then the number of shards that leaves nodes the most alike in room."""

    def _choose(self, case: Case) -> Choice | None:
        order = self._by_room(case)
        count = len(order)
        average = sum([case.free[number] for number in order]) / count if count else 0.0
        most = count - 1 if self.compatible else count  # the simulator never takes all nodes
        for lost in range(1, most - case.least + 1):
            best, smallest = None, float("inf")
            for k in range(case.least, most - lost + 1):
                members = self._taken(case, order, k, lost)
                if members is None:
                    continue
                unlike = self._unlikeness(case, order, members, case.size / k, average)
                if unlike < smallest:
                    best, smallest = Choice(k, members), unlike
            if best is not None:
                return best
        return None

    def _taken(self, case: Case, order: list[int], k: int, lost: int) -> list[int] | None:
        found = order[: k + lost] if self.compatible else case.first(order, k + lost, lost, case.size / k)
        if found is None or not case.survives(case.spread(found), lost):
            return None
        return list(found) if min([case.free[member] for member in found]) >= case.size / k else None

    @staticmethod
    def _unlikeness(case: Case, order: list[int], members: list[int], share: float, average: float) -> float:
        """How far from the average all nodes' room is in sum, once these have a share each; in the order of room, as
        that decides between two that are alike but for rounding.
        """
        taken, free = set(members), case.free
        rest = [abs(free[number] - average) for number in order if number not in taken]
        return sum([abs(free[member] - share - average) for member in members]) + sum(rest)
