"""Work beside the caller's: a few daemon threads that fetch ahead and give blocking calls a deadline.

Promises: no thread keeps the interpreter alive; after a fork a child starts with none and makes its own, and what it
inherited unfinished begins again when somebody asks for it; a task that is never waited for costs nothing more. A
thread that idles for ten seconds ends. Work sees the context variables of whoever started it, so that what observers
record of it belongs to him.
"""

from __future__ import annotations

import os
import threading
from _contextvars import copy_context
from _queue import Empty, SimpleQueue  # not from `queue`, whose heaps and conditions take a millisecond to load
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from proxyfab.errors import ResolveTimeout
from proxyfab.fork import on_fork

R = TypeVar("R")
THREADS = 8
_IDLE = 10.0


class Task(Generic[R]):
    """One call that runs in the background. `result` may be asked for any number of times, from any thread."""

    __slots__ = ("_call", "_done", "_error", "_process", "_value", "what")

    def __init__(self, call: Callable[[], R], what: str) -> None:
        self.what = what
        context = copy_context()
        # A copy of the copy: in a forked child the first may be marked as in use by a thread that is not there.
        self._call: Callable[[], R] | None = lambda: context.copy().run(call)
        self._done = threading.Event()
        self._process = os.getpid()
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work, once, in this thread."""
        call = self._call
        try:
            self._value = call() if call is not None else None
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            self._error = error
        finally:
            self._done.set()
            self._call = None  # not before: a child that is forked meanwhile calls it again

    def result(self, timeout: float | None = None) -> R:
        """What the call returned or raised.

        Raises:
            ResolveTimeout: It has not finished within `timeout` seconds; it goes on in the background.
        """
        if not self._done.is_set():
            self._adopt()
            if not self._done.wait(timeout):
                raise ResolveTimeout(
                    f"{self.what} has not finished within {round(timeout or 0, 3)} s; wait longer or look at the other "
                    f"side."
                )
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]  # it is what the call returned

    def _adopt(self) -> None:
        """In a forked child: begin again, since the thread that is at it stayed in the parent."""
        here = os.getpid()
        if self._process == here:
            return
        with _pool.lock:
            if self._process == here:
                return
            self._done = threading.Event()  # the parent's may be locked for ever
            self._process = here
        _pool.submit(self)


class _Pool:
    """Threads by need, at most THREADS; rebuilt in a forked child, whose parent's threads do not exist."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Task[Any]] = SimpleQueue()
        self.lock = threading.RLock()  # reentrant: collecting garbage inside may submit another task
        self.threads = 0
        self.idle = 0

    after_fork = __init__

    def submit(self, task: Task[Any]) -> None:
        with self.lock:
            self.tasks.put(task)
            if self.idle >= self.tasks.qsize() or self.threads >= THREADS:
                return
            self.threads += 1
        try:
            threading.Thread(target=self._work, name="proxyfab-background", daemon=True).start()
        except RuntimeError:  # no thread can be had: the limit is reached, or the interpreter is ending
            with self.lock:
                self.threads -= 1
                alone = not self.threads
            if alone:
                self._drain()

    def _drain(self) -> None:
        """Do in this thread what waits for one."""
        while True:
            try:
                task = self.tasks.get_nowait()
            except Empty:
                return
            task.run()

    def _work(self) -> None:
        while True:
            with self.lock:
                self.idle += 1
            try:
                task = self.tasks.get(timeout=_IDLE)
            except Empty:
                task = None
            with self.lock:
                self.idle -= 1
                if task is None and self.tasks.empty():
                    self.threads -= 1
                    return
            if task is not None:
                task.run()


_pool = _Pool()
on_fork(_pool)


def start(call: Callable[[], R], what: str) -> Task[R]:
    """Run `call()` in the background; `what` names it in a timeout's message."""
    task = Task(call, what)
    _pool.submit(task)
    return task


def aside(call: Callable[[], R], what: str) -> Task[R]:
    """Run `call()` in a thread of its own, so that no number of hanging calls can hold up another."""
    task = Task(call, what)
    try:
        threading.Thread(target=task.run, name="proxyfab-deadline", daemon=True).start()
    except RuntimeError:  # no thread can be had: late is better than never
        task.run()
    return task
