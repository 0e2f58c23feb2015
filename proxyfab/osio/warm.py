"""Private memory that was used before: a first touch of fresh pages costs as much as the cipher that fills them.

Promises: a block is handed out again only when no view of it is left anywhere, which the interpreter's count of
references tells; its old content is still in it, so who takes it fills all of it before handing it on. At most 256 MiB
are kept, of blocks that were used in the last ten seconds as far as anybody asks; `forget` keeps nothing.
"""

from __future__ import annotations

import mmap
import sys
import threading
import time
from collections.abc import Callable

from proxyfab.fork import on_fork
from proxyfab.osio.mapping import STEP
from proxyfab.osio.memory import HUGE, PrivateMap, map_private, unfilled

KEPT = 256 << 20
_IDLE = 10.0


class Warm:
    """Blocks of private memory. Thread-safe, fork-safe.

    Args:
        most: How many bytes to keep, in use or not.
    """

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._blocks: list[PrivateMap] = []
        self._taken: dict[int, float] = {}
        self._lock = threading.RLock()
        self._changing = False
        self._free = self._counts([PrivateMap(-1, mmap.PAGESIZE)])[0]
        on_fork(self)

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self._lock = threading.RLock()
        self._changing = False

    def take(self, nbytes: int) -> memoryview:
        """Writable bytes that are nobody else's, with any content."""
        if nbytes < HUGE:
            return unfilled(nbytes)
        now = time.monotonic()
        view = self._alone(lambda: self._used_before(nbytes, now))
        if view is None:
            block = map_private(-(-nbytes // STEP) * STEP)
            view = memoryview(block)[:nbytes]
            self._alone(lambda: self._keep(block, now))
        return view

    def forget(self) -> None:
        """Keep nothing; what is in use goes when its last view does."""
        self._alone(self._forget)

    def _alone(self, work: Callable[[], memoryview | None]) -> memoryview | None:
        """Do this under the lock; nothing for what garbage collection ends while this very thread is at work here."""
        with self._lock:
            if self._changing:
                return None
            self._changing = True
            try:
                return work()
            finally:
                self._changing = False

    def _forget(self) -> None:
        self._blocks, self._taken = [], {}

    def _keep(self, block: PrivateMap, now: float) -> None:
        self._taken[id(block)] = now  # first: an interrupt may come in between
        self._blocks.append(block)
        self._shrink(now)

    def _used_before(self, nbytes: int, now: float) -> memoryview | None:
        self._shrink(now)
        for place, count in enumerate(self._counts(self._blocks)):
            if count == self._free and nbytes <= len(self._blocks[place]) <= 2 * nbytes + STEP:
                block = self._blocks.pop(place)
                self._blocks.append(block)  # the last one is the one used last
                self._taken[id(block)] = now
                return memoryview(block)[:nbytes]
        return None

    def _shrink(self, now: float) -> None:
        """Let go of what idles, and of the oldest beyond the limit; blocks in use are only no longer ours."""
        counts = self._counts(self._blocks)
        kept, total = [], 0
        for block, count in zip(reversed(self._blocks), reversed(counts), strict=True):
            total += len(block)
            idle = count == self._free and now - self._taken[id(block)] > _IDLE
            if not idle and total <= self._most:
                kept.append(block)
        kept.reverse()
        taken = {id(block): self._taken[id(block)] for block in kept}
        self._blocks, self._taken = kept, taken  # no call in between: an interrupt leaves both as they were, or new

    @staticmethod
    def _counts(blocks: list[PrivateMap]) -> list[int]:
        """References to each: compared only with what this very code counts for a block that nobody uses."""
        return [sys.getrefcount(blocks[place]) for place in range(len(blocks))]


received = Warm(64 << 20)
"""What arrives from servers, up to so much: about what the C library keeps of smaller blocks."""
