"""A trace placed by a policy, object after object, and what is left of it when nodes fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from time import process_time
from typing import NamedTuple

from benchmarks.placement.inputs import Item, holding
from proxyfab.erasure.placement import (
    Coder,
    Daos,
    GreedyLeastUsed,
    GreedyMinStorage,
    LoadBalance,
    Node,
    Placement,
    Policy,
    Replicate,
    SaturationControlled,
    ScarcityPrice,
    Static,
    Times,
    UtilizationFactor,
)
from proxyfab.erasure.placement.times import moving
from proxyfab.errors import CapacityError

CODERS = {"fast": Times(), "slow": Times({100.0: Coder((2326.0, 0.0, 0.0), (5882.0, 0.0, 0.0))})}
"""5 and 3 GB/s, which ISA-L reaches, and 43 and 17 MB/s, as D-Rex's authors measured."""
POLICIES: Mapping[str, Callable[[Times, bool], Policy]] = {
    "GreedyMinStorage": lambda _, compatible: GreedyMinStorage(compatible=compatible),
    "ScarcityPrice": lambda _, compatible: ScarcityPrice(compatible=compatible),
    "SaturationControlled": lambda times, compatible: SaturationControlled(times, compatible=compatible),
    "LoadBalance": lambda _, compatible: LoadBalance(compatible=compatible),
    "GreedyLeastUsed": lambda _, compatible: GreedyLeastUsed(compatible=compatible),
    "UtilizationFactor": lambda _, compatible: UtilizationFactor(compatible=compatible),
    "Static(3, 2)": lambda _, compatible: Static(3, 2, compatible=compatible),
    "Static(4, 2)": lambda _, compatible: Static(4, 2, compatible=compatible),
    "Static(6, 3)": lambda _, compatible: Static(6, 3, compatible=compatible),
    "Daos": lambda _, compatible: Daos(compatible=compatible),
    "Replicate(3)": lambda _, compatible: Replicate(3, compatible=compatible),
}
_POINTS = 200
"""Of the curve of what was stored."""


class Run(NamedTuple):
    """What became of a trace. Sizes are in MB, times in seconds."""

    offered: float
    stored: float
    objects: int
    """That were offered."""
    kept: list[tuple[Item, Placement]]
    raw: float
    """What all shards take."""
    moving: float
    """Writing and reading all that is kept, with every object's slowest node."""
    coding: float
    expected_loss: float
    """MB that are lost, in the mean, within the retention, without any repair."""
    thinking: float
    """Processor time of the policy."""
    curve: list[tuple[float, float]]
    """MB offered and stored so far."""


class Disks:
    """Nodes that fill and empty."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        self._at = {node.name: number for number, node in enumerate(nodes)}

    def __getitem__(self, name: str) -> Node:
        return self.nodes[self._at[name]]

    def add(self, item: Item, placement: Placement, times: int = 1) -> None:
        """Shards come, or with -1 go."""
        share = times * item.size / placement.k
        for name in placement.nodes:
            node = self[name]
            self.nodes[self._at[name]] = holding(node, min(max(node.used + share, 0.0), node.capacity))

    def without(self, name: str) -> None:
        """A node fails."""
        self.nodes = [node for node in self.nodes if node.name != name]
        self._at = {node.name: number for number, node in enumerate(self.nodes)}


def simulate(nodes: Sequence[Node], items: Sequence[Item], policy: Policy, times: Times) -> Run:
    """Place one after the other. What cannot be placed is refused, and the next one is asked for."""
    disks, kept, curve = Disks(nodes), [], []
    offered = stored = raw = move = code = loss = thinking = 0.0
    for number, item in enumerate(items):
        offered += item.size
        started = process_time()
        found = placed(policy, disks.nodes, item)
        thinking += process_time() - started
        if found is not None:
            there = [disks[name] for name in found.nodes]
            disks.add(item, found)
            kept.append((item, found))
            stored += item.size
            raw += item.size / found.k * len(found.nodes)
            move += moving(item.size, found.k, min([node.write_bandwidth for node in there]))
            move += moving(item.size, found.k, min([node.read_bandwidth for node in there]))
            code += times.coding(item.size, times.nearest(item.size), len(found.nodes), found.k)
            loss += item.size * found.loss
        if number % max(len(items) // _POINTS, 1) == 0 or number == len(items) - 1:
            curve.append((offered, stored))
    return Run(offered, stored, len(items), kept, raw, move, code, loss, thinking, curve)


def placed(policy: Policy, nodes: Sequence[Node], item: Item) -> Placement | None:
    """Where it goes; None if nowhere."""
    try:
        return policy.place(nodes, size=item.size, target=item.target, retention=item.retention)
    except CapacityError:
        return None


def failing_first(nodes: Sequence[Node], count: int, seed: int) -> list[str]:
    """The nodes that fail first when each fails by its rate, and sites by theirs."""
    draw = random.Random(seed)
    sites: dict[str, float] = {}
    when = {}
    for node in nodes:
        alone = draw.expovariate(node.annual_failure_rate) if node.annual_failure_rate else float("inf")
        if node.site is not None and node.site not in sites:
            rate = node.annual_site_failure_rate
            sites[node.site] = draw.expovariate(rate) if rate else float("inf")
        when[node.name] = min(alone, sites[node.site]) if node.site is not None else alone
    return sorted(when, key=when.__getitem__)[:count]


class After(NamedTuple):
    """What nodes that failed cost, in MB."""

    lost: float
    """If all fail at once."""
    moved: float
    """If one fails after the other, and what lay there is placed anew in between."""
    homeless: float
    """Of which no new place was found."""


def after(
    nodes: Sequence[Node], kept: Sequence[tuple[Item, Placement]], policy: Policy, failed: Sequence[str]
) -> After:
    """As D-Rex's simulator does: objects of a failed node leave all of theirs, and come anew in their order."""
    gone = set(failed)
    lost = sum(item.size for item, found in kept if len(gone.intersection(found.nodes)) > found.m)
    disks = Disks(nodes)
    for item, found in kept:
        disks.add(item, found)
    held, moved, homeless = list(kept), 0.0, 0.0
    for name in failed:
        leaving = [one for one in held if name in one[1].nodes]
        held = [one for one in held if name not in one[1].nodes]
        for item, found in leaving:
            disks.add(item, found, -1)
        disks.without(name)
        for item, _ in leaving:
            anew = placed(policy, disks.nodes, item)
            if anew is None:
                homeless += item.size
                continue
            disks.add(item, anew)
            held.append((item, anew))
            moved += item.size
    return After(lost, moved, homeless)
