"""The kernel of NumPy: a table of 65,536 entries for each coefficient multiplies two bytes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from proxyfab.erasure.field import Kernel, Rows, products
from proxyfab.errors import MissingDependency

_PIECE = 1 << 18  # the piece, its product and its sum stay in the processor's caches


def load() -> Kernel:
    """The kernel, if NumPy is installed."""
    try:
        import numpy as np  # noqa: F401 - whether it is there
    except ImportError:
        raise MissingDependency("Erasure codes by NumPy need it: pip install numpy") from None
    return combine


def combine(rows: Rows, sources: Sequence[memoryview], targets: Sequence[memoryview]) -> None:
    """As `field.Kernel` says."""
    import numpy as np

    nbytes = len(targets[0]) if targets else 0
    even = nbytes & ~1
    room = np.empty(min(_PIECE, even) // 2, np.uint16)
    for low in range(0, even, _PIECE):
        high = min(low + _PIECE, even)
        pieces = [np.frombuffer(source[low:high], np.uint16) for source in sources]
        for row, target in zip(rows, targets, strict=True):
            _add_up(row, pieces, np.frombuffer(target[low:high], np.uint16), room[: (high - low) // 2])
    if nbytes > even:
        for row, target in zip(rows, targets, strict=True):
            target[even] = _last(row, [source[even] for source in sources])


def _add_up(row: bytes, pieces: list[Any], total: Any, room: Any) -> None:
    import numpy as np

    total.fill(0)
    for factor, piece in zip(row, pieces, strict=True):
        if factor == 1:
            np.bitwise_xor(total, piece, out=total)
        elif factor:
            np.take(_table(factor), piece, out=room, mode="clip")  # which goes without a check of each index
            np.bitwise_xor(total, room, out=total)


def _last(row: bytes, elements: list[int]) -> int:
    total = 0
    for factor, element in zip(row, elements, strict=True):
        total ^= products(factor)[element]
    return total


@lru_cache(maxsize=64)
def _table(factor: int) -> Any:
    """The product of `factor` with each pair of bytes; which byte of a pair comes first does not matter to it."""
    import numpy as np

    one = np.frombuffer(products(factor), np.uint8).astype(np.uint16)
    return (one[:, None] << 8 | one[None, :]).ravel()
