"""What the C core asks Python for: waiting, deadlines and errors. Once in the life of a proxy, or never."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Any

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.fork import on_fork
from proxyfab.proxy.core import compiled
from proxyfab.proxy.layout import is_proxy, says_too_little
from proxyfab.proxy.waking import misled, resolve, text

_WHAT = "the target of this proxy"


def connect(**functions: Any) -> None:
    """Give the C core these functions and those of this module; from now on it can make and resolve proxies."""
    compiled.connect(
        **functions, text=text, misled=_misled, itself=_itself, timed=_timed, join=_join, late=ResolveTimeout,
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


def _itself() -> ProxyfabError:
    return ProxyfabError(f"Resolving {_WHAT} needs {_WHAT} itself: its own bytes hold a reference to it.")


def _timed(factory: Callable[[], Any], timeout: float) -> Any:
    deadline = monotonic() + timeout
    hook = getattr(factory, "resolve", None)
    target = factory() if hook is None else hook(timeout=max(timeout, 0.0))
    return resolve(target, max(deadline - monotonic(), 0.0)) if is_proxy(target) else target


def _join(flight: list[Any], timeout: float | None) -> float | None:
    """Wait until a flight has landed: `flight` is as in `flight.py`. What is left of the timeout, or its error."""
    deadline = None if timeout is None else monotonic() + timeout
    landed = Lock()
    landed.acquire()
    flight.append(landed)  # and then look: either the pilot sees the lock, or this thread sees the landing
    if isinstance(flight[0], int) and not landed.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
        raise ResolveTimeout(
            f"Another thread is still fetching {_WHAT} after {round(timeout or 0, 3)} s; wait longer or try again."
        )
    if isinstance(flight[0], Exception):
        raise flight[0]
    return None if deadline is None else max(deadline - monotonic(), 0.0)
