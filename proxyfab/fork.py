"""Forks: who owns a lock says how to make it anew in the child, and no import of another thread is cut in two.

A module that another thread was just importing stays locked in the child for ever, whoever asks for it there: CPython
renews its one lock of imports at a fork, not those of single modules. Much of proxyfab is imported at its first use,
and so in threads. So a fork waits until others have finished what they import, and keeps them from beginning anew; for
five seconds at most, as somebody's import may wait for the very thread that forks.
"""

from __future__ import annotations

import _imp
import contextlib
import importlib
import os
import threading
import time
import weakref
from typing import Any, Protocol

_PATIENCE = 5.0


class Forkable(Protocol):
    """Has state that a forked child must not take over as it is."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()


def on_fork(owner: Forkable) -> None:
    """Call `owner.after_fork()` in every child that is forked while `owner` lives; holds it weakly."""
    _known.add(owner)


def _after_in_child() -> None:
    for owner in list(_known):
        owner.after_fork()


def _wait_for_imports() -> None:
    """Hold the interpreter's lock of imports, under which every import begins, at a moment when none is under way."""
    ends = time.monotonic() + _PATIENCE
    _imp.acquire_lock()
    while _imports_elsewhere() and time.monotonic() < ends:
        _imp.release_lock()  # theirs need it, too
        time.sleep(0.0005)
        _imp.acquire_lock()


def _let_imports_begin() -> None:
    with contextlib.suppress(RuntimeError):  # an interrupt came before the lock was had
        _imp.release_lock()


def _imports_elsewhere() -> bool:
    """Whether another thread is importing. A module's lock lives for as long as somebody imports it."""
    locks: dict[str, Any] = getattr(_bootstrap, "_module_locks", {})
    me = threading.get_ident()
    alive = [lock for lock in [reference() for reference in list(locks.values())] if lock is not None]
    return any(getattr(lock, "owner", me) != me for lock in alive)


_bootstrap: Any = getattr(importlib, "_bootstrap", None)
os.register_at_fork(before=_wait_for_imports, after_in_parent=_let_imports_begin, after_in_child=_let_imports_begin)
os.register_at_fork(after_in_child=_after_in_child)
