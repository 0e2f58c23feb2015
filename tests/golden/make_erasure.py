"""Writes erasure-v1.json once: `python -m tests.golden.make_erasure`. It is never written again.

The parity was computed here from the definition alone, bit by bit, with none of the package's code.
"""

from __future__ import annotations

import json
from pathlib import Path

CODES = [(1, 2), (2, 1), (2, 3), (4, 2), (6, 3), (10, 4)]
SIZES = [1, 5, 97]


def content(size: int) -> bytes:
    return bytes((index * index * 31 + index * 7 + 3) & 255 for index in range(size))


def times(one: int, other: int) -> int:
    product = 0
    while other:
        product ^= one if other & 1 else 0
        one, other = one << 1 ^ (0x11D if one & 128 else 0), other >> 1
    return product


def reciprocal(element: int) -> int:
    return next(other for other in range(1, 256) if times(element, other) == 1)


def parity(data: bytes, k: int, m: int) -> list[str]:
    length = -(-len(data) // k)
    parts = [data[low : low + length].ljust(length, b"\0") for low in range(0, k * length, length)]
    rows = []
    for index in range(k, k + m):
        row = bytearray(length)
        for number, part in enumerate(parts):
            factor = reciprocal(index ^ number)
            row = bytearray(old ^ times(factor, new) for old, new in zip(row, part, strict=True))
        rows.append(row.hex())
    return rows


if __name__ == "__main__":
    path = Path(__file__).with_name("erasure-v1.json")
    found = {f"{k},{m},{size}": parity(content(size), k, m) for k, m in CODES for size in SIZES}
    if not path.exists():
        path.write_text(json.dumps(found, indent=1) + "\n")
