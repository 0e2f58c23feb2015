"""An interrupt at any instruction costs shared memory no lease, no segment, no mapping and no descriptor."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.osio.leases import leases
from proxyfab.testing import in_fork
from proxyfab.testing.content import signed
from proxyfab.testing.interrupts import Interrupt

NBYTES = 300_000


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedMemoryConnector]:
    """A connector at a place of its own."""
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "root"))
    connector = SharedMemoryConnector()
    yield connector
    connector.close()


def live(one: SharedMemoryConnector, frames: Frames) -> None:
    """Two objects, of which one is evicted while it is looked at."""
    first, second = one.put(frames), one.put(frames)
    held = [one.get(first), one.get(second), one.get(second)]
    one.evict(first)
    held.clear()
    one.evict(second)


def belongings(one: SharedMemoryConnector) -> dict[str, int]:
    """What the process has, when nothing is put or held."""
    assert one.clear() <= 2
    live(one, signed(NBYTES, 1))
    shared = one._shared
    assert shared is not None
    shared.mappings.clear()
    root = os.environ["PROXYFAB_SHM_DIR"]
    return {
        "leases": leases.held(),
        "claimed": sum(not segment.claim.over for segment in shared.pool._segments.values()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": max(Path("/proc/self/maps").read_text().count(root) - len(shared.pool), 0),
    }


def interrupt_each(one: SharedMemoryConnector, seed: int) -> tuple[int, list[str]]:
    """How many instructions there are, and what was left behind which of them; in random order, for four seconds."""
    sys.unraisablehook = lambda _: None
    before, whole, left = belongings(one), Interrupt(1 << 60), []
    whole.run(lambda: live(one, signed(NBYTES, 1)))
    ends = time.monotonic() + 4.0
    for number in random.Random(seed).sample(range(1, whole.seen), whole.seen - 1):
        interrupt = Interrupt(number)
        interrupt.run(lambda: live(one, signed(NBYTES, 1)))
        after = belongings(one)
        if after != before:
            left.append(f"{before} became {after}\n{interrupt.where}")
            before = after
        if time.monotonic() > ends:
            break
    return whole.seen, left


def test_an_interrupt_leaves_nothing_behind(one: SharedMemoryConnector) -> None:
    seed = random.randrange(10_000)
    instructions, left = in_fork(lambda: interrupt_each(one, seed), timeout=60)

    assert instructions > 200
    assert left == [], f"seed {seed}"
