"""Values beside a topic in memory, with revisions and times to live. Nothing here waits, and there is no lock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from proxyfab.errors import CapacityError, Conflict, TopicNotFound
from proxyfab.events.cursor import NEVER
from proxyfab.events.engine import Clock
from proxyfab.events.model import Kept, check_name, revision_of

MAX_VALUE = 512 << 10
_SWEEP = 256
"""Changes after which what has ended is looked for."""


class _Value(NamedTuple):
    kept: Kept
    ends: float


class Values:
    """Values of one topic, or of a broker. Belongs to its owner's lock or loop.

    Args:
        clock: For tests of time.
    """

    def __init__(self, clock: Clock = time) -> None:
        self.gone = False
        self.nbytes = 0
        """Bytes of names and values."""
        self._clock = clock
        self._values: dict[str, _Value] = {}
        self._revision = 0

    def get(self, name: str) -> Kept | None:
        """As State does."""
        self._there()
        return self._get(check_name(name), self._clock.monotonic())

    def put(self, name: str, value: bytes, revision: int | None, ttl: float | None) -> int:
        """As State does."""
        self._there()
        if len(value) > MAX_VALUE:
            raise CapacityError(f"The value {name} has {len(value)} bytes, more than {MAX_VALUE}.")
        now = self._clock.monotonic()
        self._expect(check_name(name), revision, now)
        self._revision += 1
        if not self._revision % _SWEEP:
            self._sweep(now)
        self._drop(name)
        self._values[name] = _Value(Kept(value, self._revision), NEVER if ttl is None else now + ttl)
        self.nbytes += len(name) + len(value)
        return self._revision

    def delete(self, name: str, revision: int | None) -> bool:
        """As State does."""
        self._there()
        self._expect(check_name(name), revision, self._clock.monotonic())
        return self._drop(name)

    def items(self, prefix: str) -> dict[str, Kept]:
        """As State does."""
        self._there()
        now = self._clock.monotonic()
        names = sorted([name for name in self._values if name.startswith(prefix)])
        return {name: kept for name in names if (kept := self._get(name, now)) is not None}

    def changed(self, known: Mapping[str, int]) -> dict[str, Kept | None]:
        """Those of the named values that have another revision than is known."""
        self._there()
        now = self._clock.monotonic()
        return {name: kept for name in known if revision_of(kept := self._get(name, now)) != known[name]}

    def next_end(self, names: Mapping[str, int]) -> float:
        """The monotonic moment at which the first of them ends; NEVER if none does."""
        return min([self._values[name].ends for name in names if name in self._values], default=NEVER)

    def end(self) -> None:
        """Their topic was deleted."""
        self.gone = True

    def _there(self) -> None:
        if self.gone:
            raise TopicNotFound("The topic of these values was deleted.")

    def _get(self, name: str, now: float) -> Kept | None:
        found = self._values.get(name)
        if found is None or found.ends > now:
            return None if found is None else found.kept
        self._drop(name)
        return None

    def _drop(self, name: str) -> bool:
        found = self._values.pop(name, None)
        if found is not None:
            self.nbytes -= len(name) + len(found.kept.value)
        return found is not None

    def _sweep(self, now: float) -> None:
        for name in [name for name, value in self._values.items() if value.ends <= now]:
            self._drop(name)

    def _expect(self, name: str, revision: int | None, now: float) -> None:
        there = revision_of(self._get(name, now))
        if revision is not None and there != revision:
            raise Conflict(f"{name} has revision {there}, not {revision}: somebody else has set it.")
