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
4. A lease may end anywhere, even inside our own critical section (garbage collection), and an interrupt may strike at
   any call. So its end is noted by a weak reference whose callback is a C function, which nothing interrupts: it adds
   to a queue. Then it is settled if the lock is free; who holds the lock settles the queue after it, and what an
   interrupt left there is settled by the next lease. Every step of it may be done twice.
5. What garbage collection ends may be anybody's, and look at objects from inside our critical section: then the lock
   is ours already, nothing may be changed, and the answer is that there is no lease now.

On interrupts: CPython 3.11 to 3.13 raise what comes from outside (a signal handler, PyThreadState_SetAsyncExc) only
behind a call, at the start of a Python function and at a jump backwards. `with` of a lock of `threading`, whose
`__enter__` is a C function, looks for it neither between the taking and the block nor between the block and the giving
back; `acquire()` followed by `try` does, and so does an `__enter__` or `__exit__` in Python. What must not be lost is
therefore recorded inside the same C call that takes it, and a `finally` begins with the C call that gives it back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable

_TAKEN = (errno.EAGAIN, errno.EACCES)
_RANGE = struct.Struct("hhqqi")
SETLK: int = fcntl.F_OFD_SETLK
_AT_ONCE = (False,)


def lock(fd: int, number: int, *, exclusive: bool) -> bool:
    """Take, or change atomically to, a lock on one byte. False when others hold what conflicts; never waits.

    Raises:
        OSError: The file system knows no such locks.
    """
    try:
        fcntl.fcntl(fd, SETLK, _RANGE.pack(fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, os.SEEK_SET, number, 1, 0))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def unlocking(number: int) -> bytes:
    """What `fcntl(fd, SETLK, ...)` takes to give back the lock on one byte; nothing happens where there is none."""
    return _RANGE.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0)


def unlock(fd: int, number: int) -> None:
    """Give back the lock on one byte."""
    fcntl.fcntl(fd, SETLK, unlocking(number))


class Lease:
    """One lease; ends when it is collected. All who want the same number at once hold the same one."""

    __slots__ = ("__weakref__", "last")

    last: _Last
    """Ends behind the weak references to this lease: then its end is in the queue."""


class _Last:
    """Ends with its lease and has the queue settled."""

    __slots__ = ("registry",)

    registry: Leases

    def __del__(self, _exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _exiting():  # then this module's names may be gone already, and the kernel ends the lease anyway
            self.registry.settle()


class _Entry(weakref.ref[Lease]):
    """What is leased. The two names are the class's, too: the lease may end before they are set."""

    file: _LockFile | None = None
    number = 0


class _LockFile:
    """One open lock file, and what is leased through it by number."""

    __slots__ = ("device", "fd", "forgotten", "inode", "leased", "retired")

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.leased: dict[int, _Entry] = {}
        self.forgotten = False
        self.retired = False
        status = os.fstat(self.fd)
        self.device, self.inode = status.st_dev, status.st_ino

    def close_unused(self) -> None:
        """Close it once it is forgotten and nothing is leased through it."""
        if self.forgotten and not self.leased:
            fd, self.fd = self.fd, -1  # first: who comes again must not close another file
            if fd >= 0:
                os.close(fd)


class Leases:
    """The leases of this process. Thread-safe, fork-safe; only system calls of a microsecond run under its lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inside = False
        """Whether the lock's holder is changing something (rule 5)."""
        self._files: dict[str, _LockFile] = {}
        self._ended: deque[_Entry] = deque()
        self._parted: set[_LockFile] = set()
        """Forgotten files with leases: held, or a file and its last leases could be collected in one go, and a weak
        reference that is garbage itself tells nobody."""

    def take(self, path: str, number: int) -> Lease | None:
        """A lease on `number` of the lock file `path`; None when somebody has it exclusively (or by rule 5).

        Raises:
            OSError: There is no such file (any more), or no such locks on its file system.
        """
        try:
            with self._lock:
                if self._inside:
                    return None
                self._inside = True
                try:
                    file = self._files.get(path)
                    status = os.stat(path)
                    if file is None or file.inode != status.st_ino or file.device != status.st_dev:
                        self._part(path)
                        file = self._files[path] = _LockFile(path)
                    entry = file.leased.get(number)
                    lease = None if entry is None else entry()
                    return self._begin(file, number) if lease is None else lease
                finally:
                    self._inside = False
        finally:
            if self._ended:
                self.settle()

    def _begin(self, file: _LockFile, number: int) -> Lease | None:
        """Noted first and locked then: whatever happens in between, the end of `lease` gives it back."""
        lease = Lease()  # no __init__: each function more costs microseconds where its code is not in the caches
        lease.last = _Last()
        lease.last.registry = self
        entry = _Entry(lease, self._ended.append)
        entry.file, entry.number = file, number
        file.leased[number] = entry
        try:
            fcntl.fcntl(file.fd, SETLK, _RANGE.pack(fcntl.F_RDLCK, os.SEEK_SET, number, 1, 0))
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            return None
        return lease

    def forget(self, path: str) -> None:
        """Close a lock file that is not needed any more, as soon as nothing is leased through it."""
        with self._lock:
            self._part(path)
        self.settle()

    def held(self) -> int:
        """How many numbers are leased by this process."""
        with self._lock:
            return sum(len(file.leased) for file in list(self._files.values()))

    def settle(self) -> None:
        """Give back what has ended, unless another thread is busy here: then it does."""
        while self._ended:
            mine: list[bool] = []
            try:
                mine.extend(map(self._lock.acquire, _AT_ONCE))  # taken and recorded by one call: see above
                if not mine[0] or self._inside:
                    return
                self._inside = True
                try:
                    while self._ended:
                        self._end(self._ended[0])
                        self._ended.popleft()
                finally:
                    self._inside = False
            finally:
                if mine and mine[0]:
                    self._lock.release()

    def watch_forks(self) -> None:
        """Hold the lock over every fork, and before it part with every open description (rule 2)."""
        os.register_at_fork(before=self._retire, after_in_parent=self._lock.release, after_in_child=self._lock.release)
        os.register_at_fork(before=self._lock.acquire, after_in_parent=self.settle, after_in_child=self.settle)
        # Before a fork the last comes first, behind it the first; and the lock's own functions cannot be interrupted.

    def _retire(self) -> None:
        for file in list(self._files.values()):
            file.retired = file.forgotten = True
            self._parted.add(file)
            self._close(file)
        self._files.clear()

    def _part(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            file.forgotten = True
            self._parted.add(file)
            self._close(file)

    def _close(self, file: _LockFile) -> None:
        file.close_unused()
        if file.fd < 0:
            self._parted.discard(file)

    def _end(self, entry: _Entry) -> None:
        file = entry.file
        if file is None:
            return
        if file.leased.get(entry.number) is entry:  # else it was leased anew meanwhile
            if not file.retired:
                try:
                    unlock(file.fd, entry.number)
                except OSError:  # no such locks on this file system: it was never locked
                    pass
            del file.leased[entry.number]
        self._close(file)


leases = Leases()
"""This process's."""
leases.watch_forks()
