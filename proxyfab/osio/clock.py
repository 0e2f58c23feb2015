"""The clocks that times to live are counted by, and that no setting of the wall clock moves.

`uptime` is this boot's, suspended or not, for what ends with its process. `steady` is for what processes of a machine
share: seconds since the epoch as they were when the first process of this boot looked, and the uptime since. So it
differs from the wall clock by what that was set since, and by nothing else; what an older proxyfab wrote by the wall
clock means the same. Where they first looked lies in shared memory, beside the objects.
Leaves to others what machines share: a file system's clock, a server's.
"""

from __future__ import annotations

import contextlib
import os
import re
import time

from proxyfab.errors import ProxyfabError
from proxyfab.osio.files import NoLinks, discard, link_new, read_small, temporary_name, write_all

CLOCK = ".clock"
_SAID = re.compile(rb"-?[0-9]{1,11}\.[0-9]{6}")
"""What is written there, to the last digit: what was cut, or is another's, is nobody's time."""
_BOOT = "/proc/sys/kernel/random/boot_id"


def uptime() -> float:
    """Seconds since this machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Steady:
    """The clock of one root of shared memory. Thread-safe; a forked child has its parent's.

    Args:
        root: Its path.
    """

    __slots__ = ("_began", "_root")

    def __init__(self, root: str) -> None:
        self._root = root
        self._began: float | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        began = self._began
        if began is None:
            began = self._began = _begun(self._root)
        return time.time() if began is None else began + uptime()

    def after(self, ttl: float | None) -> float:
        """The moment so many seconds from now; 0 for never."""
        return 0.0 if ttl is None else self.now() + ttl

    def wall(self, moment: float) -> float | None:
        """What the wall clock of now calls a moment; None for 0."""
        return moment - self.now() + time.time() if moment else None


def _begun(root: str) -> float | None:
    """When this boot began, as whoever looked first found; None where that can be neither read nor written."""
    with contextlib.suppress(OSError, ProxyfabError, NoLinks, ValueError):
        with open(_BOOT, encoding="ascii") as file:
            path = f"{root}/{CLOCK}-{file.read(8)}"
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


_clocks: dict[str, Steady] = {}


def steady_at(root: str) -> Steady:
    """This process's clock for a root of shared memory."""
    found = _clocks.get(root)
    return _clocks.setdefault(root, Steady(root)) if found is None else found
