"""Slots for calls: so many at once, given to those who wait in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque

from proxyfab.waiting import Flag


class Slots:
    """Thread-safe, and fair: a semaphore of the standard library lets who releases take again before who waits."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Flag] = deque()
        self._lock = threading.Lock()

    def take(self, timeout: float) -> bool:
        """Whether there was one within `timeout` seconds."""
        with self._lock:
            if self._free > 0 and not self._waiting:
                self._free -= 1
                return True
            mine = Flag()
            self._waiting.append(mine)
        if mine.wait(timeout):
            return True
        with self._lock:
            if mine.is_set():  # at the last moment
                return True
            self._waiting.remove(mine)
            return False

    def give(self) -> None:
        """One is free again."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for one."""
        return bool(self._waiting)
