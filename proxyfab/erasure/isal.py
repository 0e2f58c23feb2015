"""The kernel of Intel's ISA-L, called through ctypes: tens of gigabytes a second, no copy, no interpreter's lock.

The library is the system's `libisal.so.2`, or the copy that comes with the package pyeclib, of which nothing else is
used: its own interface keeps the interpreter's lock and ends the process when it is given a memoryview.

Promises: what it computes was compared with `plain` before it is used; the caller's buffers are held while C reads
them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from proxyfab.erasure import plain
from proxyfab.erasure.field import Kernel, Rows, products
from proxyfab.errors import MissingDependency
from proxyfab.pointers import PyBuffer, get_buffer, release_buffer

_ENTRY = 32  # bytes of ISA-L's tables for each coefficient
_MOST = 1 << 30  # lengths are ints of C
_NAMES = {"darwin": "libisal.2.dylib"}


def load() -> Kernel:
    """The kernel, if the library is here and right."""
    for path in _places():
        with suppress(OSError, AttributeError):
            kernel = Isal(ctypes.CDLL(path))
            if kernel.right():
                return kernel
    raise MissingDependency("Erasure codes by ISA-L need its library: pip install 'proxyfab[isal]'")


def _places() -> Iterator[str]:
    yield _NAMES.get(sys.platform, "libisal.so.2")
    from importlib.metadata import PackageNotFoundError, files

    with suppress(PackageNotFoundError):
        yield from (str(file.locate()) for file in files("pyeclib") or () if file.name.startswith("libisal"))


class _Held:
    """Buffers that are held, so that their memory stays where it is, and the addresses of it."""

    def __init__(self, views: Sequence[memoryview], *, writable: bool) -> None:
        self._buffers = (PyBuffer * len(views))()
        try:
            for view, buffer in zip(views, self._buffers, strict=True):
                get_buffer(view, buffer, int(writable))
        except BaseException:
            self.release()
            raise

    def addresses(self, offset: int) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * len(self._buffers))(*[buffer.buf + offset for buffer in self._buffers])

    def release(self) -> None:
        for buffer in self._buffers:
            release_buffer(buffer)  # nothing happens to one that holds nothing


class Isal:
    """ISA-L's two functions. Thread-safe, fork-safe: nothing changes but a cache of tables."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._init_tables = library.ec_init_tables
        self._init_tables.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._init_tables.restype = None
        self._encode = library.ec_encode_data
        self._encode.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 3)
        self._encode.restype = None
        self._tables = lru_cache(maxsize=64)(self._made_tables)

    def __call__(self, rows: Rows, sources: Sequence[memoryview], targets: Sequence[memoryview]) -> None:
        nbytes = len(targets[0]) if targets else 0
        if not nbytes:
            return
        tables = self._tables(rows)
        read = _Held(sources, writable=False)
        try:
            written = _Held(targets, writable=True)
            try:
                for low in range(0, nbytes, _MOST):
                    length = min(_MOST, nbytes - low)
                    into = written.addresses(low)
                    self._encode(length, len(sources), len(rows), tables, read.addresses(low), into)
            finally:
                written.release()
        finally:
            read.release()

    def _made_tables(self, rows: Rows) -> Any:
        tables = ctypes.create_string_buffer(_ENTRY * len(rows) * len(rows[0]))
        self._init_tables(len(rows[0]), len(rows), b"".join(rows), tables)
        return tables

    def right(self) -> bool:
        """Whether this library's field is ours, in the long loop as in the short one."""
        rows = (bytes(range(1, 6)), bytes(range(250, 255)))
        sources = [memoryview(products(factor) * 5)[:1259] for factor in range(7, 12)]
        found, expected = bytearray(2 * 1259), bytearray(2 * 1259)
        for kernel, room in ((self, found), (plain.combine, expected)):
            view = memoryview(room)
            kernel(rows, sources, [view[:1259], view[1259:]])
        return found == expected
