"""Turns: who changes a named thing has it for himself, among threads and among the processes of this machine.

Rules:
1. A turn is a mark in this process and a lock on one byte of a file, the byte's number being a hash of the name: any
   number of turns costs one descriptor, and different names practically never meet.
2. The locks are those of a process (`F_SETLK`): a forked child inherits none, and the kernel gives them back when the
   process ends, also by SIGKILL. Such locks end when *any* descriptor of the file is closed; so a process has one
   descriptor for each such file, shared by all who use it (`turns_at`).
3. A turn may be held while an object moves, which takes as long as it takes: only those wait who want the same name,
   and they are told after PATIENCE. Who holds a turn and wants a second one asks with `try_take`, which never waits.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from proxyfab.errors import ConnectorError
from proxyfab.fork import on_fork
from proxyfab.osio.files import make_directory, translate
from proxyfab.osio.owner import _UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = ".turns"
PATIENCE = 60.0
"""Seconds to wait for a turn."""
_LONGEST_PAUSE = 0.02


class Turns:
    """The turns of one lock file. Thread-safe and fork-safe. Take it from `turns_at`."""

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/{FILE}"
        self._fds: list[int] = []
        self._taken: set[int] = set()
        self._changed = threading.Condition()
        on_fork(self)
        weakref.finalize(self, _close, self._fds).atexit = False

    def after_fork(self) -> None:
        """Forget the parent's turns: its locks are not the child's."""
        self._changed = threading.Condition()
        self._taken.clear()

    @contextmanager
    def take(self, name: str, patience: float = PATIENCE) -> Iterator[None]:
        """Have the turn of `name` inside the block.

        Raises:
            ConnectorError: Somebody else has had it for `patience` seconds.
        """
        number = _number(name)
        deadline = time.monotonic() + patience
        with self._changed:
            if not self._changed.wait_for(lambda: number not in self._taken, patience):
                raise _busy(name, patience)
            self._taken.add(number)
        try:
            self._wait_lock(number, name, deadline, patience)
            try:
                yield
            finally:
                self._unlock(number)
        finally:
            self._give(number)

    @contextmanager
    def try_take(self, name: str) -> Iterator[bool]:
        """Have the turn of `name` inside the block, if it is free now; whether it was."""
        number = _number(name)
        with self._changed:
            free = number not in self._taken
            if free:
                self._taken.add(number)
        if not free:
            yield False
            return
        try:
            free = self._lock(number)
            try:
                yield free
            finally:
                if free:
                    self._unlock(number)
        finally:
            self._give(number)

    def _give(self, number: int) -> None:
        with self._changed:
            self._taken.discard(number)
            self._changed.notify_all()

    def _wait_lock(self, number: int, name: str, deadline: float, patience: float) -> None:
        pause = 0.0001
        while not self._lock(number):
            if time.monotonic() > deadline:
                raise _busy(name, patience)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:  # without locks there are turns among threads only
                raise translate(error, "lock", self.path) from error
        return True

    def _unlock(self, number: int) -> None:
        try:
            fcntl.lockf(self._fds[0], fcntl.LOCK_UN, 1, number)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise translate(error, "unlock", self.path) from error

    def _file(self) -> int:
        if not self._fds:
            try:
                make_directory(os.path.dirname(self.path), parents=True)
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise translate(error, "open", self.path) from error
            with self._changed:
                self._fds.append(fd)  # a thread that was faster has the first place; ours is closed with it (rule 2)
        return self._fds[0]


def _number(name: str) -> int:
    return xxh3_64_intdigest(name.encode()) >> 2  # what a file's offset can be


def _busy(name: str, patience: float) -> ConnectorError:
    return ConnectorError(f"Somebody else has been changing {name} for {patience:.0f} s; is a process stopped? End it.")


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


_known: weakref.WeakValueDictionary[str, Turns] = weakref.WeakValueDictionary()
_opening = threading.Lock()


def turns_at(directory: str) -> Turns:
    """This process's Turns of a directory; hold it for as long as it is used."""
    with _opening:
        found = _known.get(directory)
        if found is None:
            found = _known[directory] = Turns(directory)
    return found


def _after_fork() -> None:
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
