"""The two timed steps of a hand-over, as they run inside a producer and inside a consumer."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.memory import Taken, look, mark, taken
from benchmarks.payloads import checksum, read


class Reply(NamedTuple):
    """What a consumer saw. Times are of the system-wide monotonic clock, so that two processes can be compared."""

    started: float
    got: float
    done: float
    digest: int
    memory: Taken | None


class Sample(NamedTuple):
    """One hand-over: seconds, or bytes where memory was metered."""

    put: float
    get: float
    read: float
    """Get and read every byte."""
    total: float
    """From the start of put to the last byte read."""


class MemorySample(NamedTuple):
    """One hand-over's memory in bytes."""

    put: Taken
    get: Taken
    stored: int
    """By how much the store grew."""


def consume(get: Callable[[], Any], *, metered: bool) -> Reply:
    """Get, read every byte, and check outside the timing."""
    before = mark() if metered else None
    started = perf_counter()
    obj = get()
    got = perf_counter()
    memory = taken(before, look()) if before is not None else None
    read(obj)
    done = perf_counter()
    return Reply(started, got, done, checksum(obj), memory)
