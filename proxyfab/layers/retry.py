"""`retry+`: tries again what the link below it broke off, where a second time does no harm.

Promises: an operation ends as it would have without a fault, or with the last fault as the cause of its error; retries
keep to the budget that all of this process's calls to a place share, and none begins after the deadline.

1. `get`, `get_range`, `exists`, `stat`, `wait`, `renew` and their batches are simply asked again.
2. A `put` has its key before the first attempt. Where an attempt whose answer was lost has stored the object, the next
   one finds the key taken and is content; under a key that the caller chose, if the same bytes lie there.
3. An `evict` that needed a second attempt answers True: the object is gone, and whether the first attempt, or somebody
   else, took it away cannot be told any more.
4. `compare_and_set`, `clear`, `reap` and a listing are not tried again: they would not answer as the first time.

Not promised: that a call which hangs below is broken off at the deadline. That is for the connector (`?timeout=`).
Connectors for networks try again by themselves; this layer is for those that do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from proxyfab.abc import Stat, check_batch
from proxyfab.buffers import Frames
from proxyfab.errors import KeyExists
from proxyfab.keys import Fresh, Key
from proxyfab.layers.base import Layer
from proxyfab.retry import MOST, Attempts, Backoff, RetryBudget, attempt, budget_of
from proxyfab.trace import Link, here, span

T = TypeVar("T")
TIMEOUT = 60.0


class RetryLayer(Layer):
    """Tries again. Thread-safe and fork-safe as the child is.

    Each retry is a span `retry` whose seconds are the pause before it.

    Args:
        child: Where the bytes lie; this connector closes it.
        timeout: Seconds after which no attempt of an operation begins.
        most: Attempts of one operation at most.
        backoff: Pauses between attempts.
    """

    name: ClassVar[str] = "retry"

    def __init__(
        self, child: Any, *, timeout: float = TIMEOUT, most: int = MOST, backoff: Backoff | None = None
    ) -> None:
        super().__init__(child)
        self.timeout = timeout
        self.most = most
        self.backoff = backoff or Backoff()
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.plain or type(self), self.child, self.timeout, self.most, self.backoff)

    @cached_property
    def budget(self) -> RetryBudget:
        """What all calls of this process to this place may still spend."""
        return budget_of(f"{self.scheme} {self.place}")

    # -- what is asked again -----------------------------------------------------------------------------------------

    def get(self, key: Key) -> Frames | None:
        return self._again("get", key, lambda _: Layer.get(self, key))

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        return self._again("get_range", key, lambda _: Layer.get_range(self, key, offset, length))

    def exists(self, key: Key) -> bool:
        return self._again("exists", key, lambda _: Layer.exists(self, key))

    def stat(self, key: Key) -> Stat | None:
        return self._again("stat", key, lambda _: Layer.stat(self, key))

    def renew(self, key: Key, ttl: float | None) -> bool:
        return self._again("renew", key, lambda _: Layer.renew(self, key, ttl))

    def renew_many(self, keys: Sequence[Key], ttl: float | None) -> list[bool]:
        return self._again("renew_many", f"{len(keys)} keys", lambda _: Layer.renew_many(self, keys, ttl))

    def reserve(self) -> Key:
        return self._again("reserve", "", lambda _: Layer.reserve(self))

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        attempts = self._attempts(timeout)  # a waiter's deadline is its own, however long
        return self._again("wait", key, lambda _: Layer.wait(self, key, attempts.left), attempts)

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        attempts = self._attempts(timeout)
        name = f"{len(keys)} keys"
        return self._again("wait_any", name, lambda _: Layer.wait_any(self, keys, attempts.left), attempts)

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return self._again("get_many", f"{len(keys)} keys", lambda _: Layer.get_many(self, keys))

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return self._again("exists_many", f"{len(keys)} keys", lambda _: Layer.exists_many(self, keys))

    # -- what must not happen twice ----------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        wanted = self.reserve() if key is None else key.plain()
        drawn = key is None or type(key) is Fresh

        def once(first: bool) -> Key:
            if first or replace:
                name = Fresh.of(wanted) if first and drawn else wanted
                return Layer.put(self, frames, key=name, ttl=ttl, replace=replace).plain()
            return self._put_unless_done(frames, wanted, ttl, drawn)

        return self._again("put", wanted, once)

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        check_batch(many, keys)
        wanted = [self.reserve() for _ in many] if keys is None else [key.plain() for key in keys]
        drawn = [keys is None or type(key) is Fresh for key in keys or wanted]
        done: list[Key] = []

        def once(first: bool) -> list[Key]:
            if first or replace:
                names = [Fresh.of(key) if first and mine else key for key, mine in zip(wanted, drawn, strict=True)]
                return [key.plain() for key in Layer.put_many(self, many, keys=names, ttl=ttl, replace=replace)]
            while len(done) < len(wanted):  # one at a time, as each may be there already
                place = len(done)
                done.append(self._put_unless_done(many[place], wanted[place], ttl, drawn[place]))
            return done

        return self._again("put_many", f"{len(wanted)} keys", once)

    def evict(self, key: Key) -> bool:
        return self._again("evict", key, lambda first: Layer.evict(self, key) or not first)

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        def once(first: bool) -> list[bool]:
            return [gone or not first for gone in Layer.evict_many(self, keys)]

        return self._again("evict_many", f"{len(keys)} keys", once)

    def close(self) -> None:
        self._closed = True
        super().close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _put_unless_done(self, frames: Frames, key: Key, ttl: float | None, drawn: bool) -> Key:
        """Put once more what an attempt before may have put already."""
        try:
            return Layer.put(self, frames, key=key, ttl=ttl)
        except KeyExists:
            if drawn:  # nobody else has this key
                return key
            there: Frames | None = Layer.get(self, key)
            stat: Stat | None = Layer.stat(self, key)
            if (there is None or stat is None) and ttl is not None:  # ours it may have been, and it has expired
                return Layer.put(self, frames, key=key, ttl=ttl)
            if there is None or stat is None or there != frames:
                raise
            return stat.key

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self.budget, timeout=timeout, most=self.most, backoff=self.backoff)

    def _again(self, operation: str, key: object, call: Callable[[bool], T], attempts: Attempts | None = None) -> T:
        """What `call(first)` answers in the end; `first` tells whether nothing was tried before."""
        if self._closed:  # which the child says better, and once
            return call(True)
        tries = attempts or self._attempts(self.timeout)

        def pause(seconds: float) -> None:
            with span("retry", Link(here(), self.place, self.scheme), key):
                time.sleep(seconds)

        return attempt(lambda: call(tries.number == 1), tries, f"{operation} at {self.child.spec}", sleep=pause)


def _rebuild(kind: type[RetryLayer], child: Any, timeout: float, most: int, backoff: Backoff) -> RetryLayer:
    return kind(child, timeout=timeout, most=most, backoff=backoff)
