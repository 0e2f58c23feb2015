"""The one seam for observation: metrics, logs, energy meters and placement listen here.

Each step that moves an object is a span: an operation on a link, the link being (from, to, connector). When a span ends
it is counted in the process-wide totals, in the store's own, and handed to every listener. Units are seconds and bytes
everywhere. With no listener a span costs about a microsecond.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

from proxyfab.fork import on_fork
from proxyfab.members import Members


class Link(NamedTuple):
    """Where bytes came from and went to: host names or places such as `file:/scratch`, and the connector's scheme."""

    source: str
    target: str
    connector: str


class Total(NamedTuple):
    """What an operation on a link came to: calls, failed calls among them, payload bytes, seconds of wall time."""

    calls: int
    failures: int
    nbytes: int
    seconds: float

    def plus(self, other: Total) -> Total:
        """Both together."""
        return Total(
            self.calls + other.calls,
            self.failures + other.failures,
            self.nbytes + other.nbytes,
            self.seconds + other.seconds,
        )


_NOTHING = Total(0, 0, 0, 0.0)


_Sums = dict[tuple[str, Link], list[Any]]


class Meter:
    """Totals per (operation, link). Thread-safe; a forked child starts from its parent's figures."""

    __slots__ = ("__weakref__", "_lock", "_sums")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: collecting garbage inside `add` may end another meter
        self._sums: _Sums = {}
        on_fork(self)
        _parts.add(self)
        weakref.finalize(self, _outlive, self._sums).atexit = False

    def add(self, operation: str, link: Link, nbytes: int, seconds: float, *, failed: bool = False) -> None:
        """Count one call."""
        key = operation, link
        with self._lock:
            sums = self._sums.get(key)
            if sums is None:
                sums = self._sums[key] = [0, 0, 0, 0.0]
            sums[0] += 1
            sums[1] += failed
            sums[2] += nbytes
            sums[3] += seconds

    def totals(self) -> dict[tuple[str, Link], Total]:
        """A copy of all totals."""
        with self._lock:
            return {key: Total(*sums) for key, sums in list(self._sums.items())}

    def absorb(self, operation: str, link: Link, total: Total) -> None:
        """Count what another meter has counted."""
        with self._lock:
            sums = self._sums.setdefault((operation, link), [0, 0, 0, 0.0])
            self._sums[operation, link] = [mine + others for mine, others in zip(sums, total, strict=True)]

    def by_operation(self) -> dict[str, Total]:
        """Totals per operation over all links."""
        sums: dict[str, Total] = {}
        for (operation, _), total in self.totals().items():
            sums[operation] = sums.get(operation, _NOTHING).plus(total)
        return sums

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self._lock = threading.RLock()


class Span:
    """One step, as listeners see it when it has ended.

    Attributes:
        operation: `put`, `get`, `exists`, `evict`, ...
        link: from, to, connector.
        key: The object's key as text, or `""`.
        nbytes: Payload bytes moved; set it before the span ends.
        seconds: Wall time, set at the end.
        error: What was raised inside, or None.
    """

    __slots__ = ("_meter", "_started", "error", "key", "link", "nbytes", "operation", "seconds")

    def __init__(
        self, operation: str, link: Link, key: object = "", nbytes: int = 0, meter: Meter | None = None
    ) -> None:
        self.operation = operation
        self.link = link
        self.key = key
        self.nbytes = nbytes
        self.seconds = 0.0
        self.error: BaseException | None = None
        self._meter = meter

    def __enter__(self) -> Span:
        self._started = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.seconds = perf_counter() - self._started
        self.error = error
        failed = error is not None
        (self._meter or totals).add(self.operation, self.link, self.nbytes, self.seconds, failed=failed)
        for (listener,) in _listeners:
            try:
                listener(self)
            except Exception as bug:  # noqa: BLE001  # metrics must not be able to break what they measure
                _complain(listener, bug)


span = Span


class _Whole(Meter):
    """What was counted by any meter of this process, living or gone, and by spans without one."""

    __slots__ = ()

    def totals(self) -> dict[tuple[str, Link], Total]:
        whole = super().totals()
        for part in list(_parts):
            for key, total in part.totals().items() if part is not self else ():
                whole[key] = whole.get(key, _NOTHING).plus(total)
        return whole


def _outlive(sums: _Sums) -> None:
    """Keep the figures of a meter that is gone."""
    for (operation, link), (calls, failures, nbytes, seconds) in sums.items():
        totals.absorb(operation, link, Total(calls, failures, nbytes, seconds))


_parts: Members[Meter] = Members()
totals = _Whole()
"""Totals of this process over all stores: summed up when they are asked for, so that a step is counted once."""

_Registration = tuple[Callable[[Span], None]]
_listeners: tuple[_Registration, ...] = ()
_hostname: str | None = None


def listen(listener: Callable[[Span], None]) -> Callable[[], None]:
    """Call `listener(span)` at the end of each span, in the thread that moved the object; returns what stops it.

    A listener that raises is warned about and changes nothing for the operation.
    """
    global _listeners
    mine = (listener,)
    _listeners = (*_listeners, mine)

    def stop() -> None:
        global _listeners
        _listeners = tuple(other for other in _listeners if other is not mine)

    return stop


def _complain(listener: Callable[[Span], None], bug: Exception) -> None:
    import warnings  # only here: a warning is rare, and its module is not free

    warnings.warn(f"A listener of proxyfab's spans failed, {listener!r}: {bug!r}", RuntimeWarning, stacklevel=3)


def here() -> str:
    """This host's name, as links carry it."""
    global _hostname
    if _hostname is None:
        _hostname = os.uname().nodename
    return _hostname
