"""Room: the memory that objects from all other sites may take together, while they come and until they lie elsewhere.

Rules:
1. What is counted is memory that lives: from the moment at which it is made until nobody holds a view of it.
2. Of what the others leave, one site gets three quarters at most: who announces more than he sends keeps nobody out.

Thread-safe.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque

from proxyfab.osio.memory import HUGE, allocate

ALL = 1 << 40
_SHARE = 0.75


class _Block(bytearray):
    """Bytes whose end can be told of."""


class Room:
    """Memory for what comes.

    Args:
        most: Bytes of all sites together.
    """

    def __init__(self, most: int = ALL) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._back: deque[tuple[str, int]] = deque()
        """What has ended and is not counted off yet: memory ends in any thread, also in one that has the lock."""

    @property
    def taken(self) -> int:
        """Bytes that live."""
        with self._lock:
            self._count_off()
            return self._taken.total()

    def left(self, peer: str) -> int:
        """Bytes that a site may take now."""
        with self._lock:
            return self._left(peer)

    def _left(self, peer: str) -> int:
        self._count_off()
        mine = self._taken[peer]
        return int((self.most - self._taken.total() + mine) * _SHARE) - mine

    def _count_off(self) -> None:
        while self._back:
            peer, nbytes = self._back.popleft()
            self._taken[peer] -= nbytes

    def allocate(self, peer: str, nbytes: int) -> memoryview | None:
        """Writable bytes for an object of a site; None where there is no room, or no memory."""
        with self._lock:
            if nbytes > self._left(peer):
                return None
            self._taken[peer] += nbytes
        block: memoryview | None = None
        try:
            block = memoryview(_Block(nbytes)) if nbytes < HUGE else allocate(nbytes)
            weakref.finalize(block.obj, self._back.append, (peer, nbytes)).atexit = False
        except (MemoryError, OSError):
            if block is None:
                self._back.append((peer, nbytes))
        return block
