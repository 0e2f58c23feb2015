"""Objects of 1 KB, one by one and a thousand at once: one way to measure it for every connector."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Row, Settings, interleaved, row, timed
from benchmarks.payloads import KB
from proxyfab.buffers import Frames

_MANY = 1000


def batched(bench: str, system: str, connector: Any, settings: Settings) -> Iterator[Row]:
    """Seconds an object, of each call."""
    count = 20 if settings.tiny else _MANY
    many = [Frames([os.urandom(KB)]) for _ in range(count)]
    keys = connector.put_many(many)
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: [connector.put(frames) for frames in many],
        "put_many": lambda: connector.put_many(many),
        "get": lambda: [connector.get(key) for key in keys],
        "get_many": lambda: connector.get_many(keys),
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for name in interleaved(list(calls), settings.rounds(KB)):
        samples[name].append(timed(calls[name]) / count)
    for name in calls:
        yield row(bench, f"{name}, an object of {count}", system, samples[name], nbytes=KB)
    connector.clear()
