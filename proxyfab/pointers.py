"""Where the bytes of a buffer lie, read-only ones included: CPython's own functions, through a handle that is ours.

Promise: what other packages declare of `ctypes.pythonapi`, which all of a process share, changes nothing here, and what
is declared here changes nothing there.
"""

from __future__ import annotations

import ctypes
from typing import Any

_python = ctypes.PyDLL(None)


class PyBuffer(ctypes.Structure):
    """`Py_buffer` of CPython."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def python_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of CPython's, called with the interpreter's lock held; an error of Python's is raised.

    Args:
        name: As in its C interface.
        result: ctypes' type of what it returns; None for nothing.
        *arguments: ctypes' types of what it takes.
    """
    function = _python[name]  # a new object each time; as an attribute it would be one for all
    function.restype, function.argtypes = result, arguments
    return function


get_buffer = python_function(
    "PyObject_GetBuffer", ctypes.c_int, ctypes.py_object, ctypes.POINTER(PyBuffer), ctypes.c_int
)
"""Hold the bytes of an object: they stay where they are until `release_buffer`."""
release_buffer = python_function("PyBuffer_Release", None, ctypes.POINTER(PyBuffer))
"""Let go of them; nothing happens to a PyBuffer that holds nothing."""
untrack = python_function("PyObject_GC_UnTrack", None, ctypes.py_object)
"""Keep garbage collection from looking into an object: what it refers to lives until the last reference to it is gone.

For what others look at through a pointer. Of garbage in a cycle all finalizers run before anything is freed, in any
order, and a finalizer may look at what another one has just ended, or keep it.
"""


class _Memory(ctypes.c_ubyte * (1 << 46)):  # type: ignore[misc]  # one type for all lengths: making one costs 20 us
    """The memory of something else, which it keeps."""


def view_at(address: int, length: int, keep: object) -> memoryview:
    """A read-only view of memory that stays where it is as long as `keep` lives, which the view holds."""
    return memoryview(_kept_at(address, keep)).toreadonly().cast("B")[:length]


def flat_view(view: memoryview) -> memoryview:
    """The bytes of a view without gaps as they lie in memory, in one dimension. Nobody else may have `view`.

    `PickleBuffer.raw` would make a view that holds another one by its buffer, and with two such in a reference cycle
    CPython before 3.12.7 crashes (its issue 77894): garbage collection empties the inner one, which cannot be released,
    and it is freed later.
    """
    held = PyBuffer()
    get_buffer(view, held, _FULL_READ_ONLY)
    address, length = held.buf, held.len
    release_buffer(held)  # `view` itself still holds the bytes, and nobody else can release it
    if view.readonly:
        return view_at(address, length, view)
    return memoryview(_kept_at(address, view)).cast("B")[:length]


def _kept_at(address: int, keep: object) -> Any:
    exporter: Any = _Memory.from_address(address)
    exporter.keep = keep
    untrack(exporter)
    return exporter


def utf8_of(text: str) -> memoryview | bytes:
    """A text's UTF-8, lone surrogates included: where it lies, if it is ASCII, and otherwise a copy."""
    if not text.isascii():
        return text.encode("utf-8", "surrogatepass")
    return view_at(_utf8_at(text, None), len(text), text)


_FULL_READ_ONLY = 0x11C
"""`PyBUF_FULL_RO`: of any order and shape."""
_utf8_at = python_function("PyUnicode_AsUTF8AndSize", ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
