"""What is handed over: one array, one bytes object, or a dict of arrays, of an exact number of payload bytes.

Promises: the same (kind, size, seed) gives the same bytes in every process, so a digest computed at one end checks the
other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

KINDS = ("ndarray", "bytes", "dict")
KB, MB, GB = 1_000, 1_000_000, 1_000_000_000


def make(kind: str, nbytes: int, seed: int = 0) -> Any:
    """A payload of `nbytes` bytes (a multiple of 8); a dict's few scalars come on top."""
    values = np.arange(nbytes // 8, dtype=np.float64)
    values += seed
    if kind == "ndarray":
        return values
    if kind == "bytes":
        return values.tobytes()
    if kind == "dict":
        return {"run": f"R-{seed}", "exposure": 0.25, "channel": 7, **_arrays(values)}
    raise ValueError(f"{kind!r} is no kind of payload; there are {', '.join(KINDS)}.")


def _arrays(values: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    half, quarter = values.size // 2, values.size // 4
    return {
        "image": values[:half].copy(),
        "angles": values[half : half + quarter].view(np.float32).copy(),
        "mask": values[half + quarter :].view(np.uint8).copy(),
    }


def views(obj: Any) -> Iterator[memoryview]:
    """The payload as byte views, copying nothing."""
    if isinstance(obj, dict):
        for value in obj.values():
            if isinstance(value, np.ndarray):
                yield memoryview(value).cast("B")
    else:
        yield memoryview(obj).cast("B")


def read(obj: Any) -> float:
    """Touch every byte the way a consumer does, by adding up the numbers."""
    if isinstance(obj, dict):
        return float(sum(value.sum() for value in obj.values() if isinstance(value, np.ndarray)))
    if not isinstance(obj, np.ndarray):
        obj = np.frombuffer(obj, np.float64)
    return float(obj.sum())


def checksum(obj: Any) -> int:
    """A 64-bit digest of the payload bytes, for use outside the timing."""
    digest = xxhash.xxh3_64()
    for view in views(obj):
        digest.update(view)
    return digest.intdigest()


def size_name(nbytes: int) -> str:
    """`100 KB` for 100,000."""
    for unit, name in ((GB, "GB"), (MB, "MB"), (KB, "KB")):
        if nbytes >= unit:
            return f"{nbytes / unit:g} {name}"
    return f"{nbytes} B"
