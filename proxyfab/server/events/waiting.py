"""Who waits at a server: requests that are answered when something changes, or when their time is over.

Promises: nothing is polled: a request is tried again when what it waits for has changed, or at the moment at which it
may have changed by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from proxyfab.events.cursor import NEVER


class Reply(NamedTuple):
    """What is answered."""

    fields: dict[str, Any]
    body: tuple[memoryview, ...] = ()


class Waiter:
    """A request that waits.

    Args:
        peer: Who asked.
        attempt: What there is to answer now; None for nothing yet. May raise.
        answer: Sends it, or an error.
        until: The monotonic moment at which `attempt` is tried for the last time, and `otherwise` answered.
        again: The monotonic moment at which `attempt` may succeed without a change.
        otherwise: What is answered then.
    """

    __slots__ = ("again", "answer", "attempt", "otherwise", "peer", "until")

    def __init__(
        self,
        peer: bytes,
        attempt: Callable[[], Reply | None],
        answer: Callable[[Reply | Exception], None],
        until: float,
        again: Callable[[], float],
        otherwise: Reply,
    ) -> None:
        self.peer, self.attempt, self.answer, self.until = peer, attempt, answer, until
        self.again, self.otherwise = again, otherwise


class Waiters:
    """By what they wait for. Belongs to the loop's thread."""

    def __init__(self) -> None:
        self._by: dict[Hashable, dict[Waiter, None]] = {}
        self._look: dict[Hashable, float] = {}
        self._changed: dict[Hashable, None] = {}
        self._peers: dict[bytes, int] = {}

    def count(self, peer: bytes) -> int:
        """How many of a peer wait."""
        return self._peers.get(peer, 0)

    def add(self, place: Hashable, waiter: Waiter) -> None:
        """One more waits."""
        self._by.setdefault(place, {})[waiter] = None
        self._peers[waiter.peer] = self._peers.get(waiter.peer, 0) + 1
        self._look[place] = min(self._look.get(place, NEVER), waiter.until, waiter.again())

    def change(self, place: Hashable) -> None:
        """Something has changed there: whoever waits tries again soon."""
        if place in self._by:
            self._changed[place] = None

    def touch(self, place: Hashable) -> None:
        """When something may happen there by itself has changed."""
        if place in self._by:
            self._look[place] = 0.0

    def drop(self, peer: bytes) -> None:
        """A peer has gone: what it waits for is nobody's business any more."""
        if self._peers.pop(peer, 0):
            for place, waiters in list(self._by.items()):
                for waiter in [waiter for waiter in waiters if waiter.peer == peer]:
                    self._remove(place, waiter)

    def serve(self) -> None:
        """Let those try again for whom something has changed, or whose time has come."""
        now = time.monotonic()
        due = [place for place, look in self._look.items() if look <= now]
        places, self._changed = [*dict.fromkeys([*self._changed, *due])], {}
        for place in places:
            for waiter in list(self._by.get(place, ())):
                self._try(place, waiter, now)
            left = self._by.get(place)
            if left:
                self._look[place] = min([min(waiter.until, waiter.again()) for waiter in left])

    def _try(self, place: Hashable, waiter: Waiter, now: float) -> None:
        found: Reply | Exception | None
        try:
            found = waiter.attempt()
        except Exception as error:  # noqa: BLE001  # whatever it is, who asked is told
            found = error
        if found is None and now >= waiter.until:
            found = waiter.otherwise
        if found is not None:
            self._remove(place, waiter)
            waiter.answer(found)

    def _remove(self, place: Hashable, waiter: Waiter) -> None:
        waiters = self._by.get(place)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        if not waiters:
            del self._by[place]
            self._look.pop(place, None)
        left = self._peers.get(waiter.peer, 1) - 1
        if left:
            self._peers[waiter.peer] = left
        else:
            self._peers.pop(waiter.peer, None)

    def next(self) -> float:
        """The monotonic moment at which to serve, whatever happens."""
        return 0.0 if self._changed else min(self._look.values(), default=NEVER)
