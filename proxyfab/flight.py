"""Single flight: of all threads that want one thing at once, one fetches it and the others get its result.

Promises:
1. No lock is held while the thing is fetched: different keys never wait for one another.
2. A failure reaches everyone who waited and is then forgotten: the next call tries again. What stopped only the thread
   that fetched, its own deadline or an interrupt, reaches nobody else: one of those who waited fetches.
3. Every wait has a deadline if the caller gives one; a flight that a fork left behind in the parent is not waited for.
4. An interrupt, at whichever instruction, leaves no flight that others wait for.
5. A thread that asks, while fetching, for the very thing it is fetching gets an error, not a deadlock. So does one
   that asks for what another fetches which waits, itself or through others, for what this one is fetching.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import islice
from operator import methodcaller
from threading import Lock, get_ident
from time import monotonic
from typing import Any, Generic, TypeVar

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.fork import on_fork

V = TypeVar("V")


# A flight is a list, because making one costs nothing. First comes the pilot's thread id; after the landing (value,),
# the error, or None where the pilot gave up. Then comes what wakes all who wait, or None while nobody does, and then
# their locks. A waiter adds its lock and what wakes, and then looks at the first item; the pilot sets the first item
# and then looks for what wakes: either the waiter sees the landing, or the pilot sees the lock.
# An interrupt comes behind a call, so landing is an assignment, and one call releases all locks. A flight that has
# landed and is still to be found was interrupted before its removal: it is of the past, and whoever finds it goes on.
# Proxies (`proxy/waking.py`, `proxy/_core_waking.h`) have flights of their own, of this form.
Flight = list[Any]
_release = methodcaller("release")

_waiting: dict[int, Flight] = {}
"""By thread: the flight whose landing it waits for."""


class _Waiting:
    def after_fork(self) -> None:
        """Who waited stayed in the parent."""
        _waiting.clear()


_stayed = _Waiting()
on_fork(_stayed)


def wait_for(flight: Flight, what: object, timeout: float | None) -> None:
    """Wait until a flight has landed; its first item then says how.

    Raises:
        ResolveTimeout: It did not land in time.
        ProxyfabError: It never would, because its pilot waits for this thread.
    """
    me = get_ident()
    if flight[0] == me:
        raise ProxyfabError(f"Resolving {what} needs {what} itself: its own bytes hold a reference to it.")
    landed = Lock()
    landed.acquire()
    before = _waiting.get(me)  # a signal's handler may wait, too
    try:
        _waiting[me] = flight  # and then look: of two that wait for one another, the second to come here sees the first
        if _comes_back(flight, me):
            raise ProxyfabError(
                f"Resolving {what} would never end: another thread is at it, and waits for what this thread is "
                f"resolving. They hold references to one another; store one of them without its reference to the other."
            )
        flight.append(landed)
        flight[1] = map(_release, islice(flight, 2, None))  # two of them walk the same list: the last one serves all
        # And then look: either the pilot sees the lock, or this thread sees the landing.
        if isinstance(flight[0], int) and not landed.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            raise ResolveTimeout(
                f"Another thread is still fetching {what} after {round(timeout or 0, 3)} s; wait longer or try again."
            )
    finally:
        _waiting.pop(me, None) if before is None else _waiting.update({me: before})


def _comes_back(flight: Flight | None, thread: int) -> bool:
    """Whether a flight's pilot waits for a flight whose pilot waits for ... one of this thread."""
    way: list[Flight] = []
    while flight is not None and len(way) <= len(_waiting):
        way.append(flight)
        pilot = flight[0]
        if pilot == thread:
            return all(isinstance(each[0], int) for each in way)  # what has landed meanwhile was no part of a circle
        flight = _waiting.get(pilot) if isinstance(pilot, int) else None
    return False


class SingleFlight(Generic[V]):
    """Runs at most one `fetch` per key at a time."""

    __slots__ = ("__weakref__", "_flying", "_what")

    def __init__(self, what: str = "") -> None:
        """Makes one; `what` stands for the key in messages, where a key would say nothing to anybody."""
        self._flying: dict[Hashable, Flight] = {}
        self._what = what
        on_fork(self)

    def do(self, key: Hashable, fetch: Callable[..., V], timeout: float | None = None, *args: Any) -> V:
        """The result of `fetch(*args)`, fetched by this thread or by another one that was already at it.

        Args:
            key: What is fetched.
            fetch: Called in this thread, outside any lock, if nobody else is fetching `key`.
            timeout: Seconds to wait for somebody else's fetch.
            *args: Handed to `fetch`.

        Raises:
            ResolveTimeout: The other thread did not finish in time.
            ProxyfabError: Nobody would ever finish: what is fetched needs itself, or what this thread is fetching.
        """
        mine: Flight = [get_ident(), None]
        outcome: Any = None
        try:
            flight = self._flying.setdefault(key, mine)  # atomic: a dict operation under the interpreter's lock
            if flight is mine:
                value = fetch(*args)
                outcome = (value,)
                return value
        except ResolveTimeout as error:
            outcome = error if timeout is None else None
            raise
        except Exception as error:
            outcome = error
            raise
        finally:
            mine[0] = outcome
            wake = mine[1]
            if wake is not None:
                any(wake)
            self._forget(key, mine)
        if not isinstance(flight[0], int):
            self._forget(key, flight)
            return self.do(key, fetch, timeout, *args)
        return self._join(key, flight, fetch, timeout, args)

    def _forget(self, key: Hashable, flight: Flight) -> None:
        if self._flying.get(key) is flight:
            self._flying.pop(key, None)

    def after_fork(self) -> None:
        """Forget flights whose pilots stayed in the parent."""
        self._flying = {}

    def _join(
        self, key: Hashable, flight: Flight, fetch: Callable[..., V], timeout: float | None, args: tuple[Any, ...]
    ) -> V:
        deadline = None if timeout is None else monotonic() + timeout
        wait_for(flight, self._what or key, timeout)
        if flight[0] is None:
            return self.do(key, fetch, None if deadline is None else max(deadline - monotonic(), 0.0), *args)
        if isinstance(flight[0], Exception):
            raise flight[0]
        return flight[0][0]  # type: ignore[no-any-return]  # the value is what fetch() of the same key returned
