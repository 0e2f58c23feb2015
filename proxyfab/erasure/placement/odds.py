"""How probable it is that so many shards are lost: the exact Poisson binomial, and sites that fail as a whole.

Nodes fail independently of one another; the nodes of a site fail together, besides, when the site does. Probabilities
of loss are summed up from the small end, so that twelve nines and more are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import expm1
from typing import NamedTuple

from proxyfab.erasure.placement.node import Node

YEAR = 365.0


class Spread(NamedTuple):
    """Of a set of nodes, for each number of failures: how probable are at most so many, and how probable more."""

    at_most: tuple[float, ...]
    more: tuple[float, ...]
    rising: tuple[float, ...]
    """`more` from its end."""


def failing(rate: float, days: float) -> float:
    """The probability that what fails at a rate a year fails within so many days."""
    return -expm1(-rate * days / YEAR)


def failures(chances: Sequence[float]) -> list[float]:
    """How probable are 0, 1, ... failures among nodes that fail with these probabilities."""
    found = [1.0]
    for chance in chances:
        lives = 1.0 - chance
        before = 0.0
        for number, now in enumerate(found):
            found[number] = now * lives + before * chance
            before = now
        found.append(before * chance)
    return found


def with_sites(sites: Sequence[tuple[float, tuple[float, ...]]]) -> list[float]:
    """As `failures`, of nodes at sites that fail as a whole with the first probability."""
    found = [1.0]
    for chance, nodes in sites:
        alone = [one * (1.0 - chance) for one in failures(nodes)]
        alone[-1] += chance
        added = [0.0] * (len(found) + len(nodes))
        for left, one in enumerate(found):
            for right, other in enumerate(alone):
                added[left + right] += one * other
        found = added
    return found


@lru_cache(maxsize=4096)
def spread(chances: tuple[float, ...]) -> Spread:
    """The spread of nodes that share nothing."""
    return _summed(failures(chances))


@lru_cache(maxsize=4096)
def spread_at(sites: tuple[tuple[float, tuple[float, ...]], ...]) -> Spread:
    """The spread of nodes at sites."""
    return _summed(with_sites(sites))


def _summed(found: list[float]) -> Spread:
    at_most, more = [], []
    total = 0.0
    for one in found:
        total += one
        at_most.append(total)
    total = 0.0
    for one in reversed(found):
        more.append(total)
        total += one
    return Spread(tuple(at_most), tuple(reversed(more)), tuple(more))


def loss_of(nodes: Sequence[Node], k: int, *, retention: float = YEAR) -> float:
    """The probability that an object with one shard on each of these nodes, k of them needed, is lost.

    Args:
        nodes: Nodes, with their sites.
        k: Shards that are needed.
        retention: Days that it is kept; nothing is repaired meanwhile.
    """
    if not 1 <= k <= len(nodes):
        return 1.0 if k > len(nodes) else 0.0
    return losses_of(nodes, retention=retention)[len(nodes) - k]


def losses_of(nodes: Sequence[Node], *, retention: float = YEAR) -> tuple[float, ...]:
    """For each m, the probability that more than m of the shards on these nodes are lost: that of k = all but m.

    Args:
        nodes: Nodes, with their sites.
        retention: Days that they are kept; nothing is repaired meanwhile.
    """
    sites: dict[str | int, list[Node]] = {}
    for number, node in enumerate(nodes):
        sites.setdefault(number if node.site is None else node.site, []).append(node)
    found = tuple(
        (
            failing(max(node.annual_site_failure_rate for node in there), retention),
            tuple(failing(node.annual_failure_rate, retention) for node in there),
        )
        for there in sites.values()
    )
    return spread_at(found).more
