"""What a policy is: `place` makes a case of the nodes, lets the policy choose, and says why if it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.erasure.placement.case import Case, check
from proxyfab.erasure.placement.node import Node, Placement
from proxyfab.errors import CapacityError


class Choice(NamedTuple):
    """k, and the numbers of the nodes in the order of their shards."""

    k: int
    members: Sequence[int]


class Policy:
    """Chooses k, m and nodes.

    Pure: the same nodes and object give the same placement, and any thread may ask. With `compatible=True` it chooses
    item by item as the simulator of D-Rex (arXiv 2506.02026) does, which keeps the order of its nodes, and for some
    policies more, from one item to the next: such a policy belongs to one trace in one thread.

    Args:
        compatible: No sites, 32-bit sizes and targets, never k = 1, and what else the simulator does.
        site_safe: Never place more shards at a site than may be lost, so that any one site may go.
    """

    def __init__(self, *, compatible: bool = False, site_safe: bool = True) -> None:
        self.compatible = compatible
        self.site_safe = site_safe
        self._ranks: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._said()})"

    def _said(self) -> str:
        return ""

    def place(self, nodes: Sequence[Node], *, size: float, target: float = 0.0, retention: float = 365.0) -> Placement:
        """Where an object should go.

        Args:
            nodes: What there is. Those that are not up are left alone.
            size: MB.
            target: How probable it must be that it survives its retention without any repair; 0 for no matter.
            retention: Days that it is to be kept.

        Raises:
            CapacityError: It cannot be placed so; the message says whether nodes, room, sites or reliability lack.
            ConfigurationError: An argument makes no sense.
        """
        check(nodes, size, target, retention)
        case = Case(
            [node for node in nodes if node.up],
            size=size,
            target=target,
            retention=retention,
            compatible=self.compatible,
            site_safe=self.site_safe,
        )
        choice = self._choose(case)
        if choice is None and not self.compatible:
            case.least = 1  # whole copies cost more than shards: only where no shards will do
            choice = self._choose(case)
        if choice is None:
            raise CapacityError(f"{self!r} finds no place for {case.size:g} MB: {self._why(case)}.")
        k, members = choice
        m = len(members) - k
        return Placement(k, m, tuple([case.nodes[member].name for member in members]), case.spread(members).more[m])

    def _choose(self, case: Case) -> Choice | None:
        raise NotImplementedError

    def _by_room(self, case: Case) -> list[int]:
        """Nodes by free space, the most first. Among equals the simulator keeps the order of its last item."""
        order: Sequence[int] = range(len(case.free))
        if not self.compatible:
            return sorted(order, key=case.free.__getitem__, reverse=True)
        names = [node.name for node in case.nodes]
        order = sorted(order, key=lambda number: self._ranks.get(names[number], len(self._ranks)))
        order = sorted(order, key=case.free.__getitem__, reverse=True)
        self._ranks = {names[number]: rank for rank, number in enumerate(order)}
        return order

    def _shape(self, case: Case) -> tuple[int, int, int]:
        """The smallest k, the fewest nodes and the largest k that this policy takes."""
        return case.least, case.least + 1, max(len(case.nodes) - 1, 1)

    def _why(self, case: Case) -> str:
        """Why nothing could be chosen."""
        k, fewest, widest = self._shape(case)
        count = len(case.nodes)
        if count < fewest:
            return f"it needs {fewest} nodes that are up, and there are {count}"
        room = [number for number in range(count) if case.free[number] >= case.size / widest]
        if len(room) < fewest:
            return f"only {len(room)} of {count} nodes have room for a shard, and it needs {fewest}; add nodes or evict"
        safest = sorted(room, key=case.chances.__getitem__)[: max(fewest, widest + 1)]
        chance = case.spread(safest).more[len(safest) - k]
        if chance > 1 - case.target:
            return (
                f"even k={k} on the {len(safest)} safest nodes is lost with a probability of {chance:.2g}, and the "
                f"target allows {1 - case.target:.2g}; keep it for a shorter time, repair it meanwhile, or add nodes"
            )
        if case.crowd(safest) > len(safest) - k:
            return "too many of its nodes are at one site, whose failure alone would lose the object; add sites"
        return "nodes that would be reliable enough have no room for shards of the size that takes; add nodes or evict"
