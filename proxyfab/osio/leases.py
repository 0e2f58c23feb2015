"""Leases: proof that somebody still looks at a numbered thing, given back by the kernel when its process ends.

A lease is a shared lock on one byte of a lock file, the byte's offset being the number. Whoever wants the thing for
himself asks for the exclusive lock on that byte: he gets it only when nobody holds a lease.

Rules:
1. Locks are those of an open file description (`F_OFD_SETLK`): they belong to no thread, they conflict between two
   descriptions of one process as between processes, they end with the last descriptor, also after SIGKILL. One
   descriptor per lock file carries any number of leases, so leases do not eat into the limit on open files.
2. After a fork parent and child share descriptions, and an unlock by one would unlock for both. So both retire theirs:
   on a retired description nothing is unlocked byte by byte; it is closed when its last lease of this process is gone.
   What the child inherited stays leased for as long as either of them holds it.
3. A lease is taken on the file that has the name now: should somebody remove a lock file, those who open it anew and
   those who had it open would not see each other's locks. Who wants the exclusive lock asks the same (`osio.segments`).
4. A lease ends in `__del__`, which may run anywhere, even inside our own critical section (garbage collection). There
   it only appends to a queue, and takes the lock only if that is free; who holds the lock settles the queue after it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable

_TAKEN = (errno.EAGAIN, errno.EACCES)
_RANGE = struct.Struct("hhqqi")
_SETLK: int = fcntl.F_OFD_SETLK


def lock(fd: int, number: int, *, exclusive: bool) -> bool:
    """Take, or change atomically to, a lock on one byte. False when others hold what conflicts; never waits.

    Raises:
        OSError: The file system knows no such locks.
    """
    try:
        fcntl.fcntl(fd, _SETLK, _RANGE.pack(fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, os.SEEK_SET, number, 1, 0))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def unlock(fd: int, number: int) -> None:
    """Give back the lock on one byte."""
    fcntl.fcntl(fd, _SETLK, _RANGE.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0))


class _LockFile:
    """One open lock file, with how often each number is leased through it."""

    __slots__ = ("_id", "counts", "fd", "forgotten", "path", "retired")

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.counts: dict[int, int] = {}
        self.forgotten = False
        self.retired = False
        status = os.fstat(self.fd)
        self._id = status.st_dev, status.st_ino

    def is_named(self) -> bool:
        """Whether its path still leads to it."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._id


class Lease:
    """One lease; ends when it is collected."""

    __slots__ = ("_file", "_number", "_registry")

    def __init__(self, registry: Leases, file: _LockFile, number: int) -> None:
        self._registry, self._file, self._number = registry, file, number

    def __del__(self, _exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _exiting():  # then this module's names may be gone already, and the kernel ends the lease anyway
            self._registry.give_back(self._file, self._number)


class Leases:
    """The leases of this process. Thread-safe, fork-safe; only system calls of a microsecond run under its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, _LockFile] = {}
        self._ended: deque[tuple[_LockFile, int]] = deque()

    def take(self, path: str, number: int) -> Lease | None:
        """A lease on `number` of the lock file `path`; None when somebody has it exclusively.

        Raises:
            OSError: There is no such file (any more), or no such locks on its file system.
        """
        try:
            with self._lock:
                file = self._files.get(path)
                if file is None or not file.is_named():
                    self._part(path)
                    file = self._files[path] = _LockFile(path)
                count = file.counts.get(number, 0)
                if not count and not lock(file.fd, number, exclusive=False):
                    return None
                file.counts[number] = count + 1
                return Lease(self, file, number)
        finally:
            self._settle()

    def give_back(self, file: _LockFile, number: int) -> None:
        """End a lease: at once, or by whoever is busy here at the moment."""
        self._ended.append((file, number))
        self._settle()

    def forget(self, path: str) -> None:
        """Close a lock file that is not needed any more, as soon as nothing is leased through it."""
        with self._lock:
            self._part(path)
        self._settle()

    def held(self) -> int:
        """How many numbers are leased by this process."""
        with self._lock:
            return sum(len(file.counts) for file in list(self._files.values()))

    def before_fork(self) -> None:
        """Part with every open description, as a fork is about to share it (rule 2); nobody gets in until after it."""
        self._lock.acquire()
        for file in self._files.values():
            file.retired = file.forgotten = True
            self._close_unused(file)
        self._files.clear()

    def after_fork(self) -> None:
        """Go on, in the parent or in the child."""
        self._lock.release()
        self._settle()

    def _part(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            file.forgotten = True
            self._close_unused(file)

    def _settle(self) -> None:
        while self._ended and self._lock.acquire(blocking=False):
            try:
                while self._ended:
                    self._end(*self._ended.popleft())
            finally:
                self._lock.release()

    def _end(self, file: _LockFile, number: int) -> None:
        count = file.counts[number] - 1
        if count:
            file.counts[number] = count
            return
        del file.counts[number]
        if not file.retired:
            unlock(file.fd, number)
        self._close_unused(file)

    def _close_unused(self, file: _LockFile) -> None:
        if file.forgotten and not file.counts:
            os.close(file.fd)


leases = Leases()
"""This process's."""

os.register_at_fork(before=leases.before_fork, after_in_parent=leases.after_fork, after_in_child=leases.after_fork)
