"""What a process has published for peers that have not fetched it yet: bounded in bytes, and leased for a time.

Each object has one reader, who takes its name away when he has its bytes; what nobody fetches goes after a minute, or
when its reader has ended.

Promises: never more than `limit` bytes wait; what waits too long is evicted when `sweep` is called, which is to be done
every few seconds; segments that have not been used for a while are given back to the file system then, too. What a
killed process had published is found and removed by whoever opens shared memory next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.buffers import Frames
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.osio.owner import Writer, running
from proxyfab.osio.shared import Shared
from proxyfab.wire.layout import laid_out

KEEP = 60.0
"""Seconds that an object waits for its reader: a worker may be held up for long, but its connection times out."""
IDLE = 30.0
"""Seconds without a word from when on nothing is kept warm."""


class _Waiting(NamedTuple):
    nbytes: int
    until: float
    reader: Writer | None


class Published:
    """The objects that wait. Thread-safe; a forked child has published nothing.

    Args:
        connector: Of this process's own, unnamed shared memory.
        shared: What the process keeps warm there.
        limit: Bytes that may wait at once.
        keep: Seconds for which they do.
    """

    def __init__(self, connector: SharedMemoryConnector, shared: Shared, limit: int, keep: float = KEEP) -> None:
        self._connector = connector
        self._shared = shared
        self._limit = limit
        self._keep = keep
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """What waits is the parent's."""
        self._lock = threading.Lock()
        self._waiting: dict[Key, _Waiting] = {}
        self._reserved = 0
        self._used = time.monotonic()

    def publish(self, buffers: Sequence[memoryview], reader: Writer | None = None) -> str | None:
        """Copy these to shared memory, one behind the other, as `wire.layout` has them.

        Args:
            buffers: What is published.
            reader: Who will fetch it, if that is known.

        Returns:
            The text of their key; None where too much waits already.

        Raises:
            CapacityError: There is no room.
            ConnectorError: Shared memory refuses.
        """
        parts, nbytes = laid_out(buffers, 0)
        if not self._reserve(nbytes):
            return None
        try:
            key = self._connector.put(Frames.known(tuple(parts), nbytes))
            self._waiting[key] = _Waiting(nbytes, time.monotonic() + self._keep, reader)
        finally:
            with self._lock:
                self._reserved -= nbytes
            self.touch()
        return str(key)

    def _reserve(self, nbytes: int) -> bool:
        with self._lock:
            if self._reserved + self.nbytes + nbytes > self._limit:
                self._drop_fetched()
            if self._reserved + self.nbytes + nbytes > self._limit:
                return False
            self._reserved += nbytes
            return True

    def touch(self) -> None:
        """Shared memory was used: what is warm stays warm for a while."""
        self._used = time.monotonic()

    def waiting(self) -> tuple[int, int]:
        """How many objects wait for their reader, and their bytes."""
        with self._lock:
            self._drop_fetched()
            return len(self._waiting), self.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes that wait, as far as it is known."""
        return sum([each.nbytes for each in list(self._waiting.values())])

    def _drop_fetched(self) -> None:
        keys = list(self._waiting)
        for key, there in zip(keys, self._connector.exists_many(keys), strict=True):
            if not there:
                self._waiting.pop(key, None)

    def sweep(self) -> None:
        """Evict what has waited too long, or for who has ended, and keep nothing warm that was not used for a while."""
        now = time.monotonic()
        with self._lock:
            self._drop_fetched()
            waiting = list(self._waiting.items())  # others publish meanwhile
            ended = {each.reader for _, each in waiting if each.reader and running(each.reader) is False}
            late = [key for key, each in waiting if each.until <= now or each.reader in ended]
            for key in late:
                self._waiting.pop(key, None)
        self._connector.evict_many(late)
        if now - self._used > IDLE:
            self._shared.pool.trim()
            self._shared.mappings.clear()

    def close(self) -> None:
        """Evict all."""
        with self._lock:
            keys, self._waiting = list(self._waiting), {}
        self._connector.evict_many(keys)
        self._shared.pool.trim()
