"""Being told that something appeared in a directory: inotify, and bounded polling where the kernel cannot tell.

Promises: a wait ends at its deadline; a notice that comes between two looks is not lost, because a look follows the
setting of the watch; and whatever happens to the watch (a removed directory, a full queue, no instance left), a look is
taken at least every second. inotify sees what processes of this machine do: on a network file system use polling.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from collections.abc import Callable

_MOVED_TO, _CREATE, _CLOSE_WRITE = 0x80, 0x100, 0x8
_ONLYDIR = 0x1000000
_APPEARED = _MOVED_TO | _CREATE | _CLOSE_WRITE | _ONLYDIR
_LOOK_EVERY = 1.0
_FIRST_PAUSE = 0.001

_libc = ctypes.CDLL(None, use_errno=True)
_add_watch = _libc.inotify_add_watch
_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


def wait_until(
    look: Callable[[], bool],
    timeout: float | None,
    *,
    directory: Callable[[], str | None] = lambda: None,
    bound: float = 0.02,
) -> bool:
    """Wait until `look()` is true.

    Args:
        look: Whether what is waited for is there. Called in this thread, at least once.
        timeout: Seconds; None for ever, 0 or less for one look.
        directory: The existing directory in which it will appear. None (there is none, or a network holds it): polling.
        bound: Seconds between two looks at most when polling.

    Returns:
        Whether it came within `timeout`.
    """
    if look():
        return True
    deadline = None if timeout is None else time.monotonic() + timeout
    if deadline is not None and deadline <= time.monotonic():
        return False
    place = directory()
    fd = -1 if place is None else _watch(place)
    try:
        return _told(look, deadline, fd) if fd >= 0 else _poll(look, deadline, bound)
    finally:
        if fd >= 0:
            os.close(fd)


def _watch(directory: str) -> int:
    """An inotify descriptor for what appears in `directory`; -1 when it cannot be had (128 instances a user)."""
    fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd >= 0 and _add_watch(fd, os.fsencode(directory), _APPEARED) < 0:
        os.close(fd)
        return -1
    return fd


def _told(look: Callable[[], bool], deadline: float | None, fd: int) -> bool:
    notices = select.poll()  # select() cannot take descriptors above 1,023
    notices.register(fd, select.POLLIN)
    while not look():
        left = _LOOK_EVERY if deadline is None else min(_LOOK_EVERY, deadline - time.monotonic())
        if left <= 0:
            return False
        if notices.poll(left * 1000 + 1):
            _drain(fd)
    return True


def _drain(fd: int) -> None:
    """Which names appeared does not matter: each wait has a descriptor of its own and looks for one name."""
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        pass


def _poll(look: Callable[[], bool], deadline: float | None, bound: float) -> bool:
    pause = _FIRST_PAUSE
    while not look():
        left = pause if deadline is None else min(pause, deadline - time.monotonic())
        if left <= 0:
            return False
        time.sleep(left)
        pause = min(pause * 1.5, bound)
    return True
