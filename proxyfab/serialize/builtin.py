"""The codecs of bytes, bytearray, memoryview and str. Each comes back as a copy of its own, but for memoryview."""

from __future__ import annotations

from typing import Any

from proxyfab.serialize.codec import Codec, Parts

_SMALL = 1 << 20
"""Below, nothing is gained by `osio.memory`, which brings ctypes: 5 ms that only those who load more should pay."""


def _to_bytes(view: memoryview) -> bytes:
    if view.nbytes < _SMALL:
        return bytes(view)
    from proxyfab.osio.memory import new_bytes

    return new_bytes(view)


class _Bytes:
    name = "bytes"
    safe = True

    def dump(self, obj: bytes, /) -> Parts:
        return None, (obj,)

    def load(self, _: Any, buffers: tuple[memoryview, ...], /) -> bytes:
        (view,) = buffers
        whole = view.obj
        # A copy, since bytes own their memory; none when the view is all of a bytes object.
        return whole if whole.__class__ is bytes and len(whole) == view.nbytes else _to_bytes(view)


class _ByteArray:
    name = "bytearray"
    safe = True

    def dump(self, obj: bytearray, /) -> Parts:
        return None, (obj,)

    def load(self, _: Any, buffers: tuple[memoryview, ...], /) -> bytearray:
        (view,) = buffers
        if view.nbytes < _SMALL:
            return bytearray(view)  # a copy, since its owner may change it
        from proxyfab.osio.memory import new_bytearray

        return new_bytearray(view)  # as above


class _MemoryView:
    """Comes back over the received bytes: nothing is copied, and it is read-only."""

    name = "memoryview"
    safe = True

    def dump(self, obj: memoryview, /) -> Parts:
        data = obj if obj.c_contiguous else obj.tobytes()  # one copy where the bytes do not lie in a row
        return [obj.format, list(obj.shape or ())], (data,)

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> memoryview:
        (view,) = buffers
        format, shape = meta
        if format == "B" and shape == [view.nbytes]:
            return view
        if 0 in shape:
            raise ValueError("an empty memoryview of several dimensions")
        return view.cast(format, shape)


class _Str:
    name = "str"
    safe = True

    def dump(self, obj: str, /) -> Parts:
        if len(obj) < _SMALL:
            return None, (obj.encode("utf-8", "surrogatepass"),)  # a copy: text has no buffer
        from proxyfab.pointers import utf8_of

        return None, (utf8_of(obj),)

    def load(self, _: Any, buffers: tuple[memoryview, ...], /) -> str:
        (view,) = buffers
        return str(view, "utf-8", "surrogatepass")


CODECS: dict[str, Codec] = {
    "builtins:bytes": _Bytes(),
    "builtins:bytearray": _ByteArray(),
    "builtins:memoryview": _MemoryView(),
    "builtins:str": _Str(),
}
