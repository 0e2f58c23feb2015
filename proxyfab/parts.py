"""A part of a stored object: rows of an array, bytes of bytes-like objects, of which only those move.

Rules:
1. A part is what indexing the whole would give, in the type of the whole: `part(ref, slice(10, 20))` is `obj[10:20]`, a
   list of slices is these joined. Where rows do not lie one behind the other in the stored bytes (other types, Fortran
   order), the whole is fetched and indexed.
2. Where the connector reads ranges, the first `wire.parts.FIRST` bytes and the ranges move, nothing else; ranges with
   less than `NEAR` bytes between them move as one, since another question would take longer than these bytes. Where it
   does not, the whole moves and is cut. What is mapped (shared memory, local files) is cut where it lies.
3. The head is verified always, as is a whole that was fetched. The checksum of an object covers all its data, so a part
   is not checked by it; where a seal is, `get_range` authenticates what it reads. An object that is replaced between
   two reads is read anew, never mixed.
4. With a buffer given the bytes are copied into it, once: connectors receive into memory of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from proxyfab.abc import BaseConnector, Connector
from proxyfab.buffers import Buffer, Frames, byte_view
from proxyfab.errors import ConfigurationError, KeyNotFound
from proxyfab.keys import Key
from proxyfab.osio.memory import allocate as own_memory
from proxyfab.proxy import Kind, make
from proxyfab.ref import Ref, is_frozen, mode_of
from proxyfab.serialize import loads
from proxyfab.serialize.rows import Rows, Selection, ranges_of, rows_of
from proxyfab.trace import Link, here, span
from proxyfab.wire.parts import FIRST, head_of, length_of
from proxyfab.wire.payload import Payload, decode

NEAR = 16 << 10
_OWNERS = frozenset(("bytes", "bytearray"))
_TRIES = 3


class Shape(NamedTuple):
    """What will land in a buffer.

    Attributes:
        nbytes: Bytes.
        shape: Of an array its shape, of bytes their number.
        codec: Who wrote it (`"numpy"`, `"bytes"`, ...).
        meta: What it says besides; for NumPy `[dtype, shape, is in Fortran order]`.
    """

    nbytes: int
    shape: tuple[int, ...]
    codec: str
    meta: Any


Allocate: TypeAlias = "Callable[[Shape], Buffer]"
"""Answers with a writable buffer of at least so many bytes, in C order."""


def part(ref: Ref[Any], selection: Selection | None = None, *, allocate: Allocate | None = None) -> Any:
    """A part of what a reference names, or (selection None) all of it.

    Args:
        ref: The reference; `ref_of(proxy)` is a proxy's.
        selection: `slice(0, 100)`, `slice(None, None, 10)`, `range(0, 100, 10)`, or a list of such: bytes, or rows
            along the first axis of an array.
        allocate: Gives the buffer that the bytes shall lie in; the object is made over it, a memoryview for bytes.

    Raises:
        KeyNotFound: There is no such object.
        ConfigurationError: The object has no rows, the selection makes no sense, or the buffer is too small.
    """
    if ref.key is None:
        return _cut(ref._payload(None), selection, ref.url, allocate)
    store = ref.store
    transport, key = store._transport, ref.key
    kept = transport._kept(key)
    connector = transport._use()
    if kept is not None:
        return _cut(kept, selection, ref.url, allocate)
    if selection is None or not (connector.local or _has_ranges(connector)):
        return _cut(store.fetch(key), selection, ref.url, allocate)
    with span("get_range", Link(connector.place, here(), connector.scheme), key, 0, transport.meter) as step:
        reader = _Reader(connector, key, step)
        found = reader.mapped(selection) if connector.local else reader.rows(selection, allocate)
    if found is None:  # all of it, at once
        return _cut(store.fetch(key), selection, ref.url, allocate)
    if connector.local and allocate is not None:
        found = _landed(found, allocate)
    return _made(found, ref.url, allocate)


def _has_ranges(connector: Connector) -> bool:
    """Whether it reads ranges by itself, instead of by what every connector inherits, which reads the whole."""
    own = getattr(type(connector), "get_range", BaseConnector.get_range)
    return own is not BaseConnector.get_range


# -- of what is here -----------------------------------------------------------------------------------------------


def _cut(payload: Payload, selection: Selection | None, url: str, allocate: Allocate | None) -> Any:
    """A part of an object that is here."""
    if selection is not None:
        cut = _sliced(payload, selection)
        if cut is None:
            return _indexed(loads(payload, mode=mode_of(url)), selection)
        payload = cut
    return _made(payload if allocate is None else _landed(payload, allocate), url, allocate)


def _made(payload: Payload, url: str, allocate: Allocate | None) -> Any:
    """The object; of bytes in a buffer of the caller's a view, as bytes own their memory."""
    if allocate is not None and payload.codec in _OWNERS:
        return payload.buffers[0]
    return loads(payload, mode=mode_of(url))


def _sliced(payload: Payload, selection: Selection) -> Payload | None:
    """Rows of a payload, over views of it where they lie in a row; None where it has none."""
    rows = rows_of(payload.codec, payload.meta, [view.nbytes for view in payload.buffers])
    if rows is None:
        return None
    view = payload.buffers[0]
    ranges = ranges_of(selection, rows.total)
    count = sum(map(len, ranges))
    if len(ranges) == 1 and (ranges[0].step == 1 or count < 2):
        low = ranges[0].start * rows.nbytes
        data = view[low : low + count * rows.nbytes]
    else:
        data = own_memory(count * rows.nbytes)
        _gather(data, [(view, 0)] * len(ranges), ranges, rows.nbytes)
    return Payload(payload.codec, payload.type, rows.meta(count), [data], payload.origin)


def _gather(
    target: memoryview, sources: Sequence[tuple[memoryview, int]], ranges: Sequence[range], nbytes: int
) -> None:
    """Copy rows one behind the other; each source is some bytes and which one of the object's is its first."""
    at = 0
    for (view, begin), rows in zip(sources, ranges, strict=True):
        size = len(rows) * nbytes
        if rows.step == 1 or len(rows) < 2:
            low = rows.start * nbytes - begin
            target[at : at + size] = view[low : low + size]
        elif nbytes == 1:
            target[at : at + size] = view[rows.start - begin : rows[-1] - begin + 1 : rows.step]
        else:
            for row in rows:
                low = row * nbytes - begin
                target[at : at + nbytes] = view[low : low + nbytes]
                at += nbytes
            continue
        at += size


def _indexed(obj: Any, selection: Selection) -> Any:
    """Of an object that no codec of rows has written: what its own indexing says."""
    try:
        found = [obj[each.start : each.stop : each.step] for each in ranges_of(selection, len(obj))]
        if len(found) != 1 and type(obj).__name__ == "ndarray":
            import numpy as np  # whoever has an array has it

            return np.concatenate([obj[:0], *found])
        (only,) = found
        return only
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"A {type(obj).__qualname__} has no such part ({error}): select rows of arrays and bytes of bytes, or all."
        ) from error


def _landed(payload: Payload, allocate: Allocate) -> Payload:
    """The same over a buffer of the caller's. The one copy, as connectors receive into memory of their own."""
    rows = rows_of(payload.codec, payload.meta, [view.nbytes for view in payload.buffers])
    if len(payload.buffers) != 1:
        raise ConfigurationError(
            f"A {payload.type} is {len(payload.buffers)} pieces; only arrays and bytes land in a buffer."
        )
    shape = (payload.nbytes,) if rows is None else rows.shape(rows.total)
    target = _target(allocate, Shape(payload.nbytes, shape, payload.codec, payload.meta))
    target[:] = payload.buffers[0]
    return Payload(payload.codec, payload.type, payload.meta, [target], payload.origin)


def _target(allocate: Allocate, shape: Shape) -> memoryview:
    target = byte_view(allocate(shape))
    if target.readonly or target.nbytes < shape.nbytes:
        raise ConfigurationError(
            f"A part of {shape.nbytes} bytes does not fit into a buffer of {target.nbytes} bytes"
            f"{', which is read-only' if target.readonly else ''}: allocate a writable one of that size."
        )
    return target[: shape.nbytes]


# -- of what is elsewhere ------------------------------------------------------------------------------------------


class _Reader:
    """Reads parts of one object by ranges."""

    def __init__(self, connector: Connector, key: Key, step: span) -> None:
        self._connector: Any = connector
        self._key = key
        self._step = step

    def _read(self, offset: int, length: int) -> Frames:
        frames: Frames | None = self._connector.get_range(self._key, offset, length)
        if frames is None:
            raise KeyNotFound(
                f"Nothing lies under {self._key} in {self._connector.spec}: it was evicted, it expired, or its owner's "
                "process ended."
            )
        self._step.nbytes += frames.nbytes
        return frames

    def mapped(self, selection: Selection) -> Payload | None:
        """Where a get is a mapping: what is cut from it is all that is touched."""
        frames = self._connector.get(self._key)
        if frames is None:
            self._read(0, 0)  # which says so
            return None
        part = _sliced(decode(frames, verify=False), selection)
        self._step.nbytes += 0 if part is None else part.nbytes
        return part

    def rows(self, selection: Selection, allocate: Allocate | None) -> Payload | None:
        """By ranges; None where it has no rows that could be read so, or was replaced each time while it was read."""
        for _ in range(_TRIES):
            first = self._read(0, FIRST)
            start = length_of(first)
            if start > first.nbytes:
                first = self._read(0, start)
            head = head_of(first)
            if head.nbytes <= first.nbytes:  # it is all here
                return _sliced_into(decode(first), selection, allocate)
            rows = rows_of(head.codec, head.meta, [high - low for low, high in head.spans])
            if rows is None:
                return None
            ranges = ranges_of(selection, rows.total)
            count = sum(map(len, ranges))
            meta, size = rows.meta(count), count * rows.nbytes
            target = None
            if allocate is not None:
                target = _target(allocate, Shape(size, rows.shape(count), head.codec, meta))
            data = self._fetch(rows, ranges, head.spans[0][0], target, size)
            if data is not None and self._read(0, len(head.mark)).join() == head.mark:
                return Payload(head.codec, head.type, meta, [data], head.origin)
        return None

    def _fetch(
        self, rows: Rows, ranges: Sequence[range], base: int, target: memoryview | None, size: int
    ) -> memoryview | None:
        """The bytes of some rows, in memory of their own or in the target; None if the object has become shorter."""
        pieces = [piece for each in ranges for piece in _pieces(each, rows.nbytes)]
        groups = _grouped(pieces, rows.nbytes)
        if target is None and len(pieces) == 1 and pieces[0].step == 1:
            found = self._read(base + pieces[0].start * rows.nbytes, size).join()
            return found if found.nbytes == size else None
        target = own_memory(size) if target is None else target
        at = 0
        for group in groups:
            low, high = group[0].start * rows.nbytes, (group[-1][-1] + 1) * rows.nbytes
            found = self._read(base + low, high - low).join()
            if found.nbytes != high - low:
                return None
            end = at + sum(map(len, group)) * rows.nbytes
            _gather(target[at:end], [(found, low)] * len(group), group, rows.nbytes)
            at = end
        return target.toreadonly()


def _sliced_into(payload: Payload, selection: Selection, allocate: Allocate | None) -> Payload | None:
    part = _sliced(payload, selection)
    return part if part is None or allocate is None else _landed(part, allocate)


def _pieces(rows: range, nbytes: int) -> list[range]:
    """Rows that move together: a stride whose gaps are wide is so many pieces."""
    if not rows or not nbytes:
        return []
    if (rows.step - 1) * nbytes < NEAR:
        return [rows]
    return [range(row, row + 1) for row in rows]


def _grouped(pieces: Sequence[range], nbytes: int) -> list[list[range]]:
    """Pieces of which each is close behind the one before."""
    groups: list[list[range]] = []
    for piece in pieces:
        gap = (piece.start - groups[-1][-1][-1] - 1) * nbytes if groups else -1
        if 0 <= gap < NEAR:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


# -- in disguise ---------------------------------------------------------------------------------------------------


class Part:
    """A part of an object, fetched when it is asked for: what a proxy of it is made of. Immutable.

    Args:
        ref: Of the whole.
        selection: As `part` takes it.
        allocate: Likewise; does not travel: where this is sent to, the bytes lie in memory of the receiver's own.
    """

    __slots__ = ("allocate", "ref", "selection")

    def __init__(self, ref: Ref[Any], selection: Selection | None, allocate: Allocate | None = None) -> None:
        self.ref = ref
        self.selection = selection
        self.allocate = allocate

    def __call__(self) -> Any:
        try:
            return part(self.ref, self.selection, allocate=self.allocate)
        except KeyNotFound as error:
            story = getattr(self.ref, "story", None)  # of an object that somebody may have released
            if story is None:
                raise
            raise story(error) from error

    def proxy(self) -> Any:
        """The part in disguise: fetched at first use."""
        return make(self, self.ref.kind)

    def reduce_proxy(self, _kind: Kind | None, resolved: bool, target: Any) -> tuple[Any, ...]:
        """How its proxy pickles: as itself, or, where its target may have been changed, as that."""
        if resolved and not is_frozen(target):
            return itself, (target,)
        return load_part, (self.ref, self.selection)

    def __reduce__(self) -> tuple[Any, ...]:
        return Part, (self.ref, self.selection)

    def __repr__(self) -> str:
        return f"<Part {self.selection!r} of {self.ref!r}>"


def load_part(ref: Ref[Any], selection: Selection | None) -> Any:
    """Unpickle the proxy of a part."""
    return Part(ref, selection).proxy()


def itself(target: Any) -> Any:
    """Unpickle what was the proxy of a part and was perhaps changed."""
    return target
