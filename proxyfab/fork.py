"""Forks: who owns a lock says how to make it anew in the child, and no import of another thread is cut in two.

A module that another thread was just importing stays locked in the child for ever, whoever asks for it there: CPython
renews its one lock of imports at a fork, not those of single modules. Much of proxyfab is imported at its first use,
and so in threads.

Rules:
1. A fork waits until others have finished what they import; five seconds at most, as somebody's import may wait for the
   very thread that forks, and once for each import: a program may well run inside of one.
2. It holds nothing when it goes on: other hooks wait for locks then, whose holders may be about to import something.
3. So imports may be under way all the same. The child takes up none of them: it begins them anew, as after one that
   failed.
"""

from __future__ import annotations

import importlib
import os
import sys
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
    ends = time.monotonic() + _PATIENCE
    while _are_worth_waiting_for():
        if time.monotonic() > ends:
            for lock in _imports_elsewhere().values():
                _given_up.add(lock)
            return
        time.sleep(0.0005)


def _are_worth_waiting_for() -> bool:
    """A function of its own, so that nobody here holds a lock while he waits until it is gone."""
    return any(lock not in _given_up for lock in _imports_elsewhere().values())


def _drop_imports() -> None:
    """In the child: what threads were importing that are not here any more is not begun, and locked by nobody."""
    for name in _imports_elsewhere():
        _locks().pop(name, None)
        if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
            del sys.modules[name]


def _imports_elsewhere() -> dict[str, Any]:
    """The locks of modules that other threads import. Such a lock lives for as long as somebody imports it."""
    me = threading.get_ident()
    found = {name: reference() for name, reference in list(_locks().items())}
    return {name: lock for name, lock in found.items() if lock is not None and getattr(lock, "owner", me) != me}


def _locks() -> dict[str, Any]:
    return getattr(_bootstrap, "_module_locks", {})


_bootstrap: Any = getattr(importlib, "_bootstrap", None)
_given_up: weakref.WeakSet[Any] = weakref.WeakSet()
os.register_at_fork(before=_wait_for_imports, after_in_child=_drop_imports)
os.register_at_fork(after_in_child=_after_in_child)
