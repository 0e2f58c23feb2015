"""Turns: who changes a named thing has it for himself, among threads and among the processes of this machine.

Rules:
1. A turn is a mark in this process and a lock on one byte of a file, the byte's number being a hash of the name: any
   number of turns costs one descriptor, and different names practically never meet.
2. The locks are those of a process (`F_SETLK`): a forked child inherits none, and the kernel gives them back when the
   process ends, also by SIGKILL. Such locks end when *any* descriptor of the file is closed; so a process has one
   descriptor for each such file, shared by all who use it (`turns_at`). Should somebody remove the file, the new one is
   opened beside it.
3. A turn may be held while an object moves, which takes as long as it takes: only those wait who want the same name,
   and they are told after PATIENCE. Who holds a turn and wants a second one asks with `try_take`, which never waits.
4. What garbage collection ends while a thread has a turn may want the same one, in that very thread, which would wait
   for itself: it goes on.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import starmap
from operator import call

from xxhash import xxh3_64_intdigest

from proxyfab.errors import ConnectorError
from proxyfab.fork import on_fork
from proxyfab.osio.files import make_directory, names_it, translate
from proxyfab.osio.owner import NO_LOCKS

FILE = ".turns"
PATIENCE = 60.0
"""Seconds to wait for a turn."""
_LONGEST_PAUSE = 0.02


class Turns:
    """The turns of one lock file. Thread-safe and fork-safe. Take it from `turns_at`."""

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/{FILE}"
        self._fds: list[int] = []
        self._guard = threading.RLock()
        self._marks: weakref.WeakValueDictionary[int, threading.Lock] = weakref.WeakValueDictionary()
        on_fork(self)
        weakref.finalize(self, _close, self._fds).atexit = False

    def after_fork(self) -> None:
        """Forget the parent's turns: its locks are not the child's."""
        self._guard = threading.RLock()
        self._marks = weakref.WeakValueDictionary()

    @contextmanager
    def take(self, name: str, patience: float = PATIENCE) -> Iterator[None]:
        """Have the turn of `name` inside the block.

        Raises:
            ConnectorError: Somebody else has had it for `patience` seconds.
        """
        with self._have(name, patience) as mine:
            if not mine:
                raise ConnectorError(
                    f"Somebody else has been changing {name} for {patience:.0f} s; is a process stopped? End it."
                )
            yield

    def try_take(self, name: str) -> AbstractContextManager[bool]:
        """Have the turn of `name` inside the block, if it is free now; whether it was."""
        return self._have(name, 0.0)

    @contextmanager
    def _have(self, name: str, patience: float) -> Iterator[bool]:
        """Generators, as one that an interrupt leaves behind is closed when it is collected; what is taken is recorded
        by the same C call, and given back by the first call of a `finally` (`osio.leases` on interrupts).
        """
        number = xxh3_64_intdigest(name.encode()) >> 2  # what a file's offset can be
        deadline = time.monotonic() + patience
        mark = self._mark(number)
        within: set[tuple[int, int]] = vars(_here).setdefault("within", set())
        place = id(mark), number
        if patience and place in within and mark.locked():  # rule 4
            yield True
            return
        mine: list[bool] = []
        back = starmap(call, ((within.discard, place), (mark.release,)))
        try:
            mine.extend(map(mark.acquire, (patience > 0,), (patience or -1,)))
            if not mine[0]:
                yield False
                return
            fd = self._file()
            try:
                had = self._wait_lock(fd, number, deadline)
                if had:
                    within.add(place)
                yield had
            finally:
                with suppress(OSError):
                    fcntl.lockf(fd, fcntl.LOCK_UN, 1, number)
        finally:
            if mine and mine[0]:
                any(back)

    def _mark(self, number: int) -> threading.Lock:
        with self._guard:
            mark = self._marks.get(number)
            if mark is None:
                mark = self._marks[number] = threading.Lock()
        return mark

    def _wait_lock(self, fd: int, number: int, deadline: float) -> bool:
        pause = 0.0001
        while not self._lock(fd, number):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return True

    def _lock(self, fd: int, number: int) -> bool:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:  # without locks there are turns among threads only
                raise translate(error, "lock", self.path) from error
        return True

    def _file(self) -> int:
        if not self._is_open():
            with self._guard:
                if not self._is_open():  # no other thread has been faster
                    self._open()
        return self._fds[-1]

    def _is_open(self) -> bool:
        return bool(self._fds) and names_it(self.path, self._fds[-1])

    def _open(self) -> None:
        try:
            make_directory(os.path.dirname(self.path), parents=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            # A finalizer may open it meanwhile, too: both descriptors of the same file stay open (rule 2).
            self._fds.extend(map(os.open, (self.path,), (flags,), (0o600,)))
        except OSError as error:
            raise translate(error, "open", self.path) from error


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


_here = threading.local()
"""The turns that this thread is `within`."""
_known: weakref.WeakValueDictionary[str, Turns] = weakref.WeakValueDictionary()
_opening = threading.RLock()


def turns_at(directory: str) -> Turns:
    """This process's Turns of a directory; hold it for as long as it is used."""
    with _opening:
        found = _known.get(directory)
        if found is None:
            found = _known[directory] = Turns(directory)
    return found


def _after_fork() -> None:
    global _opening
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
