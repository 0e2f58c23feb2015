"""What is owed when an object, or the process, ends: evictions and releases, done in batches by a thread of their own.

    drain = Drain(store.evict_many, "evicting")     # one for each place and kind of work
    hold = drain.hold(owner, key)                   # `owner` is collected, or this process ends: evict_many([key, ...])
    hold.cancel()                                   # it was done by hand; False when it is not this process's to do

Rules:
1. A finalizer does no I/O, takes no lock and runs no byte of Python: the weak reference's callback is the C function
   `SimpleQueue.put`, which may interrupt itself. So neither a lock's holder nor an interrupt can get in its way.
2. The thread is started by `hold`, never by a finalizer, and is there as long as anything is held: an interpreter that
   ends starts no threads any more. It is a daemon, and ends when nothing is held and it has idled for ten seconds.
3. Who forks owes; the child owes nothing of it, and what its copies' finalizers say goes nowhere.
4. At exit everything that is still held is let go, and all who talk to servers then share two seconds (`left`). What
   is not done by then is left to its native expiry. Nothing is printed, nothing raises.
5. A place that cannot be reached is asked again, less and less often, while the process lives; what it answers counts.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from _queue import Empty, SimpleQueue  # not from `queue`, whose heaps and conditions take a millisecond to load
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from proxyfab.errors import ConnectorError, ResolveTimeout
from proxyfab.fork import on_fork

T = TypeVar("T")

AT_EXIT = 2.0
"""Seconds that all who still have something to say to servers share at the end of the process."""
BATCH = 1000
"""Items that are settled in one call."""
MOST = 100_000
"""Items that are kept for a place that cannot be reached; the oldest go first."""
_LEAST = 0.1
_IDLE = 10.0
_FIRST, _LONGEST = 0.1, 30.0


class Hold(weakref.ref[Any], Generic[T]):
    """That one item is owed when one object ends. Equal to itself only; its drain keeps it."""

    __slots__ = ("drain", "item")

    drain: Drain[T]
    item: T

    def __new__(cls, owner: object, drain: Drain[T], item: T, ended: Callable[[Any], object]) -> Hold[T]:
        """`ended(self)` is called by the collector: a C function (rule 1)."""
        self = super().__new__(cls, owner, ended)
        self.drain = drain
        self.item = item
        return self

    def __init__(self, *_: object) -> None:
        """Nothing is left to do; the base's would not take the arguments."""

    __hash__ = object.__hash__  # the base's are the owner's: that may be a proxy, which would be resolved

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def held(self) -> bool:
        """Whether it is still owed, by this process."""
        return id(self) in self.drain.held

    def cancel(self) -> bool:
        """Owe it no longer; of several callers, and the drain, one is told True and has it to do, or to leave."""
        return self.drain.take(self)

    def drop(self) -> None:
        """Owe it now, although the object lives. Neither waits nor raises; may be called from a finalizer."""
        self.drain.drop(self)


class _Mark:
    """Stands in the queue behind what was dropped before it, and says when all that was tried."""

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()


class Drain(Generic[T]):
    """Settles in the background what ended objects left to do at one place. Thread-safe, fork-safe.

    Args:
        settle: Does it for a batch of items, in the drain's thread. What it raises is swallowed; after a ConnectorError
            or ResolveTimeout it is called again later with the same items: doing it twice must do no harm.
        what: Names the work, in the thread's name.
    """

    def __init__(self, settle: Callable[[list[T]], object], what: str) -> None:
        self.what = what
        self._settle = settle
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child owes nothing."""
        self.held: dict[int, Hold[T]] = {}
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may hold something else
        self._thread: threading.Thread | None = None
        self._again: list[T] = []
        self._pause = 0.0
        _running.pop(id(self), None)

    def hold(self, owner: object, item: T) -> Hold[T]:
        """Owe `item` when `owner` is collected or this process ends; `item` must not refer to `owner`."""
        hold: Hold[T] = Hold(owner, self, item, self._queue.put)
        self.held[id(hold)] = hold
        self._work_on()
        return hold

    def take(self, hold: Hold[T]) -> bool:
        """Owe a hold no longer; False when it is not owed by this process, or not any more."""
        mine = self.held.pop(id(hold), None) is not None
        if mine and not self.held:
            self._queue.put(None)  # or the thread would not notice that it may end
        return mine

    def drop(self, hold: Hold[T]) -> None:
        """Owe a hold now."""
        self._queue.put(hold)

    def add(self, items: list[T]) -> None:
        """Owe items that no object stands for, now. Not for finalizers: it may start the thread."""
        self._queue.put(items)
        self._work_on()

    def flush(self, timeout: float) -> bool:
        """Whether everything that was owed before is done, which is waited for `timeout` seconds at most."""
        if self._thread is None:
            return not self._again and self._queue.empty()
        mark = _Mark()
        self._queue.put(mark)
        return mark.gate.acquire(timeout=max(timeout, 0.0)) and not self._again

    def end(self) -> None:
        """Owe now everything that is held."""
        for hold in list(self.held.values()):
            self._queue.put(hold)

    def _work_on(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._work, name=f"proxyfab-background-{self.what}", daemon=True)
            self._thread = thread
            _running[id(self)] = self
            _hook()
            try:
                thread.start()
            except RuntimeError:  # no thread can be had: the limit is reached, or the interpreter is ending
                self._thread = None
                _running.pop(id(self), None)

    def _work(self) -> None:
        while True:
            marks: list[_Mark] = []
            batch = self._collect(marks)
            if batch:
                self._try(batch)
            for mark in marks:
                mark.gate.release()
            if not batch and not marks and self._may_end():
                return
            del batch, marks  # waiting for more must not keep what is settled

    def _collect(self, marks: list[_Mark]) -> list[T]:
        """What is owed now, once there is something, or nothing after a while; a mark ends the batch."""
        batch, self._again = self._again, []
        due, wait = time.monotonic() + self._pause, self._pause
        try:
            if not batch:
                self._sort(self._queue.get(timeout=None if self.held else _IDLE), batch, marks)
            while not marks and (wait > 0 or len(batch) < BATCH):
                self._sort(self._queue.get(wait > 0, max(wait, 0.0)), batch, marks)
                wait = due - time.monotonic()
        except Empty:
            pass
        return batch[-MOST:]

    def _sort(self, found: object, batch: list[T], marks: list[_Mark]) -> None:
        if isinstance(found, Hold):
            if self.held.pop(id(found), None) is not None:
                batch.append(found.item)
        elif isinstance(found, _Mark):
            marks.append(found)
        elif isinstance(found, list):
            batch.extend(found)

    def _try(self, batch: list[T]) -> None:
        while batch:
            try:
                self._settle(batch[:BATCH])
            except (ConnectorError, ResolveTimeout):
                self._again = batch
                self._pause = min(max(2 * self._pause, _FIRST), _LONGEST)
                return
            except BaseException:  # noqa: BLE001 - there is nobody to tell, and the next batch is not to blame
                pass
            self._pause = 0.0
            batch = batch[BATCH:]

    def _may_end(self) -> bool:
        with self._lock:
            if self.held or self._again or not self._queue.empty():
                return False
            self._thread = None
            _running.pop(id(self), None)
            return True


_running: dict[int, Drain[Any]] = {}
_hooked = 0
_began: float | None = None


def left() -> float:
    """Seconds that may still be spent on servers in an ending process; the clock runs from the first time of asking.

    A tenth of a second at least: who comes last behind a dead server may still tell a living one.
    """
    global _began
    now = time.monotonic()
    if _began is None:
        _began = now
    return max(AT_EXIT - (now - _began), _LEAST)


def _leave() -> None:
    """At exit: let everything go, and wait as long as may be."""
    left()
    try:
        drains = list(_running.values())
        for drain in drains:
            drain.end()
        for drain in drains:
            drain.flush(left())
    except BaseException:  # noqa: BLE001 - an interrupt: whoever ends us is in a hurry
        pass


def _hook() -> None:
    """Stand before all that connectors do at exit: they registered before anything of theirs was held."""
    global _hooked
    if _began is not None:  # too late
        return
    atexit.unregister(_leave)
    atexit.register(_leave)
    process = sys.modules.get("multiprocessing.process")
    if _hooked != os.getpid() and process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize  # its children may end by `os._exit`, which skips atexit

        Finalize(None, _leave, exitpriority=10)
        _hooked = os.getpid()


def _in_child() -> None:
    global _began
    _began = None


os.register_at_fork(after_in_child=_in_child)
