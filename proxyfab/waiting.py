"""Waiting: a condition and a flag like `threading`'s that bear an interrupt (Ctrl-C) at any instruction.

`threading.Condition` is entered and left by functions in Python, and so are events and semaphores, which rest on it: an
interrupt behind their lock's own call leaves it taken for good, and whoever sets an event in another thread hangs with
its waiter's. Here a lock is taken and given back by C functions only, and what must happen together is one call of one
(`osio.leases` says where an interrupt can come).
Leaves to others: fairness, and forks (`fork.on_fork`): a forked child makes new ones.
"""

from __future__ import annotations

import threading
import time
from _queue import Empty, SimpleQueue  # as in `background`
from _thread import RLock
from collections import deque
from collections.abc import Callable
from itertools import repeat, starmap
from typing import Any

Gate = SimpleQueue[None]
_NO_ARGUMENTS = ((),)


def _pass(gate: Gate, timeout: float | None) -> bool:
    """Wait at a gate; whether it was opened."""
    try:
        gate.get(timeout is None or timeout > 0, None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
    except Empty:
        return False
    return True


def _open(gates: list[Gate]) -> None:
    """In one call: all of them, or none. Who waits takes his own away."""
    deque(map(SimpleQueue.put, list(gates), repeat(None)), 0)


class Condition(RLock):  # type: ignore[misc]  # final in its stub, not in Python
    """A reentrant lock on which one can wait until something has changed."""

    _is_owned: Callable[[], bool]
    _release_save: Callable[[], Any]
    _acquire_restore: Callable[[Any], None]

    def __init__(self) -> None:
        self._gates: list[Gate] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait until somebody notifies, take it again; False when it was too long."""
        if not self._is_owned():
            raise RuntimeError("Only who holds a condition's lock can wait for it.")
        gate: Gate = SimpleQueue()
        held: list[Any] = []
        try:
            self._gates.append(gate)
            held.extend(starmap(self._release_save, _NO_ARGUMENTS))  # given back, and recorded
            return _pass(gate, timeout)
        finally:
            if held:
                self._acquire_restore(held[0])
            if gate in self._gates:
                self._gates.remove(gate)

    def wait_for(self, known: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `known()`, which is asked under the lock; its last word."""
        ends = None if timeout is None else time.monotonic() + timeout
        while not known():
            left = None if ends is None else ends - time.monotonic()
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def notify_all(self) -> None:
        """Have all who wait look again."""
        if not self._is_owned():
            raise RuntimeError("Only who holds a condition's lock can notify who waits.")
        _open(self._gates)


class Flag:
    """What `threading.Event` is."""

    __slots__ = ("_gates", "_set")

    def __init__(self) -> None:
        self._set = False
        self._gates: list[Gate] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Have all pass who wait, and who comes later."""
        self._set = True
        _open(self._gates)

    def clear(self) -> None:
        """Have those wait who come later."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False when it was too long."""
        if self._set:
            return True
        gate: Gate = SimpleQueue()
        try:
            self._gates.append(gate)
            return self.is_set() or _pass(gate, timeout)
        finally:
            if gate in self._gates:
                self._gates.remove(gate)
