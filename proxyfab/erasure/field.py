"""Arithmetic of GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), and the matrices of the code over it.

The code is systematic Cauchy Reed-Solomon: shard i < k is the i-th part of the data, and shard i >= k is the sum over
j < k of 1/(i xor j) times part j. What is stored rests on these definitions: they never change. Every square part of a
Cauchy matrix is invertible, which is why any k shards are enough. (J. Bloemer et al., "An XOR-based erasure-resilient
coding scheme", ICSI TR-95-048, 1995.)

Leaves sizes, buffers and speed to `codec` and the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

POLYNOMIAL = 0x11D
MOST = 256
"""Shards that one object can have: the field has no more elements."""
Rows: TypeAlias = tuple[bytes, ...]
"""A matrix: a row of coefficients, one byte each, for every shard that is to be made."""
Kernel: TypeAlias = Callable[[Rows, Sequence[memoryview], Sequence[memoryview]], None]
"""`kernel(rows, sources, targets)`: target i becomes the sum over j of rows[i][j] times source j; all as long."""


def _powers() -> tuple[bytes, bytes]:
    """The powers of the generator 2, twice in a row, and the exponent of each element."""
    exponentials, logarithms = bytearray(510), bytearray(256)
    element = 1
    for exponent in range(255):
        exponentials[exponent] = exponentials[exponent + 255] = element
        logarithms[element] = exponent
        element <<= 1
        if element & 0x100:
            element ^= POLYNOMIAL
    return bytes(exponentials), bytes(logarithms)


_EXP, _LOG = _powers()


def multiply(one: int, other: int) -> int:
    """The product of two elements."""
    return _EXP[_LOG[one] + _LOG[other]] if one and other else 0


def inverse(element: int) -> int:
    """What an element other than 0 must be multiplied by to give 1."""
    return _EXP[255 - _LOG[element]]


@lru_cache(maxsize=256)
def products(factor: int) -> bytes:
    """The product of `factor` with each of the 256 elements: a table for `bytes.translate`."""
    return bytes(multiply(factor, element) for element in range(256))


def row_of(index: int, k: int) -> bytes:
    """How shard `index` is made of the k parts of the data."""
    if index < k:
        return bytes(index) + b"\1" + bytes(k - index - 1)
    return bytes(inverse(index ^ part) for part in range(k))


@lru_cache(maxsize=256)
def making_rows(k: int, have: tuple[int, ...], wanted: tuple[int, ...]) -> Rows:
    """How shards `wanted` are made of the k different shards `have`, in the order of these.

    Only as many equations as parts of the data are missing have to be solved.
    """
    missing = [part for part in range(k) if part not in have]
    spare = [index for index in have if index >= k]
    solved = inverted([bytes(inverse(index ^ part) for part in missing) for index in spare])
    parts = {index: row_of(have.index(index), k) for index in have if index < k}
    for part, weights in zip(missing, solved, strict=True):
        terms = [(weight, _known(index, k, have)) for weight, index in zip(weights, spare, strict=True)]
        parts[part] = _combined(terms, k)
    return tuple(
        parts[index] if index < k else _combined([(inverse(index ^ part), parts[part]) for part in range(k)], k)
        for index in wanted
    )


def _known(index: int, k: int, have: tuple[int, ...]) -> bytes:
    """A spare shard less what the parts of the data that are here have added to it, as a row over `have`."""
    return bytes(
        1 if other == index else inverse(index ^ other) if other < k else 0 for other in have
    )  # adding and subtracting are one


def _combined(terms: Sequence[tuple[int, bytes]], width: int) -> bytes:
    """The sum of rows, each times a factor."""
    total = 0
    for factor, row in terms:
        if factor:
            total ^= int.from_bytes(row.translate(products(factor)), "little")
    return total.to_bytes(width, "little")


def inverted(matrix: Sequence[bytes]) -> list[bytes]:
    """The inverse of a square matrix that has one, by elimination."""
    size = len(matrix)
    rows = [row + row_of(number, size) for number, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(number for number in range(column, size) if rows[number][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = rows[column].translate(products(inverse(rows[column][column])))
        for number, row in enumerate(rows):
            if number != column and row[column]:
                rows[number] = _combined([(1, row), (row[column], rows[column])], 2 * size)
    return [row[size:] for row in rows]
