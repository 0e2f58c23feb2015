"""Callbacks of users: one after another in a daemon thread that is there only while there are any.

Promises: a callback that takes long holds up other callbacks and nothing else; one that raises ends nothing; a forked
child does not run its parent's.
"""

from __future__ import annotations

import threading
from _queue import Empty, SimpleQueue  # not from `queue`, as in `background`
from collections.abc import Callable

from proxyfab.fork import on_fork


class _Caller:
    def __init__(self) -> None:
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.RLock()
        self._busy = False

    def add(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        with self._lock:  # under which the thread decides to end
            if self._busy:
                return
            self._busy = True
        try:
            threading.Thread(target=self._work, name="proxyfab-callbacks", daemon=True).start()
        except RuntimeError:  # no thread can be had: the limit is reached, or the interpreter is ending
            self._work()

    def _work(self) -> None:
        while True:
            with self._lock:
                try:
                    call = self._calls.get_nowait()
                except Empty:
                    self._busy = False
                    return
            call()


_caller = _Caller()


def call_soon(call: Callable[[], None]) -> None:
    """Run `call()`, which raises nothing, behind those that were given before."""
    _caller.add(call)
