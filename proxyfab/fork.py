"""After a fork: who owns a lock says how to make it anew, as no thread that held it lives in the child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


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


os.register_at_fork(after_in_child=_after_in_child)
