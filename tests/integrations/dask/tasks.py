"""What tasks of these tests do, and large things for them; a module, so that workers find the functions by name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

LARGE = 200_000
"""Numbers, of 8 bytes each, that travel by reference."""
WAIT = 60
"""Seconds; never needed."""


def large(seed: int = 0, count: int = LARGE) -> Any:
    """An array that travels by reference, and whose content depends on `seed`."""
    return np.arange(count, dtype=np.int64) + seed


def puts(client: Any) -> int:
    """How many objects a client of ours has put."""
    return int(client._proxyfab.stats()["put"])


def total(array: Any, *_: object, **__: object) -> int:
    """A small result of a large argument."""
    return int(array.sum())


def grown(array: Any, by: int = 1, **more: Any) -> Any:
    """A large result."""
    return array + by + sum(int(each[0]) for each in more.values())


def failing(array: Any) -> None:
    """Raises."""
    raise ValueError(f"as it should, with {array.nbytes} bytes")


def patient(array: Any, gate: str) -> int:
    """As `total`, as soon as there is a file `gate`."""
    ends = time.monotonic() + 60
    while not os.path.exists(gate) and time.monotonic() < ends:
        time.sleep(0.01)
    return total(array)


def stubborn(array: Any, gate: str, done: str) -> Any:
    """As `grown`, as soon as there is a file `gate`; says so in a file, and in another one that it has begun."""
    Path(f"{done}-begun").touch()
    patient(array, gate)
    Path(done).touch()
    return grown(array)


def slowly(array: Any, seconds: float, **more: Any) -> Any:
    """As `grown`, later."""
    time.sleep(seconds)
    return grown(array, **more)


def counted(array: Any, runs: str) -> Any:
    """As `grown`; adds a mark to a file."""
    with open(runs, "a") as file:
        file.write("x")
    return grown(array)


def fleeting(array: Any, tries: str, failures: int) -> Any:
    """As `grown`, but fails that often before; counts its tries in a file."""
    with open(tries, "a") as file:
        file.write("x")
    if os.path.getsize(tries) <= failures:
        raise ConnectionError("as it should, for now")
    return grown(array)
