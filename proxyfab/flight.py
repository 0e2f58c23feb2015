"""Single flight: of all threads that want one thing at once, one fetches it and the others get its result.

Promises:
1. No lock is held while the thing is fetched: different keys never wait for one another.
2. A failure reaches everyone who waited and is then forgotten: the next call tries again.
3. Every wait has a deadline if the caller gives one; a flight that a fork left behind in the parent is not waited for.
4. A thread that asks, while fetching, for the very thing it is fetching gets an error instead of a deadlock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.fork import on_fork

V = TypeVar("V")


class _Flight:
    __slots__ = ("error", "landed", "pilot", "value")

    def __init__(self) -> None:
        self.pilot = threading.get_ident()
        self.landed = threading.Lock()
        self.landed.acquire()
        self.value: Any = None
        self.error: BaseException | None = None


class SingleFlight(Generic[V]):
    """Runs at most one `fetch` per key at a time."""

    __slots__ = ("__weakref__", "_flying")

    def __init__(self) -> None:
        self._flying: dict[Hashable, _Flight] = {}
        on_fork(self)

    def do(self, key: Hashable, fetch: Callable[[], V], timeout: float | None = None) -> V:
        """The result of `fetch()`, fetched by this thread or by another one that was already at it.

        Args:
            key: What is fetched.
            fetch: Called in this thread, outside any lock, if nobody else is fetching `key`.
            timeout: Seconds to wait for somebody else's fetch.

        Raises:
            ResolveTimeout: The other thread did not finish in time.
        """
        mine = _Flight()
        flight = self._flying.setdefault(key, mine)  # atomic: a dict operation under the interpreter's lock
        if flight is not mine:
            return self._join(key, flight, timeout)
        try:
            mine.value = value = fetch()
            return value
        except BaseException as error:
            mine.error = error
            raise
        finally:
            self._flying.pop(key, None)
            mine.landed.release()

    def after_fork(self) -> None:
        """Forget flights whose pilots stayed in the parent."""
        self._flying = {}

    def _join(self, key: Hashable, flight: _Flight, timeout: float | None) -> V:
        if flight.pilot == threading.get_ident():
            raise ProxyfabError(f"Resolving {key} needs {key} itself: its own bytes hold a reference to it.")
        if not flight.landed.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            raise ResolveTimeout(f"Another thread is still fetching {key} after {timeout} s; wait longer or try again.")
        flight.landed.release()
        if flight.error is not None:
            raise flight.error
        return flight.value  # type: ignore[no-any-return]  # the value is what fetch() of the same key returned
