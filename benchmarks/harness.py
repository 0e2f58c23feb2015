"""What every benchmark shares: settings, rows of results, order statistics, and what machine this is.

Rules:
1. A figure is a median of interleaved rounds with its quartiles and best; a mean is never reported.
2. Systems that are compared run alternately in one run, so that drift of the machine hits all alike.
3. Results are verified by a digest, outside the timing; a wrong one ends the benchmark.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.payloads import GB, KB, MB

SIZES = (KB, 10 * KB, 100 * KB, MB, 10 * MB, 100 * MB, GB)
PEERS = ("numpy", "proxystore", "ray", "distributed")


class Place(NamedTuple):
    """Directories that a run may fill; both are removed behind it."""

    tmpfs: str
    disk: str


class Settings(NamedTuple):
    """How much to measure. `tiny` is for tests: everything once, nothing claimed."""

    place: Place
    sizes: tuple[int, ...] = SIZES
    kinds: tuple[str, ...] = ("ndarray", "bytes", "dict")
    scale: float = 1.0
    """Multiplies the number of rounds."""
    systems: tuple[str, ...] = ()
    """Only these systems; empty for all."""
    tiny: bool = False

    def rounds(self, nbytes: int) -> int:
        """Rounds at a payload size: many for what is quick."""
        if self.tiny:
            return 1
        usual = 21 if nbytes <= MB else 15 if nbytes <= 10 * MB else 11 if nbytes <= 100 * MB else 3
        return max(3, round(usual * self.scale))

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that this run should measure, in their order."""
        return [name for name in names if not self.systems or name in self.systems]


class Row(NamedTuple):
    """One figure. `unit` is s (seconds), B (bytes), x (multiples of the payload) or n (a count)."""

    bench: str
    what: str
    system: str
    median: float
    unit: str = "s"
    kind: str = ""
    nbytes: int = 0
    low: float = 0.0
    """First quartile."""
    high: float = 0.0
    """Third quartile."""
    best: float = 0.0
    n: int = 1
    note: str = ""


class Skipped(NamedTuple):
    """What was not measured, and why."""

    bench: str
    system: str
    reason: str


class Outcome(NamedTuple):
    """What a benchmark module's `run(settings)` returns."""

    rows: list[Row]
    skipped: list[Skipped]


def row(bench: str, what: str, system: str, samples: Sequence[float], **more: Any) -> Row:
    """A row from samples."""
    low, middle, high = quartiles(samples)
    return Row(bench, what, system, middle, low=low, high=high, best=min(samples), n=len(samples), **more)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile; all the same for one sample."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def interleaved(names: Sequence[str], rounds: int, seed: int = 1) -> Iterator[str]:
    """Every name once a round, in an order that changes from round to round."""
    order = random.Random(seed)
    for _ in range(rounds):
        yield from order.sample(list(names), len(names))


def timed(function: Callable[[], object], calls: int = 1) -> float:
    """Seconds for one call of `function`, over `calls` calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def compare(functions: Mapping[str, Callable[[], object]], *, rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds a call of each function, `rounds` interleaved samples of `calls` calls, after one warm-up each."""
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for name in functions:
        timed(functions[name], min(calls, 10))
    for name in interleaved(list(functions), rounds):
        samples[name].append(timed(functions[name], calls))
    return samples


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "shared_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "versions": {name: installed for name in PEERS if (installed := _version(name))},
    }


def filesystem(path: str) -> str:
    """The type of the filesystem that holds `path`, such as tmpfs or ext4."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if os.path.realpath(path).startswith(mounted) and len(mounted) >= len(best[0]):
            best = (mounted, kind)
    return best[1]


def _line(path: str, name: str) -> str:
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
