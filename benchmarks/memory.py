"""How much memory a step took, as the kernel counts it: the peak above the start, and what stayed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_RESET_PEAK = "5"


class Memory(NamedTuple):
    """Bytes of this process: private (anonymous) and shared or file pages that it has mapped in."""

    private: int
    mapped: int
    peak: int
    """Highest resident size since the last reset."""


class Taken(NamedTuple):
    """What a step took: at its highest, and what is still held behind it. Private bytes only."""

    peak: int
    kept: int


def mark() -> Memory:
    """Forget the peak so far and look."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    return look()


def look() -> Memory:
    """The figures now. `smaps_rollup` is exact where `statm` is off by what each core has not yet reported."""
    rollup = _fields("/proc/self/smaps_rollup")
    private = rollup["Anonymous"]
    return Memory(private, rollup["Rss"] - private, _fields("/proc/self/status")["VmHWM"])


def taken(before: Memory, after: Memory) -> Taken:
    """Private bytes between two looks; pages of a mapped store are its own, not the process's, and are left out."""
    kept = after.private - before.private
    resident = before.private + before.mapped
    peak = after.peak - resident - max(0, after.mapped - before.mapped)
    return Taken(max(peak, kept, 0), kept)


def stored(*roots: str) -> int:
    """Bytes that the files under `roots` occupy, each counted once however many names it has."""
    sizes: dict[tuple[int, int], int] = {}
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                with suppress(FileNotFoundError):  # taken away meanwhile
                    found = os.lstat(os.path.join(folder, name))
                    sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def _fields(path: str) -> dict[str, int]:
    """Lines such as `Rss:  1234 kB` as bytes."""
    fields = {}
    for line in Path(path).read_text().splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if unit == "kB":
            fields[name] = int(number) * 1024
    return fields
