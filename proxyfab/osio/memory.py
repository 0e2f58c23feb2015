"""Memory to receive into: huge pages where they pay, because a first touch of 4 KiB pages costs more than the copy."""

from __future__ import annotations

import mmap

HUGE = 4 * 2**20
"""Blocks from here on are mapped on their own, on huge pages where the kernel grants them."""


def allocate(nbytes: int) -> memoryview:
    """Writable bytes; zeroed, and returned to the operating system when the last view goes."""
    if nbytes < HUGE:
        return memoryview(bytearray(nbytes))
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(block)
