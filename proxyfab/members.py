"""Weak collections for several threads: sets that may be looked through while they grow, values made once for a key.

Promises: who looks through `Members` sees all that were in it at one moment and live, whatever other threads add
meanwhile; of several threads that want the value of a key in `Known` all get the same one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any, TypeVar
from weakref import WeakSet, WeakValueDictionary

T = TypeVar("T")
K = TypeVar("K")


class Members(WeakSet[T]):
    """A WeakSet that does not mind when another thread adds to it while this one looks through it.

    It is true while one of them lives. By its number, as a WeakSet is, it would be so for one who has just gone, and
    for ever for one whose end an interrupt kept it from noting.
    """

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def __iter__(self) -> Iterator[T]:
        references: Any = self.data  # type: ignore[attr-defined]  # typeshed does not tell of it
        for reference in list(references):  # in one step
            member = reference()
            if member is not None:
                yield member


class Known(WeakValueDictionary[K, T]):
    """A WeakValueDictionary whose `setdefault` is one step."""

    def setdefault(self, key: K, default: T) -> T:
        """The value of a key: `default`, where there is none yet."""
        with _turn:
            return super().setdefault(key, default)

    def now(self) -> dict[K, T]:
        """All that live at one moment."""
        references: Any = self.valuerefs()  # in one step, and each tells its key
        return {reference.key: value for reference in references if (value := reference()) is not None}


_turn = threading.RLock()  # reentrant: collecting garbage inside may come back here


def _after_fork() -> None:
    global _turn
    _turn = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
