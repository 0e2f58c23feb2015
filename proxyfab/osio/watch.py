"""Being told that something appeared in directories: inotify, and bounded polling where the kernel cannot tell.

Promises: a wait ends at its deadline; a notice that comes between two looks is not lost, because a look follows the
setting of the watch; and whatever happens to the watch (a removed directory, a full queue, no instance left), a look is
taken at least every second. A notice of another name costs no look. inotify sees what processes of this machine do: on
a network file system use polling.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from proxyfab import background
from proxyfab.abc import check_timeout

T = TypeVar("T")
_MOVED_TO, _CREATE, _CLOSE_WRITE = 0x80, 0x100, 0x8
_ONLYDIR = 0x1000000
_APPEARED = _MOVED_TO | _CREATE | _CLOSE_WRITE | _ONLYDIR
_EVENT = struct.Struct("iIII")
_LOOK_EVERY = 1.0
_FIRST_PAUSE = 0.001
_FEW = 8
"""Descriptors that may wait to be closed: a user has 128 of them for all of his processes."""

_libc = ctypes.CDLL(None, use_errno=True)
_add_watch = _libc.inotify_add_watch
_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
Look = Callable[[Sequence[T]], list[T]]
Names = dict[tuple[int, bytes], T]
"""By a watch's number and a file's name."""


def wait_for_any(
    wanted: Sequence[T],
    there: Callable[[T], bool],
    timeout: float | None,
    *,
    paths: Callable[[], Iterable[str] | None] = lambda: None,
    bound: float = 0.02,
) -> list[T]:
    """Wait until one of `wanted` is there.

    Args:
        wanted: What is waited for.
        there: Whether one of them is there. Called in this thread: first for all of them, later perhaps for those only
            whose names appeared.
        timeout: Seconds; None for ever, 0 or less for one look.
        paths: Of each of `wanted` the file that it will be, in a directory that exists. None (there is none, or a
            network holds it): polling.
        bound: Seconds between two looks at most when polling.

    Returns:
        What the last look found; nothing when `timeout` has passed.
    """

    def look(suspects: Sequence[T]) -> list[T]:
        return [*filter(there, suspects)]

    check_timeout(timeout)
    found = look(wanted)
    deadline = None if timeout is None else time.monotonic() + timeout
    if found or not wanted or (deadline is not None and deadline <= time.monotonic()):
        return found
    files = paths()
    fd, names = (-1, {}) if files is None else _watch(dict(zip(files, wanted, strict=True)))
    try:
        return _told(wanted, look, deadline, fd, names) if fd >= 0 else _poll(wanted, look, deadline, bound)
    finally:
        if fd >= 0:  # in the background: the kernel takes 5 to 20 ms for it
            _over.append(fd)
            if len(_over) > _FEW:  # all there are busy with something else
                _let_go()
            else:
                background.start(_let_go, "Letting go of notices")


_over: list[int] = []
"""What tells nobody any more, and is not closed yet."""


def _let_go() -> None:
    with contextlib.suppress(IndexError):  # others do it, too
        while True:
            _close(_over.pop())


def _close(fd: int) -> None:
    os.close(fd)


os.register_at_fork(after_in_child=_let_go)  # whoever was to do it stayed in the parent


def _watch(files: dict[str, T]) -> tuple[int, Names[T]]:
    """An inotify descriptor for what appears under these paths, and what its notices mean.

    It is -1 when it cannot be had (128 instances a user).
    """
    fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    watches: dict[str, int] = {}
    names: Names[T] = {}
    for path, item in files.items() if fd >= 0 else ():
        directory, _, name = path.rpartition("/")
        if directory not in watches:
            watches[directory] = _add_watch(fd, os.fsencode(directory), _APPEARED)
            if watches[directory] < 0:
                os.close(fd)
                return -1, {}
        names[watches[directory], os.fsencode(name)] = item
    return fd, names


def _told(wanted: Sequence[T], look: Look[T], deadline: float | None, fd: int, names: Names[T]) -> list[T]:
    notices = select.poll()  # select() cannot take descriptors above 1,023
    notices.register(fd, select.POLLIN)
    suspects, look_at_all = wanted, 0.0
    while True:
        now = time.monotonic()
        if now >= look_at_all:
            suspects, look_at_all = wanted, now + _LOOK_EVERY
        found = look(suspects)
        left = (look_at_all if deadline is None else min(look_at_all, deadline)) - time.monotonic()
        if found or (left <= 0 and deadline is not None and deadline < look_at_all):
            return found
        suspects = ()
        if left > 0 and notices.poll(left * 1000 + 1):
            suspects = _appeared(fd, names, wanted)


def _appeared(fd: int, names: Names[T], wanted: Sequence[T]) -> Sequence[T]:
    """What the notices that have come speak of; everything, where they do not say."""
    try:
        told = os.read(fd, 65536)
    except BlockingIOError:
        return ()
    found: Names[T] = {}
    place = 0
    while place < len(told):
        number, _, _, length = _EVENT.unpack_from(told, place)
        place += _EVENT.size + length
        if not length:  # the queue was full, or a directory went
            return wanted
        name = number, told[place - length : place].rstrip(b"\0")
        if name in names:
            found[name] = names[name]
    return [*found.values()]


def _poll(wanted: Sequence[T], look: Look[T], deadline: float | None, bound: float) -> list[T]:
    pause = _FIRST_PAUSE
    while True:
        found = look(wanted)
        left = pause if deadline is None else min(pause, deadline - time.monotonic())
        if found or left <= 0:
            return found
        time.sleep(left)
        pause = min(pause * 1.5, bound)
