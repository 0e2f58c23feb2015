"""Work beside the caller's: a few daemon threads that fetch ahead and give blocking calls a deadline.

Promises: no thread keeps the interpreter alive; after a fork a child starts with none and makes its own, and what it
inherited unfinished begins again when somebody asks for it; a task that is never waited for costs nothing more. A
thread that idles for ten seconds ends. Work sees the context variables of whoever started it, so that what observers
record of it belongs to him. An interrupt of whoever waits, at whichever instruction, holds up nobody else.
"""

from __future__ import annotations

import os
import threading
from _contextvars import copy_context
from _queue import Empty, SimpleQueue  # not from `queue`, whose heaps and conditions take a millisecond to load
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from proxyfab.errors import ResolveTimeout
from proxyfab.fork import on_fork

R = TypeVar("R")
THREADS = 8
_IDLE = 10.0


class Task(Generic[R]):
    """One call that runs in the background. `result` may be asked for any number of times, from any thread."""

    __slots__ = ("_call", "_gate", "_outcome", "_process", "what")

    def __init__(self, call: Callable[[], R], what: str) -> None:
        self.what = what
        context = copy_context()
        # A copy of the copy: in a forked child the first may be marked as in use by a thread that is not there.
        self._call: Callable[[], R] | None = lambda: context.copy().run(call)
        self._gate = closed_gate()
        self._process = os.getpid()
        self._outcome: tuple[Any, BaseException | None] | None = None

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._outcome is not None

    def run(self) -> None:
        """Do the work, once, in this thread."""
        call, gate = self._call, self._gate  # a child that is forked in the call waits at a gate of its own
        outcome: tuple[Any, BaseException | None] = None, None
        try:
            outcome = call() if call is not None else None, None
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            outcome = None, error
        finally:
            self._outcome = outcome
            gate.release()
            self._call = None  # not before: a child that is forked meanwhile calls it again

    def result(self, timeout: float | None = None) -> R:
        """What the call returned or raised.

        Raises:
            ResolveTimeout: It has not finished within `timeout` seconds; it goes on in the background.
        """
        if self._outcome is None:
            self._adopt()
            self._wait(timeout)
        if self._outcome is None:
            raise ResolveTimeout(
                f"{self.what} has not finished within {round(timeout or 0, 3)} s; wait longer or look at the other "
                f"side."
            )
        value, error = self._outcome
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]  # it is what the call returned

    def _wait(self, timeout: float | None) -> None:
        """Through the gate and leave it open for the next one: taken and recorded by one call (`osio.leases`)."""
        gate, mine = self._gate, list[bool]()
        seconds = -1.0 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        try:
            mine.extend(map(gate.acquire, (True,), (seconds,)))
        finally:
            if mine and mine[0]:
                gate.release()

    def _adopt(self) -> None:
        """In a forked child: begin again, since the thread that is at it stayed in the parent."""
        here = os.getpid()
        if self._process == here:
            return
        with _pool.lock:
            if self._process == here:
                return
            self._gate = closed_gate()  # nobody here opens the parent's
            self._process = here
        _pool.submit(self)


def closed_gate() -> threading.Lock:
    """A lock that is taken; no `threading.Event`, which an interrupted waiter may leave locked for who sets it."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class _Pool:
    """Threads by need, at most THREADS; rebuilt in a forked child, whose parent's threads do not exist."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Task[Any]] = SimpleQueue()
        self.lock = threading.RLock()  # reentrant: collecting garbage inside may submit another task
        self.workers: list[threading.Thread] = []
        """Some may never have begun: who started them was interrupted."""
        self.idle = 0
        """Threads that wait for a task, or have taken one and not said so yet."""
        self.waiting = 0
        """Tasks that wait for a thread, or were taken by one that has not said so yet; more, never fewer, after an
        interrupt."""

    after_fork = __init__

    @property
    def threads(self) -> int:
        """How many work or wait for work."""
        return sum([worker.is_alive() for worker in list(self.workers)])

    def submit(self, task: Task[Any]) -> None:
        with self.lock:
            self.waiting += 1
            self.tasks.put(task)
            if self.idle >= self.waiting or self.threads >= THREADS:
                return
            worker = threading.Thread(target=self._work, name="proxyfab-background", daemon=True)
            if len(self.workers) >= 2 * THREADS:
                self.workers = [each for each in self.workers if each.is_alive()]
            self.workers.append(worker)
        try:
            worker.start()
        except RuntimeError:  # no thread can be had: the limit is reached, or the interpreter is ending
            if not self.threads:
                self._drain()

    def _drain(self) -> None:
        """Do in this thread what waits for one."""
        while True:
            try:
                task = self.tasks.get_nowait()
            except Empty:
                return
            with self.lock:
                self.waiting -= 1
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
                self.waiting -= task is not None
                if task is None and self.tasks.empty():
                    me = threading.get_ident()
                    self.workers = [each for each in self.workers if each.ident != me]
                    return
            if task is not None:
                task.run()
                task = None  # waiting for the next one must not keep what this one brought


_pool = _Pool()
on_fork(_pool)


def start(call: Callable[[], R], what: str) -> Task[R]:
    """Run `call()` in the background; `what` names it in a timeout's message."""
    task = Task(call, what)
    submit(task)
    return task


def submit(task: Task[Any]) -> None:
    """Run a task that was made before, as somebody had to know it before it can end."""
    _pool.submit(task)


def aside(call: Callable[[], R], what: str) -> Task[R]:
    """Run `call()` in a thread of its own, so that no number of hanging calls can hold up another."""
    task = Task(call, what)
    try:
        threading.Thread(target=task.run, name="proxyfab-deadline", daemon=True).start()
    except RuntimeError:  # no thread can be had: late is better than never
        task.run()
    return task


class Beginnings:
    """What takes long to make, made beside whoever waits for it: who leaves at his deadline leaves it to the next one.

    Args:
        make: Makes one, and puts it where all look for it.
        what: Is made, for messages.
    """

    def __init__(self, make: Callable[[], object], what: str) -> None:
        self._make = make
        self._what = what
        self._left: deque[Task[object]] = deque()

    def wait(self, seconds: float) -> bool:
        """Whether one was made within so many seconds, begun now or by somebody who has left.

        Raises:
            Exception: What `make` raised.
        """
        task = self._begun()
        try:
            task.result(seconds)
        except ResolveTimeout:
            return False
        finally:
            if not task.over:
                self._left.append(task)
        return True

    def _begun(self) -> Task[object]:
        while True:
            try:
                task = self._left.popleft()
            except IndexError:
                return aside(self._make, self._what)
            if not task.over:
                return task
