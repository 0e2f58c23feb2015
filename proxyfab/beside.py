"""Threads for calls that may hang: as many as hang, and always one more that waits for the next call.

Promises: a call that never ends holds up nobody else; who hands one over starts no thread, but for the first ones: to
start one takes long, and does not bear an interrupt; no thread keeps the interpreter alive, and one that has idled for
ten seconds ends. A call sees the context variables of whoever handed it over.
"""

from __future__ import annotations

import threading
from _contextvars import copy_context
from _queue import Empty, SimpleQueue  # as in `background`
from collections.abc import Callable
from functools import partial

from proxyfab.fork import on_fork

_IDLE = 10.0
_MOST = 32
"""Idle threads above which one that has become idle ends."""


class _Threads:
    """All of them; a forked child begins with none."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may hand over a call
        self._idle = 0

    after_fork = __init__

    def run(self, call: Callable[[], object]) -> None:
        self._calls.put(partial(copy_context().run, call))
        if self._idle <= 0:
            self._more()

    def _more(self) -> None:
        try:
            threading.Thread(target=self._work, name="proxyfab-background-beside", daemon=True).start()
        except RuntimeError:  # no thread can be had: late is better than never
            call = self._next(0.0)
            if call is not None:
                call()

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._idle >= _MOST:
                    return
                self._idle += 1
            call = self._next(_IDLE)
            with self._lock:
                self._idle -= 1
                alone = self._idle == 0
            if call is None:
                if self._calls.empty():
                    return
                continue
            if alone:
                self._more()
            call()
            call = None  # waiting for the next one must not keep what this one brought

    def _next(self, timeout: float) -> Callable[[], object] | None:
        try:
            return self._calls.get(timeout > 0, timeout)
        except Empty:
            return None


_threads = _Threads()
on_fork(_threads)


def beside(call: Callable[[], object]) -> None:
    """Run `call()`, which raises nothing, in another thread."""
    _threads.run(call)
