"""The clocks that times to live are counted by: for each place the one that all who share it can read.

- `uptime` is this boot's, suspended or not, for what ends with its process. No setting of the wall clock moves it.
- `Steady` is for what processes of a machine share: seconds since the epoch as they were when the first process of this
  boot looked, and the uptime since. So it differs from the wall clock by what that was set since, and by nothing else;
  what an older proxyfab wrote by the wall clock means the same. Where they first looked lies in shared memory, beside
  the objects.
- `Served` is for what machines share: the clock of whoever stamps the files of a directory, a file server or this
  kernel. It is asked by making an empty file, once a minute, when a time to live is to be told; between that the uptime
  counts. A machine's own wall clock, which may be an hour off, is believed only as far as the stamp allows, and where
  nothing can be written.
"""

from __future__ import annotations

import abc
import contextlib
import math
import os
import re
import time

from proxyfab.errors import ProxyfabError
from proxyfab.osio.files import MODE, NEW, NoLinks, discard, link_new, read_small, temporary_name, write_all
from proxyfab.osio.machine import boot
from proxyfab.wire.slot import Slot

CLOCK = ".clock"
_SAID = re.compile(rb"-?[0-9]{1,11}\.[0-9]{6}")
"""What is written there, to the last digit: what was cut, or is another's, is nobody's time."""
_ASKED_EVERY, _AGAIN = 60.0, 1.0
_TICK, _SECONDS = 0.02, 2.0
"""How much later than its stamp a file may have been made: kernels count in ticks, some file systems in seconds."""


def uptime() -> float:
    """Seconds since this machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock(abc.ABC):
    """What the expiry of an object is written and judged by. Thread-safe; a forked child has its parent's."""

    __slots__ = ()

    @abc.abstractmethod
    def now(self) -> float:
        """Seconds since the epoch."""

    def after(self, ttl: float | None) -> float:
        """The moment so many seconds from now; 0 for never."""
        return 0.0 if ttl is None else self.now() + ttl

    def wall(self, moment: float) -> float | None:
        """What the wall clock of now calls a moment; None for 0."""
        return moment - self.now() + time.time() if moment else None

    def alive(self, slot: Slot) -> bool:
        """Whether an object has not expired. Looks at nothing where it never does."""
        return not slot.expires or slot.alive(self.now())


class Steady(Clock):
    """The clock of one root of shared memory.

    Args:
        root: Its path.
    """

    __slots__ = ("_began", "_root")

    def __init__(self, root: str) -> None:
        self._root = root
        self._began: float | None = None

    def now(self) -> float:
        began = self._began
        if began is None:
            began = self._began = _begun(self._root)
        return time.time() if began is None else began + uptime()


def _begun(root: str) -> float | None:
    """When this boot began, as whoever looked first found; None where that can be neither read nor written."""
    with contextlib.suppress(OSError, ProxyfabError, NoLinks, ValueError):
        if started := boot()[:8].decode():
            path = f"{root}/{CLOCK}-{started}"
            said = read_small(path)
            if said is None:
                _write(path, f"{time.time() - uptime():.6f}".encode())
                said = read_small(path)
            if said is not None and _SAID.fullmatch(said):
                return float(said)
    return None


def _write(path: str, content: bytes) -> None:
    """Whole or not at all; whoever comes second keeps the first one's."""
    temporary = f"{os.path.dirname(path)}/{temporary_name()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, [content])
        with contextlib.suppress(FileExistsError):
            link_new(temporary, path)
    finally:
        os.close(fd)
        discard(temporary)


class Served(Clock):
    """The clock of whoever stamps the files in a directory.

    Args:
        root: Its path. Where nothing can be made in it the wall clock is taken, or what was heard before.
    """

    __slots__ = ("_known", "_root")

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: tuple[float, float] | None = None
        """When the uptime was 0 by this clock, and the uptime at which it is asked again."""

    def now(self) -> float:
        known = self._known
        if known is None or uptime() >= known[1]:
            known = self._known = self._ask(None if known is None else known[0])
        return known[0] + uptime()

    def _ask(self, began: float | None) -> tuple[float, float]:
        before = uptime()
        if began is None:
            began = time.time() - before
        try:
            stamp = _stamp(self._root)
        except OSError:
            return began, before + _AGAIN
        after = uptime()
        if stamp <= 0:  # a file system that has no times
            return began, before + _ASKED_EVERY
        late = _SECONDS if stamp == math.floor(stamp) else _TICK
        return min(max(began, stamp - after), stamp + late - before), after + _ASKED_EVERY


def _stamp(directory: str) -> float:
    """The time that a file gets which is made now, seconds since the epoch.

    Not by touching one that is there: some clients of file servers write their own time then.
    """
    path = f"{directory}/{temporary_name()}"
    fds: list[int] = []
    try:
        fds.extend(map(os.open, (path,), NEW, MODE))  # opened and recorded by one call: see `osio.leases`
        status = os.fstat(fds[0])
        return status.st_ctime or status.st_mtime  # an exclusive create may use the latter for something else
    finally:
        if fds:
            try:
                os.close(fds[0])
            finally:
                discard(path)


_steady: dict[str, Steady] = {}
_served: dict[str, Served] = {}


def steady_at(root: str) -> Steady:
    """This process's clock for a root of shared memory."""
    found = _steady.get(root)
    return _steady.setdefault(root, Steady(root)) if found is None else found


def served_at(root: str) -> Served:
    """This process's clock for a root that machines may share."""
    found = _served.get(root)
    return _served.setdefault(root, Served(root)) if found is None else found
