"""Servers that are stopped (SIGSTOP) for a while, and waits that keep their deadline meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

DEADLINE = 0.2
LATE = 2.0
"""Seconds that a machine full of others' work may add; a server that is silent was believed in for four, or sixty."""


class Stoppable(Protocol):
    """A server."""

    @property
    def stop(self) -> Callable[[], None]: ...

    @property
    def go_on(self) -> Callable[[], None]: ...


@contextmanager
def stopped(place: Stoppable) -> Iterator[None]:
    """It is, inside."""
    place.stop()
    try:
        yield
    finally:
        place.go_on()


def in_time(wait: Callable[[], Any]) -> None:
    """It says in time that nothing was there, and no more."""
    began = time.monotonic()
    assert not wait()
    assert DEADLINE <= time.monotonic() - began < DEADLINE + LATE
