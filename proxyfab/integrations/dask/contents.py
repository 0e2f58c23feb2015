"""Content tokens: what names an object by what it is, at the speed of memory and not of Dask's `tokenize`.

Rules:
1. Equal tokens mean equal objects: the type's name, its description (dtype, shape, order, encoding) and the sizes of
   its buffers go into the token beside the bytes.
2. The token of an object is the same in every process, and says nothing of where the object lies.
3. What is not known to be told apart by its bytes has no token here; Dask's own way stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xxhash import xxh3_128

from proxyfab.buffers import Buffer
from proxyfab.pointers import utf8_of
from proxyfab.wire.payload import Payload


def token_of(obj: object) -> str | None:
    """The token of bytes, text or an array of plain numbers; None for anything else."""
    kind = type(obj)
    if kind is bytes or kind is bytearray:
        return _digest((kind.__name__,), (obj,))  # type: ignore[arg-type]  # both are buffers
    if kind is str:
        return token_of_text(utf8_of(obj))  # type: ignore[arg-type]  # it is text
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        return _array(obj)
    return None


def token_of_text(utf8: Buffer) -> str:
    """The token of a text whose UTF-8 this is."""
    return _digest(("str",), (utf8,))


def token_of_payload(payload: Payload) -> str:
    """The token of an object as it is serialized."""
    sizes = [view.nbytes for view in payload.buffers]
    return _digest(("payload", payload.codec, payload.type, payload.meta, sizes), payload.buffers)


def _array(array: Any) -> str | None:
    dtype = array.dtype
    if dtype.hasobject or dtype.metadata is not None:
        return None
    flags = array.flags
    order = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "copied"
    if order == "copied":
        array = array.copy(order="C")  # its bytes do not lie in a row
    # Of dtypes with fields only repr says all, in 20 us; of those of other packages only the scalar's type.
    what = dtype.str if dtype.names is None and dtype.subdtype is None else repr(dtype), dtype.type
    flat = array.T if order == "F" else array
    return _digest(("ndarray", what, array.shape, "F" if order == "F" else "C"), (_bytes_of(flat),))


def _bytes_of(array: Any) -> Buffer:
    """The memory of a contiguous array; of types that the buffer protocol cannot tell (dates), too."""
    return memoryview(array.reshape(-1).view("u1")) if array.nbytes else b""


def _digest(what: tuple[Any, ...], buffers: Sequence[Buffer]) -> str:
    state = xxh3_128(repr(what).encode("utf-8", "surrogatepass"))
    for buffer in buffers:
        state.update(buffer)
    return state.hexdigest()
