"""Sets of numbers kept as runs do what sets do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.errors import IntegrityError
from proxyfab.spans import Spans

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20)


@given(RUNS, st.integers(0, 60), st.integers(0, 60))
def test_runs_are_a_set(runs: list[tuple[int, int]], first: int, last: int) -> None:
    spans, numbers = Spans(), set()
    for low, high in runs:
        spans.add(low, high)
        numbers.update(range(low, high + 1))

    assert {n for low, high in spans for n in range(low, high + 1)} == numbers
    assert [n in spans for n in range(62)] == [n in numbers for n in range(62)]
    assert {n for low, high in spans.gaps(first, last) for n in range(low, high + 1)} == (
        set(range(first, last + 1)) - numbers
    )
    assert spans.upto(first) == next(n for n in range(first, 62) if n not in numbers) - 1
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(spans))
    assert Spans.unpacked(spans.packed()) == spans


def test_the_highest_are_forgotten() -> None:
    spans = Spans([(1, 2), (4, 5), (9, 9)])

    spans.shorten(2)

    assert list(spans) == [(1, 2), (4, 5)]


@pytest.mark.parametrize("flat", [None, [1], [1, "2"], {}])
def test_what_is_damaged_is_said(flat: object) -> None:
    with pytest.raises(IntegrityError):
        Spans.unpacked(flat)
