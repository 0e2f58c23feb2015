"""Several threads at one piece of work whose heavy part runs without the interpreter's lock.

Promises: the caller works too and waits for no thread that has not begun, so that busy background threads delay nobody;
the first error reaches the caller once all have stopped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import count

from proxyfab import background

WORTH = 8 << 20
"""Bytes below which handing work over costs more than it saves."""
_HELPERS = 1


def each(call: Callable[[int], None], times: int, nbytes: int) -> None:
    """`call(0)`, ..., `call(times - 1)`, each once and in any order.

    Args:
        call: Safe to call from several threads at once.
        times: How many calls.
        nbytes: Roughly how many bytes one call handles.
    """
    if times * nbytes < WORTH or times < 2 or len(os.sched_getaffinity(0)) < 2:
        for number in range(times):
            call(number)
        return
    _Crew(call, times).run()


class _Crew:
    def __init__(self, call: Callable[[int], None], times: int) -> None:
        self._call = call
        self._times = times
        self._next = count()  # next() is one step under the interpreter's lock
        self._lock = threading.Lock()
        self._working: set[int] = set()
        self._over = False
        self._gate: threading.Lock | None = None
        self._errors: list[BaseException] = []

    def run(self) -> None:
        for _ in range(_HELPERS):
            background.start(self._help, "Sealing")
        try:
            self._work()
        finally:
            gate = None
            with self._lock:
                self._over = True
                if self._working:
                    gate = self._gate = background.closed_gate()
            if gate is not None:
                gate.acquire()
        if self._errors:
            raise self._errors[0]

    def _help(self) -> None:
        with self._lock:
            if self._over:
                return
            self._working.add(threading.get_ident())
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._errors.append(error)
        finally:
            with self._lock:
                self._working.discard(threading.get_ident())
                if self._gate is not None and not self._working:
                    self._gate.release()

    def _work(self) -> None:
        try:
            while not self._errors and (number := next(self._next)) < self._times:
                self._call(number)
        except BaseException:
            self._next = count(self._times)  # nobody begins another one
            raise
