"""LRU bounded by bytes. Thread-safe; holds its lock only to touch its own dict, never while anything is loaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from proxyfab.fork import on_fork

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteLRU(Generic[K, V]):
    """The most recently used values, at most `limit` bytes of them as `size_of` counts.

    A value larger than the limit is not kept. `limit=0` keeps nothing.
    """

    def __init__(self, limit: int, size_of: Callable[[V], int]) -> None:
        self.limit = limit
        self.nbytes = 0
        self._size_of = size_of
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may get and put other values
        on_fork(self)

    def after_fork(self) -> None:
        """A child starts empty: its parent may have been in the middle of a change."""
        self._lock = threading.RLock()
        self._values = OrderedDict()
        self.nbytes = 0

    def get(self, key: K) -> V | None:
        """The value, now the youngest; None when it is not here."""
        with self._lock:
            entry = self._values.get(key)
            if entry is None:
                return None
            self._values.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, only_if: Callable[[], bool] | None = None) -> None:
        """Keep the value and drop the oldest ones until the bound holds again.

        Args:
            key: Where to find it.
            value: What to keep.
            only_if: Asked under the lock, and nothing is changed where it says no: who changes its answer and pops the
                key then can be sure that the value is not there.
        """
        size = self._size_of(value)
        with self._lock:
            if only_if is not None and not only_if():
                return
            dropped = [self._drop(key)]  # values end with this list, after the lock: what ends may run anybody's code
            if size > self.limit:
                return
            self._values[key] = value, size
            self.nbytes += size
            while self._values and self.nbytes > self.limit:
                dropped.append(self._drop(next(iter(self._values))))

    def pop(self, key: K) -> V | None:
        """Forget one value and hand it out."""
        with self._lock:
            return self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            dropped, self._values = self._values, OrderedDict()
            self.nbytes = 0
        dropped.clear()

    def __len__(self) -> int:
        return len(self._values)

    def _drop(self, key: K) -> V | None:
        value, size = self._values.pop(key, (None, 0))
        self.nbytes = self.nbytes - size if self._values else 0
        return value
