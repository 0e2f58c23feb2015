"""Private views of mapped files: writable, seen by nobody else, and nothing is copied before it is written to.

The kernel maps a page when it is first looked at, and copies it when it is first written to. Either costs more than to
copy it along with all the others, so this pays only for who looks at little. What was looked at is told afterwards.

Promises: a view holds what it came from, lease and all, for as long as anything derives from it; all such views of a
process map no more than its warm mappings may (`Mappings.limit`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from proxyfab.osio.mapping import PAGE, Mapping, kept_by, writable_window
from proxyfab.osio.shared import all_shared
from proxyfab.pointers import PyBuffer, get_buffer, release_buffer

_ENTRY = 8
"""Bytes that Linux tells of a page; the highest has bit 7 of one that is mapped, and bit 5 if it is the file's."""
_OURS = (b"\x80", b"\x81")
_live: dict[int, int] = {}


class Use(NamedTuple):
    """What was done with a view.

    Attributes:
        pages: How many it has.
        seen: How many were looked at, or written to.
        changed: How many were written to.
    """

    pages: int
    seen: int
    changed: int


class _Private(Mapping):
    """A private mapping that tells of its use when it ends."""

    __slots__ = ("_end", "_start", "_tell")

    def __init__(self, fd: int, start: int, end: int, tell: Callable[[Use], object] | None) -> None:
        super().__init__(fd, end, private=True)
        self._start, self._end, self._tell = start, end, tell
        _live[id(self)] = self.length

    def __del__(self, _exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _exiting():
            _live.pop(id(self), None)
            if self._tell is None:
                return
            with contextlib.suppress(Exception):  # not made, or not told by this system: then nobody is told
                self._tell(_used(self.address + self._start, self.address + self._end))


def private_view(view: memoryview, tell: Callable[[Use], object] | None) -> memoryview | None:
    """A writable view of the same bytes, whose changes are its own.

    Args:
        view: Of something in shared memory.
        tell: Called when the new view and all that derives from it are gone, in any thread and between any two lines of
            Python; not where the system does not say what was used. None where nobody wants to know.

    Returns:
        None where it cannot be had: of memory that is no file, or not kept warm, or when too much is mapped already.
    """
    kept = kept_by(view)
    if kept is None:
        return None
    mapping, lease = kept
    start = _address(view) - mapping.address
    end = start + view.nbytes
    for shared in all_shared():
        try:
            fd = shared.mappings.descriptor(mapping)
        except OSError:  # none is left
            return None
        if fd is not None:
            try:
                if sum(list(_live.values())) + end > shared.mappings.limit:
                    return None
                return writable_window(_Private(fd, start, end, tell), start, view.nbytes, lease)
            except OSError:
                return None
            finally:
                os.close(fd)
    return None


def _address(view: memoryview) -> int:
    held = PyBuffer()
    get_buffer(view, held, 0)
    try:
        return int(held.buf)
    finally:
        release_buffer(held)


def _used(start: int, end: int) -> Use:
    """What was used of the pages from one address to another."""
    first, pages = start // PAGE, -(-end // PAGE) - start // PAGE
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        told = os.pread(fd, pages * _ENTRY, first * _ENTRY)[_ENTRY - 1 :: _ENTRY]
    finally:
        os.close(fd)
    return Use(pages, pages - told.count(0), sum(map(told.count, _OURS)))
