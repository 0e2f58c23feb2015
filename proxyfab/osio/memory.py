"""Memory to receive into: huge pages where they pay, because a first touch of 4 KiB pages costs more than the copy.

Promises: what is returned is whole and nobody else's; smaller blocks, and systems without huge pages, get the ordinary
kind. 100 MB into new bytes take 13 ms here instead of 68 (`benchmarks/bench_limits.py` has the raw figures).
"""

from __future__ import annotations

import ctypes
import mmap
from time import thread_time
from typing import Any

from proxyfab.buffers import Frames, MadeFrames
from proxyfab.osio.mapping import PAGE, STEP, UNLOCKED, advise, copy
from proxyfab.pointers import PyBuffer, get_buffer, python_function, release_buffer

HUGE = 4 * 2**20
"""Blocks from here on are mapped on their own, on huge pages where the kernel grants them."""
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)
_COLD = 0.002
"""Seconds of processor time for the first touch of a huge page, 0.2 ms by itself, that say that it is not there yet: a
virtual machine's host takes free memory back by huge pages and gives it again in 6 ms each. Of small pages some are
always there: 10 MB take 12 ms then, instead of 30."""
_FEW = 32 * 2**20
"""Blocks up to here find as many; larger ones take what the host has to give anyway."""


_libc = ctypes.CDLL(None)


class PrivateMap(mmap.mmap):
    """A mapping that no other process shares."""


def allocate(nbytes: int) -> memoryview:
    """Writable bytes; zeroed, and returned to the operating system when the last view goes."""
    if nbytes < HUGE:
        return memoryview(bytearray(nbytes))
    whole = -(-nbytes // STEP) * STEP
    if whole - nbytes > nbytes // 8:  # so much more than is needed is not worth it
        return memoryview(map_private(nbytes))
    return memoryview(map_private(whole))[:nbytes]


def unfilled(nbytes: int) -> memoryview:
    """Writable bytes of any content, for who fills them all: none is touched before, with the interpreter's lock."""
    return memoryview(_make_bytearray(None, nbytes)) if UNLOCKED <= nbytes < HUGE else allocate(nbytes)


def copied(frames: Frames) -> memoryview:
    """All bytes in a block of their own. From 64 KiB on other threads run meanwhile: first touches take long, too.

    Raises:
        MemoryError: There is no room (or an OSError).
    """
    block = unfilled(frames.nbytes)
    if frames.nbytes < UNLOCKED or isinstance(frames, MadeFrames) or sum(map(len, frames.views)) != len(block):
        frames.copy_into(block)
        return block
    held = PyBuffer()
    get_buffer(block, held, 1)
    try:
        address: int = held.buf
        for view in frames.views:
            copy(view, address)
            address += len(view)
    finally:
        release_buffer(held)
    return block


def map_private(nbytes: int) -> PrivateMap:
    """Zeroed memory of this process alone, on huge pages where the kernel grants them."""
    block = PrivateMap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _ADVICE is not None:
        block.madvise(_ADVICE)
        if nbytes <= _FEW and _touched(block) > _COLD:
            block.madvise(mmap.MADV_NOHUGEPAGE)
    return block


def _touched(block: PrivateMap) -> float:
    """Seconds of this thread's processor time that the first page took: not those in which others ran."""
    before = thread_time()
    block[0] = 0
    return thread_time() - before


def give_back() -> None:
    """Return what was let go of to the operating system.

    glibc keeps it for whoever asks next, and that may be as much as was ever in use. Other C libraries are left alone.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def is_private(view: memoryview) -> bool:
    """Whether these bytes are known to be this process's alone: nobody else changes them while they are read."""
    return isinstance(view.obj, (bytes, bytearray, PrivateMap))


def new_bytes(view: memoryview) -> bytes:
    """`bytes(view)`, on huge pages when it is large."""
    return bytes(view) if view.nbytes < HUGE else _filled(_make_bytes, _bytes_at, view)


def new_bytearray(view: memoryview) -> bytearray:
    """`bytearray(view)`, on huge pages when it is large."""
    return bytearray(view) if view.nbytes < HUGE else _filled(_make_bytearray, _bytearray_at, view)


def unfilled_bytes(nbytes: int) -> tuple[bytes, int]:
    """Bytes of any content and where they lie, for who fills them all before anybody else sees them."""
    return _unfilled(_make_bytes, _bytes_at, nbytes)


def _filled(make: Any, address_of: Any, view: memoryview) -> Any:
    """A new object of the interpreter's, made without its content and filled before anybody else sees it."""
    made, address = _unfilled(make, address_of, view.nbytes)
    copy(view, address)
    return made


def _unfilled(make: Any, address_of: Any, nbytes: int) -> tuple[Any, int]:
    made = make(None, nbytes)
    address = address_of(made)
    if _ADVICE is not None:
        start, end = -(-address // PAGE) * PAGE, (address + nbytes) // PAGE * PAGE
        advise(start, end - start, _ADVICE)
    return made, address


_make_bytes = python_function("PyBytes_FromStringAndSize", ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)
_bytes_at = python_function("PyBytes_AsString", ctypes.c_void_p, ctypes.py_object)
_make_bytearray = python_function("PyByteArray_FromStringAndSize", ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)
_bytearray_at = python_function("PyByteArray_AsString", ctypes.c_void_p, ctypes.py_object)
