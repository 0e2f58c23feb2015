"""What the C core asks Python for: waiting, deadlines and errors. Once in the life of a proxy, or never."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.flight import wait_for
from proxyfab.fork import on_fork
from proxyfab.proxy.core import compiled
from proxyfab.proxy.layout import is_proxy, says_too_little
from proxyfab.proxy.waking import misled, resolve, text

_WHAT = "the target of this proxy"


def connect(**functions: Any) -> None:
    """Give the C core these functions and those of this module; from now on it can make and resolve proxies."""
    compiled.connect(
        **functions, text=text, misled=_misled, timed=_timed, join=_join, late=ResolveTimeout,
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


def _timed(factory: Callable[[], Any], timeout: float) -> Any:
    deadline = monotonic() + timeout
    hook = getattr(factory, "resolve", None)
    target = factory() if hook is None else hook(timeout=max(timeout, 0.0))
    return resolve(target, max(deadline - monotonic(), 0.0)) if is_proxy(target) else target


def _join(flight: list[Any], timeout: float | None) -> float | None:
    """Wait until a flight has landed: `flight` is as in `flight.py`. What is left of the timeout, or its error."""
    deadline = None if timeout is None else monotonic() + timeout
    wait_for(flight, _WHAT, timeout)
    if isinstance(flight[0], Exception):
        raise flight[0]
    return None if deadline is None else max(deadline - monotonic(), 0.0)
