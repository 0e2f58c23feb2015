"""The field and its matrices, against the definition worked out bit by bit."""

from __future__ import annotations

from itertools import combinations

from proxyfab.erasure.field import inverse, inverted, making_rows, multiply, products, row_of
from tests.golden.make_erasure import reciprocal, times


def product(one: list[bytes], other: list[bytes]) -> list[bytes]:
    columns = list(zip(*other, strict=True))

    def entry(row: bytes, column: tuple[int, ...]) -> int:
        total = 0
        for left, right in zip(row, column, strict=True):
            total ^= times(left, right)
        return total

    return [bytes(entry(row, column) for column in columns) for row in one]


def test_products_and_inverses_are_those_of_the_polynomial() -> None:
    for one in (0, 1, 2, 3, 29, 128, 142, 255):
        assert products(one) == bytes(times(one, other) for other in range(256))
    assert all(multiply(one, one ^ 90) == times(one, one ^ 90) for one in range(256))
    assert [inverse(element) for element in range(1, 256)] == [reciprocal(element) for element in range(1, 256)]


def test_parity_rows_are_reciprocals_of_numbers_that_differ() -> None:
    assert [row_of(index, 3) for index in range(5)] == [
        b"\1\0\0",
        b"\0\1\0",
        b"\0\0\1",
        bytes([reciprocal(3), reciprocal(2), reciprocal(1)]),
        bytes([reciprocal(4), reciprocal(5), reciprocal(6)]),
    ]


def test_a_matrix_times_its_inverse_is_one() -> None:
    matrix = [row_of(index, 5) for index in (0, 6, 7, 3, 9)]  # its pivots are not on the diagonal
    assert product(inverted(matrix), matrix) == [row_of(index, 5) for index in range(5)]
    assert inverted([]) == []


def test_any_k_shards_make_any_others() -> None:
    for have in combinations(range(7), 4):
        rows = making_rows(4, have, tuple(range(7)))
        assert product(list(rows), [row_of(index, 4) for index in have]) == [row_of(index, 4) for index in range(7)]
