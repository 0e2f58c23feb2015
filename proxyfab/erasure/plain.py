"""The kernel of the standard library: `bytes.translate` multiplies, XOR of large integers adds."""

from __future__ import annotations

from collections.abc import Sequence

from proxyfab.erasure.field import Kernel, Rows, products

_PIECE = 1 << 16  # more would leave the processor's caches


def load() -> Kernel:
    """The kernel; it is always there."""
    return combine


def combine(rows: Rows, sources: Sequence[memoryview], targets: Sequence[memoryview]) -> None:
    """As `field.Kernel` says."""
    nbytes = len(targets[0]) if targets else 0
    for low in range(0, nbytes, _PIECE):
        high = min(low + _PIECE, nbytes)
        pieces = [bytes(source[low:high]) for source in sources]  # a copy: only bytes can be translated
        for row, target in zip(rows, targets, strict=True):
            target[low:high] = _sum(row, pieces).to_bytes(high - low, "little")


def _sum(row: bytes, pieces: list[bytes]) -> int:
    total = 0
    for factor, piece in zip(row, pieces, strict=True):
        if factor:
            total ^= int.from_bytes(piece if factor == 1 else piece.translate(products(factor)), "little")
    return total
