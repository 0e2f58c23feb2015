"""What lies in shared memory of this run, and whether it goes in time."""

from __future__ import annotations

import gc

from proxyfab.store import Store
from proxyfab.testing.processes import until

SECONDS = 4.0
"""In which everything must be gone that nobody needs; it takes one."""
KILLED = 10.0
"""The same after a process was killed, which Dask has to find out; it takes one where nobody else is at work."""


def objects() -> list[str]:
    """All objects in shared memory of this run, whoever put them."""
    with Store() as any_store:
        return [f"{stat.key} of {stat.owner}" for stat in any_store.connector.scan()]  # type: ignore[attr-defined]


def nothing_left(seconds: float = SECONDS) -> bool:
    gc.collect()
    return until(lambda: not objects(), seconds)
