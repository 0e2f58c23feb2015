"""Probabilities of loss: against every way to fail, one by one, and against known figures."""

from __future__ import annotations

from itertools import product
from math import exp, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyfab.erasure.placement import Node, loss_of
from proxyfab.erasure.placement.odds import failing, failures, spread, with_sites

CHANCES = st.floats(0, 1)


def every_way(chances: list[float], sites: list[int], site_chances: list[float], survivors: int) -> float:
    """The probability that fewer survive, summed over every pattern of nodes and sites that fail."""
    total = 0.0
    for pattern in product((False, True), repeat=len(chances) + len(site_chances)):
        odds = [*chances, *site_chances]
        probability = prod(one if fails else 1 - one for one, fails in zip(odds, pattern, strict=True))
        down = pattern[len(chances) :]
        alive = [not pattern[node] and not down[sites[node]] for node in range(len(chances))]
        total += probability if sum(alive) < survivors else 0.0
    return total


@given(st.lists(CHANCES, min_size=1, max_size=7), st.data())
@settings(max_examples=60, deadline=None)
def test_the_exact_poisson_binomial(chances: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(chances)))
    expected = every_way(chances, [0] * len(chances), [0.0], k)
    found = spread(tuple(chances))

    assert sum(failures(chances)) == pytest.approx(1)
    assert found.more[len(chances) - k] == pytest.approx(expected, abs=1e-12)
    assert found.at_most[len(chances) - k] == pytest.approx(1 - expected, abs=1e-12)


@given(st.lists(st.tuples(CHANCES, st.integers(0, 2)), min_size=1, max_size=5), st.tuples(CHANCES, CHANCES, CHANCES))
@settings(max_examples=60, deadline=None)
def test_sites_that_fail_as_a_whole(nodes: list[tuple[float, int]], sites: tuple[float, float, float]) -> None:
    there = [(sites[site], tuple(chance for chance, at in nodes if at == site)) for site in range(3)]
    found = with_sites([one for one in there if one[1]])
    for k in range(1, len(nodes) + 1):
        expected = every_way([chance for chance, _ in nodes], [at for _, at in nodes], list(sites), k)
        assert sum(found[len(nodes) - k + 1 :]) == pytest.approx(expected, abs=1e-12)


def rate_of(chance: float) -> float:
    """The rate a year whose probability over a year this is."""
    from math import log1p

    return -log1p(-chance)


def nodes_of(sites: list[str | None], node: float, site: float) -> list[Node]:
    def one(number: int, name: str | None) -> Node:
        rates = (rate_of(node), rate_of(site))
        return Node(
            f"n{number}", capacity=1, annual_failure_rate=rates[0], site=name, annual_site_failure_rate=rates[1]
        )

    return [one(number, name) for number, name in enumerate(sites)]


@pytest.mark.parametrize(
    ("k", "n", "percent", "permille"),
    [
        (1, 2, 1.0e-4, 1.0e-6),
        (1, 3, 1.0e-6, 1.0e-9),
        (3, 5, 9.85e-6, 9.99e-9),
        (4, 6, 1.96e-5, 2.00e-8),
        (6, 9, 1.21e-6, 1.26e-10),
        (8, 11, 3.12e-6, 3.28e-10),
        (2, 5, 4.96e-8, 5.0e-12),
        (10, 14, 1.86e-7, 2.0e-12),
    ],
)
def test_known_losses(k: int, n: int, percent: float, permille: float) -> None:
    for chance, expected in ((0.01, percent), (0.001, permille)):
        assert loss_of(nodes_of([None] * n, chance, 0), k) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("sites", "expected"), [("abcdef", 2.6e-5), ("aabbcc", 1.4e-4), ("aaabbb", 2e-3), ("aaaaaa", 1e-3)]
)
def test_known_losses_of_sites(sites: str, expected: float) -> None:
    assert loss_of(nodes_of([*sites], 0.01, 0.001), 4) == pytest.approx(expected, rel=0.03)


def test_twelve_nines_and_more_are_told_apart() -> None:
    assert loss_of(nodes_of([None] * 8, 1e-3, 0), 1) == pytest.approx(1e-24)
    assert loss_of(nodes_of([None] * 2, 1e-3, 0), 3) == 1
    assert loss_of(nodes_of([None] * 2, 1e-3, 0), 0) == 0


def test_the_longer_the_likelier() -> None:
    assert failing(0.0135, 365) == pytest.approx(1 - exp(-0.0135))
    assert failing(0.0135, 10) == pytest.approx(1 - exp(-0.0135 * 10 / 365))
    assert failing(1, 0) == 0
