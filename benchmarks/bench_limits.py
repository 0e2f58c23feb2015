"""What this machine does in one process without any library: copies, fresh memory, mapped files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Outcome, Settings, compare, row
from benchmarks.payloads import GB, KB, make, read

BENCH = "limits"


def run(settings: Settings) -> Outcome:
    """Every technique at every size below 1 GB."""
    outcome = Outcome([], [])
    for nbytes in [nbytes for nbytes in settings.sizes if nbytes < GB]:
        path = Path(settings.place.tmpfs, f"limits-{nbytes}")
        path.write_bytes(make("bytes", nbytes))
        calls = 1 if nbytes > 100 * KB or settings.tiny else 20
        samples = compare(_techniques(make("ndarray", nbytes), path), rounds=settings.rounds(nbytes), calls=calls)
        for name, seconds in samples.items():
            outcome.rows.append(row(BENCH, name, "raw", seconds, nbytes=nbytes))
        path.unlink()
    return outcome


def _techniques(array: np.ndarray[Any, Any], path: Path) -> dict[str, Callable[[], object]]:
    warm, nbytes = array.copy(), array.nbytes
    kept = _mapped(path)
    return {
        "memcpy into warm memory": lambda: np.copyto(warm, array),
        "copy to fresh memory (numpy)": lambda: np.copyto(np.empty_like(array), array),
        "bytearray(n), nothing copied": lambda: bytearray(nbytes),
        "bytes(view): a new bytes object": lambda: bytes(memoryview(array)),
        "read every byte of warm memory": lambda: read(array),
        "map a tmpfs file, nothing read": lambda: _mapped(path),
        "map a tmpfs file, read every byte": lambda: read(_mapped(path)),
        "read every byte of a kept mapping": lambda: read(kept),
        "read a tmpfs file into bytes": path.read_bytes,
    }


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    file = os.open(path, os.O_RDONLY)
    try:
        return np.frombuffer(mmap.mmap(file, 0, prot=mmap.PROT_READ), np.float64)
    finally:
        os.close(file)
