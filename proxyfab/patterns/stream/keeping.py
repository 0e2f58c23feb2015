"""The thread that keeps what a consumer holds: it tells what is settled, and extends what is worked on.

Promises: it refers to whom it works for weakly, ends with him, and when there was nothing to do for `IDLE` seconds; it
keeps no interpreter alive.
"""

from __future__ import annotations

import time
import weakref
from typing import Protocol

from proxyfab.errors import ProxyfabError
from proxyfab.waiting import Flag

LINGER = 0.05
"""Seconds that an acknowledgement waits for others."""
IDLE = 5.0
"""Seconds after which a keeper without work ends."""
BEATS = 3
"""How often in the time for a frame it is looked at."""


class Bell:
    """Calls the keeper, or ends him."""

    def __init__(self) -> None:
        self._rung = Flag()
        self._over = Flag()

    @property
    def ended(self) -> bool:
        """Whether he is to end."""
        return self._over.is_set()

    def ring(self) -> None:
        """Something is to be told."""
        if not self._rung.is_set():
            self._rung.set()

    def end(self) -> None:
        """He is not needed any more."""
        self._over.set()
        self._rung.set()

    def wait(self, timeout: float) -> bool:
        """Whether it was rung; more may be told at once a little later."""
        if not self._rung.wait(timeout):
            return False
        self._rung.clear()
        self._over.wait(LINGER)
        return True


class Kept(Protocol):
    """Where a keeper has something to do."""

    def flush(self) -> None:
        """Tell what is settled."""

    def beat(self) -> None:
        """Extend what is worked on."""

    def idle(self) -> bool:
        """Whether the keeper may end; then he does."""


def keep(weak: weakref.ref[Kept], bell: Bell, pause: float) -> None:
    """What the keeper's thread does, until there is nothing to keep."""
    beat = time.monotonic() + pause
    idle = time.monotonic()
    while weak() is not None:
        rung = bell.wait(max(0.0, min(beat - time.monotonic(), IDLE)))
        desk = weak()
        if desk is None or bell.ended:
            return
        now = time.monotonic()
        idle = now if rung else idle
        try:
            desk.flush()
            if now >= beat:
                beat = now + pause
                desk.beat()
        except ProxyfabError:  # who fetches is told; here it is tried again at the next beat
            pass
        if now - idle > IDLE and desk.idle():
            return
        del desk
