"""Mapped files: memory that is a file, and read-only windows on it that live as long as anybody looks.

Rules:
1. Readers map PROT_READ. A window is a read-only memoryview, and even a write that goes around it (ctypes, a forged
   pointer) faults instead of changing what others see. Or they map privately (`osio.private`): then it changes nothing.
2. A window's exporter is a ctypes array, not an ndarray and not a memoryview: NumPy, pickle and Arrow collapse chains
   of views down to the exporter, and so the exporter's life is the life of every view derived from it. It holds the
   mapping and whatever else must outlive the views (a lease on a recycled segment). Garbage collection does not look
   through it: where a view is part of a cycle, the finalizers of others may still look at it.
3. A mapping keeps no file descriptor and is unmapped when its last window and the last cache entry are gone. Only a
   mapping that is kept warm has one, to see whether its file is gone; their number is bounded.
4. Mapped memory is copied without the interpreter's lock, so that other threads run while 100 MB move.

Mapping through libc and not through the module mmap: that one duplicates the descriptor and keeps it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from typing import Any, NamedTuple

from proxyfab.fork import on_fork
from proxyfab.pointers import PyBuffer, get_buffer, release_buffer, untrack
from proxyfab.wire.slot import SIZE

PAGE = mmap.PAGESIZE
UNLOCKED = 64 * 1024
"""Bytes below which a call that lets go of the interpreter's lock costs more than the copy."""
_SWEEP_EVERY = 0.25
_COUNT = 64
_POPULATE_WRITE = 23
STEP = 2 * 2**20
"""A huge page. Of a length that is a multiple of it all pages are huge; the ends of others cost 400 small ones."""
_NOTHING, _ALONE = 0, (mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,)  # addresses, and no memory
_OVER = 0x10  # MAP_FIXED, inside of what is ours
_FAILED = ctypes.c_void_p(-1).value
_SHARED = (mmap.MAP_SHARED,)
_PRIVATE = (mmap.MAP_PRIVATE,)

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
advise = _libc.madvise
"""`madvise(address, length, advice)`: a hint, so nobody asks whether the kernel took it."""
advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Extents(list[tuple["int | None", int]]):
    """What was mapped, by address and length."""

    __slots__ = ()

    def map(self, address: int | None, length: int, protection: int, flags: tuple[int], fd: int) -> int:
        """Map, made and recorded by one call, so that no interrupt comes in between (`osio.leases`)."""
        self.extend(zip(map(_mmap, (address,), (length,), (protection,), flags, (fd,), (0,)), (length,), strict=False))
        found = self[-1][0]
        if found == _FAILED or found is None:
            self.pop()
            raise _error()
        return found

    def keep(self, address: int, length: int) -> None:
        """Unmap what is before and behind this part of the one that there is: each part counts as a mapping."""
        ((start, whole),) = self
        assert start is not None
        end = address + length
        self[0] = address, length  # first: what is unmapped may be somebody else's the next moment
        if address > start:
            _munmap(start, address - start)
        if start + whole > end:
            _munmap(end, start + whole - end)

    def undone(self) -> Iterator[None]:
        """Started once, it unmaps all with the last reference to it: by one C call, before any interrupt is raised, as
        a `__del__` may meet one before it begins (`osio.leases`).

        Not by the mapping itself: weak references to an object lead to it until its `__del__` has returned, and while
        one thread unmaps another would find the mapping that is gone. They lead nowhere before an attribute is let go.
        """
        unmap, run = starmap(_munmap, self), sum  # at interpreter exit globals may be gone before the last mapping
        try:
            yield
        finally:
            run(unmap)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


class Mapping:
    """A mapping of a file from its start.

    Args:
        fd: The file; may be closed afterwards.
        length: Bytes to map. May lie beyond the end of the file, so that a file which grows need not be mapped anew;
            what lies beyond must not be touched (SIGBUS).
        writable: PROT_WRITE too. Only for the process that fills the file.
        private: Writable, and what is written is this mapping's alone. The file must not change meanwhile.

    From 4 MiB on it begins at a multiple of 2 MiB, so that each of a file's huge pages is found by one fault.

    Raises:
        OSError: The kernel refuses; `ENOMEM` beyond 65,530 mappings.
    """

    __slots__ = ("__weakref__", "_undone", "address", "length", "start")

    def __init__(self, fd: int, length: int, *, writable: bool = False, private: bool = False) -> None:
        self.length = max(-(-length // PAGE) * PAGE, PAGE)
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable or private else mmap.PROT_READ
        flags = _PRIVATE if private else _SHARED
        made = _Extents()
        self._undone = undone = made.undone()
        next(undone)
        if self.length < 2 * STEP:
            self.address: int = made.map(None, self.length, protection, flags, fd)
        else:
            start = made.map(None, self.length + STEP, _NOTHING, _ALONE, -1)
            up = -start % STEP
            if private:  # anywhere else: which small pages are looked at is to be seen
                up = 0 if up else PAGE
            self.address = start + up
            if _mmap(self.address, self.length, protection, flags[0] | _OVER, fd, 0) != self.address:
                raise _error()
            made.keep(self.address, self.length)
        self.start = memoryview(_Start.from_address(self.address)).cast("B")
        """The first bytes as they are now, for who holds the mapping: this view does not."""

    def populate(self, offset: int, end: int) -> None:
        """Make pages writable now, in one call instead of one fault each; a kernel before 5.14 does it on touch."""
        start = offset // PAGE * PAGE
        if start < end:
            advise(self.address + start, end - start, _POPULATE_WRITE)

    def write(self, parts: Iterable[memoryview | bytes], offset: int) -> int:
        """Copy `parts` to `offset` and behind; returns the offset behind the last byte. Only where writable."""
        for part in parts:
            copy(part, self.address + offset)
            offset += len(part)
        return offset


_Start = ctypes.c_ubyte * SIZE


def copy(source: memoryview | bytes, address: int) -> None:
    """Copy bytes to an address; from 64 KiB on other threads run meanwhile."""
    length = len(source)
    if length < UNLOCKED:
        target = memoryview((ctypes.c_char * length).from_address(address)).cast("B")
        target[:] = source
        return
    held = PyBuffer()
    get_buffer(source, held, 0)
    try:
        ctypes.memmove(address, held.buf, length)
    finally:
        release_buffer(held)


class _Exporter(ctypes.c_ubyte * (1 << 46)):  # type: ignore[misc]  # one type for all lengths: making one costs 20 us
    """Hands out the memory of a mapping and keeps alive what the views need. Never leaves this module undressed."""


def window(mapping: Mapping, offset: int, length: int, keep: object = None) -> memoryview:
    """A read-only view of `mapping[offset : offset + length]`; all that derives from it holds `mapping` and `keep`."""
    return memoryview(_held(mapping, keep)).toreadonly().cast("B")[offset : offset + length]


def writable_window(mapping: Mapping, offset: int, length: int, keep: object = None) -> memoryview:
    """The same of a mapping that is private, to be written to."""
    return memoryview(_held(mapping, keep)).cast("B")[offset : offset + length]


def _held(mapping: Mapping, keep: object) -> Any:
    exporter: Any = _Exporter.from_address(mapping.address)
    exporter.keep = (mapping, keep)
    untrack(exporter)
    return exporter


def kept_by(view: memoryview) -> tuple[Mapping, object] | None:
    """The mapping that a view is a window on, and what else it keeps; None of other memory."""
    return view.obj.keep if type(view.obj) is _Exporter else None


class FileId(NamedTuple):
    """Device and inode: which file it is, whatever it is called now. Unique for as long as a mapping holds it."""

    device: int
    inode: int


class _Warm(NamedTuple):
    mapping: Mapping
    fd: int


class Mappings:
    """The mappings this process keeps warm after their windows are gone: a first touch costs more than the read.

    A mapping in use is always found again; of those not in use the youngest `limit` bytes and `count` are kept. What
    is mapped stays in memory even when its file has lost its last name, so those whose file has are dropped whenever
    the connector is used (asked at most every 250 ms, every 2 s by gets that need none but warm ones). A process that
    idles can therefore hold back at most `limit` bytes of files that are gone.

    Thread-safe; no mapping is undone under the lock. What garbage collection ends while something is changed here may
    come back: it finds mappings, and changes nothing. A forked child starts with none.
    """

    def __init__(self, limit: int, count: int | None = None) -> None:
        self.limit = limit
        self.count = min(_COUNT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 16) if count is None else count
        self._warm: OrderedDict[FileId, _Warm] = OrderedDict()
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """The child's windows keep the mappings that they need; the others are its parent's."""
        self._lock = threading.RLock()
        self._changing = False
        self._used: weakref.WeakValueDictionary[FileId, Mapping] = weakref.WeakValueDictionary()
        self._swept = time.monotonic()
        _close_all(self._warm)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept warm."""
        return sum([warm.mapping.length for warm in list(self._warm.values())])

    def find(self, file: FileId, length: int) -> Mapping | None:
        """A mapping of this file that covers `length` bytes."""
        with self._lock:
            if file in self._warm and not self._changing:
                self._warm.move_to_end(file)
            mapping = self._used.get(file)
        return mapping if mapping is not None and mapping.length >= length else None

    def warm(self, status: os.stat_result) -> Mapping | None:
        """The mapping of the file of this status, if it is kept warm."""
        file: Any = status.st_dev, status.st_ino  # equal to a FileId, and made without a function
        with self._lock:
            found = self._warm.get(file)
            if found is None:
                return None
            if not self._changing:
                self._warm.move_to_end(file)
            return found.mapping

    def descriptor(self, mapping: Mapping) -> int | None:
        """Of the file of a mapping that is kept warm, for the caller to close."""
        with self._lock:
            fds = [warm.fd for warm in list(self._warm.values()) if warm.mapping is mapping]
            return os.dup(fds[0]) if fds else None

    def keep(self, file: FileId, mapping: Mapping, fd: int) -> None:
        """Keep a mapping of the open file `fd` warm until that has no name any more, or younger ones displace it."""
        mine: list[int] = []
        gone: list[_Warm | None] = []  # undone behind the lock: that takes milliseconds for a large one
        try:
            if mapping.length <= self.limit:
                mine.extend(map(os.dup, (fd,)))  # made and recorded by one call: see `osio.leases` on interrupts
            with self._lock:
                if not self._changing:
                    self._changing = True
                    try:
                        self._used[file] = mapping
                        gone.append(self._warm.pop(file, None))
                        if mine:
                            self._warm[file] = _Warm(mapping, mine[0])
                            mine = []
                        while self.nbytes > self.limit or len(self._warm) > self.count:
                            gone.append(self._warm.popitem(last=False)[1])
                    finally:
                        self._changing = False
        finally:
            if mine:
                os.close(mine[0])
        _close(gone)

    def sweep(self, *, now: bool = False, every: float = _SWEEP_EVERY) -> None:
        """Drop mappings of files that are gone; at most every 250 ms, or `every` seconds, unless `now`."""
        if not self._warm or (not now and time.monotonic() - self._swept < every):
            return
        self._swept = time.monotonic()
        # Asked under the lock, or a descriptor could be closed and be another file's meanwhile; 0.5 us each.
        self._drop(lambda warm: not os.fstat(warm.fd).st_nlink)

    def clear(self) -> None:
        """Drop all mappings; their windows stay valid."""
        self._drop(lambda _: True)

    def _drop(self, which: Callable[[_Warm], bool]) -> None:
        gone: list[_Warm | None] = []
        with self._lock:
            if self._changing:
                return
            self._changing = True
            try:
                for file in [file for file, warm in self._warm.items() if which(warm)]:
                    gone.append(self._warm.pop(file, None))
            finally:
                self._changing = False
        _close(gone)

    def __len__(self) -> int:
        return len(self._warm)


def _close(gone: list[_Warm | None]) -> None:
    for warm in gone:
        if warm is not None:
            os.close(warm.fd)


def _close_all(warm: OrderedDict[FileId, _Warm]) -> None:
    while warm:
        os.close(warm.popitem()[1].fd)
