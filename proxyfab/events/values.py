"""Values beside a topic in memory, with revisions, times to live, and waiting for a change."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from proxyfab.errors import Conflict
from proxyfab.events.model import Kept

_LOOK = 1.0
"""Seconds after which who waits looks again."""


class Values:
    """Values beside a topic, in memory. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: dict[str, tuple[Kept, float]] = {}
        self._revision = 0

    def get(self, name: str) -> Kept | None:
        """As State does."""
        with self._changed:
            return self._get(name)

    def put(self, name: str, value: bytes, revision: int | None, ttl: float | None) -> int:
        """As State does."""
        with self._changed:
            self._expect(name, revision)
            self._revision += 1
            expires = 1e18 if ttl is None else time.monotonic() + ttl
            self._kept[name] = Kept(value, self._revision), expires
            self._changed.notify_all()
            return self._revision

    def delete(self, name: str, revision: int | None) -> bool:
        """As State does."""
        with self._changed:
            self._expect(name, revision)
            self._changed.notify_all()
            return self._kept.pop(name, None) is not None

    def items(self, prefix: str) -> dict[str, Kept]:
        """As State does."""
        with self._changed:
            return {name: kept for name in sorted(self._kept) if name.startswith(prefix) and (kept := self._get(name))}

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        """As State does."""
        until = time.monotonic() + timeout
        with self._changed:
            while True:
                found = {name: kept for name in known if _revision(kept := self._get(name)) != known[name]}
                now = time.monotonic()
                if found or now >= until:
                    return found
                ends = [self._kept[name][1] for name in known if name in self._kept]
                self._changed.wait(max(0.0, min(until, now + _LOOK, *ends) - now))

    def _get(self, name: str) -> Kept | None:
        found = self._kept.get(name)
        if found is not None and found[1] <= time.monotonic():
            del self._kept[name]
            return None
        return None if found is None else found[0]

    def _expect(self, name: str, revision: int | None) -> None:
        now = _revision(self._get(name))
        if revision is not None and now != revision:
            raise Conflict(f"{name} has revision {now}, not {revision}: somebody else has set it.")


def _revision(kept: Kept | None) -> int:
    return 0 if kept is None else kept.revision
