"""Containers and plain values as msgpack, for safe mode, with NumPy and Arrow objects anywhere inside.

What msgpack lacks stands in for itself: a list that begins with a mark is a tuple or a set; integers of any size, dates
and complex numbers are extension values; an object with a codec of its own is its description and its buffers. Nothing
recurses on the way in, so deep nesting cannot exhaust the stack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

from msgpack import ExtType, Packer, packb, unpackb

from proxyfab.buffers import Buffer, byte_view
from proxyfab.errors import SerializationError
from proxyfab.serialize.codec import Codec, Parts
from proxyfab.serialize.table import find, named

_MARK, _INT, _COMPLEX, _DATE, _DATETIME, _TIMEDELTA, _NESTED = range(1, 8)
_MADE_OF_LISTS: dict[bytes, Callable[[list[Any]], Any]] = {b"tuple": tuple, b"set": set, b"frozenset": frozenset}
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
_MARKS = {kind: ExtType(_MARK, kind.__name__.encode()) for kind in (tuple, set, frozenset)}
_BINARY = (b"\xc4", b"\xc5", b"\xc6")  # msgpack's codes of bytes, by the width of their length
_NOT_BYTES = frozenset({bytearray, memoryview})
_COMPLEX_PARTS = struct.Struct("<dd")
_SPAN_PARTS = struct.Struct("<iii")


class _Mark:
    """The first item of a list that stands for something else."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[list[Any]], Any]) -> None:
        self.make = make


class _Plain:
    name = "plain"
    safe = True

    def dump(self, obj: Any, /) -> Parts:
        buffers: list[Buffer] = []

        def extend(value: object) -> object:
            kind = type(value)
            if kind in _MARKS:
                return [_MARKS[kind], *value]  # type: ignore[misc]  # a tuple or a set
            write = _WRITERS.get(kind)
            return _nested(value, buffers) if write is None else write(value)

        try:
            packer = Packer(default=extend, strict_types=True, unicode_errors="surrogatepass")
            stream = packer.pack(obj)
        except (ValueError, RecursionError) as error:
            if isinstance(error, SerializationError):
                raise
            raise SerializationError(
                f"Safe mode cannot serialize this: it is too deep, or contains itself ({error})."
            ) from error
        if any(code in stream for code in _BINARY):  # otherwise there is certainly no bytearray: spare the walk
            _refuse_lossy(obj)
        return None, [stream, *buffers]

    def load(self, _: Any, buffers: tuple[memoryview, ...], /) -> object:
        stream, *views = buffers

        def extension(code: int, data: bytes) -> object:
            return _read_nested(data, views) if code == _NESTED else _READERS[code](data)

        return unpackb(
            stream, ext_hook=extension, list_hook=_read_list, strict_map_key=False, unicode_errors="surrogatepass"
        )


def _refuse_lossy(obj: object) -> None:
    """Msgpack writes a bytearray as bytes without asking; such a change of type must not pass in silence."""
    seen: set[int] = set()
    open_: list[Any] = [obj]
    while open_:
        part = open_.pop()
        kind = type(part)
        if kind in _NOT_BYTES:
            raise SerializationError(f"Safe mode keeps a {kind.__name__} only by itself; inside a container use bytes.")
        if kind in _CONTAINERS and id(part) not in seen:
            seen.add(id(part))
            kinds = set(map(type, part))
            if kind is dict:
                kinds.update(map(type, part.values()))
            if not kinds.isdisjoint(_CONTAINERS) or not kinds.isdisjoint(_NOT_BYTES):
                inside = [*part, *part.values()] if kind is dict else part
                open_.extend(each for each in inside if type(each) in _CONTAINERS or type(each) in _NOT_BYTES)


def _nested(value: object, buffers: list[Buffer]) -> ExtType:
    """An object with a codec of its own; its buffers join the payload's."""
    kind = type(value)
    codec, name = find(kind, "safe")
    parts = codec.dump(value) if codec is not None and not isinstance(codec, _Plain) else None
    if codec is None or parts is None:
        raise SerializationError(
            f"Safe mode cannot serialize a {name} inside a container. Convert it, register() a safe codec, or use the "
            f"default mode."
        )
    meta, data = parts
    first = len(buffers)
    buffers.extend(byte_view(each) for each in data)
    return ExtType(_NESTED, packb([codec.name, meta, first, len(buffers) - first]))


def _read_nested(data: bytes, views: list[memoryview]) -> object:
    name, meta, first, count = unpackb(data, strict_map_key=False)
    codec = named(name)
    if not codec.safe or isinstance(codec, _Plain) or first < 0 or count < 0:
        raise ValueError(f"the codec {name!r} cannot be inside a container of safe mode")
    return codec.load(meta, tuple(views[first : first + count]))


def _read_list(items: list[Any]) -> Any:
    return items[0].make(items[1:]) if items and items[0].__class__ is _Mark else items


def _write_int(value: int) -> ExtType:
    return ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


def _read_int(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _write_complex(value: complex) -> ExtType:
    return ExtType(_COMPLEX, _COMPLEX_PARTS.pack(value.real, value.imag))


def _write_date(value: date) -> ExtType:
    return ExtType(_DATE, value.isoformat().encode())


def _write_datetime(value: datetime) -> ExtType:
    zone = value.tzinfo
    if zone is None:
        place: Any = None
    elif type(zone) is timezone and zone == timezone(offset := zone.utcoffset(None)) and zone.tzname(None)[:3] == "UTC":
        place = offset // timedelta(microseconds=1)
    elif type(zone).__qualname__ == "ZoneInfo" and getattr(zone, "key", None):
        place = zone.key  # type: ignore[attr-defined]  # zoneinfo is imported only where somebody uses it
    else:
        raise SerializationError(
            f"Safe mode cannot serialize the time zone {zone!r}; use UTC, an offset or a ZoneInfo."
        )
    return ExtType(_DATETIME, packb([value.replace(tzinfo=None).isoformat(), value.fold, place]))


def _read_datetime(data: bytes) -> datetime:
    text, fold, place = unpackb(data)
    zone: tzinfo | None = None
    if isinstance(place, str):
        from zoneinfo import ZoneInfo

        zone = ZoneInfo(place)
    elif place is not None:
        zone = timezone(timedelta(microseconds=place)) if place else UTC
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _write_timedelta(value: timedelta) -> ExtType:
    return ExtType(_TIMEDELTA, _SPAN_PARTS.pack(value.days, value.seconds, value.microseconds))


_WRITERS: dict[type, Callable[[Any], ExtType]] = {
    int: _write_int,
    complex: _write_complex,
    date: _write_date,
    datetime: _write_datetime,
    timedelta: _write_timedelta,
}
_READERS: dict[int, Callable[[bytes], Any]] = {
    _MARK: lambda data: _Mark(_MADE_OF_LISTS[data]),
    _INT: _read_int,
    _COMPLEX: lambda data: complex(*_COMPLEX_PARTS.unpack(data)),
    _DATE: lambda data: date.fromisoformat(data.decode()),
    _DATETIME: _read_datetime,
    _TIMEDELTA: lambda data: timedelta(*_SPAN_PARTS.unpack(data)),
}
CODECS: dict[str, Codec] = {"plain": _Plain()}
