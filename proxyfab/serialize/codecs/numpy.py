"""NumPy: arrays and scalars whose bytes say everything; arrays of objects are left to pickle.

An array's own memory goes out; one that does not lie in a row (a slice, a broadcast) is copied once. What comes back
lies over the received bytes and is read-only.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from proxyfab.serialize.codec import Codec, Parts

_PLAIN = re.compile(r"[<>|=][biufcSUmMV]\d{1,12}(\[\d{0,12}[a-zA-Zμ]{1,4}(/\d{1,12})?\])?")
_VOID = np.dtype("V1").type
_NO_BUFFER = "mMV"
"""Kinds that the buffer protocol cannot describe: dates, and some records. Their bytes go out as bytes."""
_names: dict[Any, str] = {}
_dtypes: dict[str, Any] = {}
_REMEMBERED = 1024


def _describe(dtype: Any) -> Any:
    """A dtype as text, or as a dict when it has fields; None when only pickle keeps all of it."""
    if dtype.metadata is not None or dtype.hasobject:
        return None
    if dtype.names is not None:
        return _describe_fields(dtype)
    if dtype.subdtype is not None:
        base = _describe(dtype.subdtype[0])
        return None if base is None else [base, list(dtype.shape)]
    name = dtype.str
    if not _PLAIN.fullmatch(name) or np.dtype(name) != dtype or np.dtype(name).type is not dtype.type:
        return None  # bfloat16 of ml_dtypes, StringDType, ...
    return name


def _describe_fields(dtype: Any) -> Any:
    if dtype.type is not _VOID or not dtype.itemsize:
        return None  # np.record, whose elements have attributes; records of nothing
    fields = [dtype.fields[name] for name in dtype.names]
    formats = [_describe(field[0]) for field in fields]
    titles = [field[2] if len(field) > 2 else None for field in fields]
    if None in formats or any(title is not None and not isinstance(title, str) for title in titles):
        return None
    offsets = [field[1] for field in fields]
    return {
        "names": list(dtype.names),
        "formats": formats,
        "offsets": offsets,
        "titles": titles,
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _dtype(description: Any) -> Any:
    """The inverse of `_describe`; ValueError for what it cannot have made."""
    if isinstance(description, str):
        if not _PLAIN.fullmatch(description):
            raise ValueError(f"{description!r} is no type of plain numbers")
        return np.dtype(description)
    if isinstance(description, list):
        base, shape = description
        return np.dtype((_dtype(base), tuple(shape)))
    fields: Any = {name: description[name] for name in ("names", "offsets", "itemsize")}
    if any(title is not None for title in description["titles"]):
        fields["titles"] = description["titles"]
    fields["formats"] = [_dtype(each) for each in description["formats"]]
    return np.dtype(fields, align=bool(description["aligned"]))


def _view(array: Any) -> Any:
    """The array's memory, in its own order; copies once where it does not lie in a row."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    if array.dtype.kind in _NO_BUFFER:
        array = array.view(f"V{array.dtype.itemsize}")
    return array


def dump_array(array: Any) -> tuple[list[Any], Any] | None:
    """What an array is, and its memory; None when only pickle keeps all of it."""
    dtype = array.dtype
    name: Any = _names.get(dtype) if dtype.metadata is None else None
    if name is None:
        name = _describe(dtype)
        if name is None:
            return None
        if isinstance(name, str) and len(_names) < _REMEMBERED:
            _names[dtype] = name
    flags = array.flags
    fortran = flags.f_contiguous and not flags.c_contiguous
    if dtype.kind in _NO_BUFFER or not (fortran or flags.c_contiguous):
        array = _view(array)
    return [name, array.shape, fortran], array


def load_array(meta: Any, view: memoryview) -> Any:
    """The inverse of `dump_array`, over `view`; ValueError when the two do not fit."""
    name, shape, fortran = meta
    dtype = _dtypes.get(name) if name.__class__ is str else _dtype(name)
    if dtype is None:
        dtype = _dtype(name)
        if len(_dtypes) < _REMEMBERED:
            _dtypes[name] = dtype
    if math.prod(shape) * dtype.itemsize != view.nbytes or (shape and min(shape) < 0) or dtype.hasobject:
        raise ValueError(f"{view.nbytes} bytes are not an array of shape {shape} and type {dtype}")
    return np.ndarray(shape, dtype, view, 0, None, "F" if fortran else "C")


class _Array:
    name = "numpy"
    safe = True

    def dump(self, obj: Any, /) -> Parts | None:
        parts = dump_array(obj)
        return parts and (parts[0], (parts[1],))

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        return load_array(meta, view)


class _Scalar:
    name = "numpy.scalar"
    safe = True

    def dump(self, obj: Any, /) -> Parts | None:
        if isinstance(obj, np.str_):
            return "str", (obj.encode("utf-8", "surrogatepass"),)  # str() would drop zeros at the end
        if isinstance(obj, np.bytes_):
            return "bytes", (bytes(obj),)
        name = _describe(obj.dtype)
        return None if name is None else (name, (obj.tobytes(),))

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        if meta == "str":
            return np.str_(str(view, "utf-8", "surrogatepass"))
        if meta == "bytes":
            return np.bytes_(view)
        return load_array([meta, (), False], view)[()].copy()  # a record would look into the received bytes


CODECS: dict[str, Codec] = {"numpy": _Array(), "numpy.scalar": _Scalar()}
