"""What the C core asks Python for: waiting, deadlines and errors. Once in the life of a proxy, or never."""

from __future__ import annotations

from typing import Any

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.fork import on_fork
from proxyfab.proxy.core import compiled
from proxyfab.proxy.layout import says_too_little
from proxyfab.proxy.waking import join, misled, text, timed


def connect(**functions: Any) -> None:
    """Give the C core these functions and those of this module; from now on it can make and resolve proxies."""
    compiled.connect(
        **functions, text=text, misled=_misled, timed=timed, join=join, late=ResolveTimeout,
        told_too_little=says_too_little,
    )  # fmt: skip
    on_fork(_forks)


class _Forks:
    def after_fork(self) -> None:
        """What was being fetched is no more: its threads stayed in the parent."""
        compiled.forked()


_forks = _Forks()


def _misled(proxy: Any, error: Exception) -> ProxyfabError:
    told = misled(proxy, error)
    told.__cause__ = error
    return told
