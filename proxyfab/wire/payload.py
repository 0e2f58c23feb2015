"""Payload: one serialized object, and the bytes it is on every connector, in every file and on every socket.

    offset  size  what (little-endian)
         0     4  magic `PFAB`
         4     1  version of the format
         5     1  flags: 1 = the data checksum is set
         6     2  the oldest proxyfab (major, minor) that reads this version
         8     8  total length in bytes, header to the end of the last buffer
        16     8  XXH3-64 of the data region, 0 without the flag
        24     4  metadata length
        28     4  CRC-32 of bytes 0..27, the metadata and the zeros behind it
        32        metadata, msgpack: [codec, type, codec's own, [size of each buffer], origin host]
                  each buffer at the next multiple of 64; the data region begins with the first

Rules:
1. Bytes 0 to 7 mean the same in every version, so that an old reader can say what a new writer needs.
2. Offsets follow from sizes: buffers cannot overlap, and sizes must add up to the total exactly.
3. No byte of a payload is interpreted before its header, and its data where they carry a checksum, were verified.
4. Nothing is allocated by a length that was read, only by the bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any
from zlib import crc32

from xxhash import xxh3_64, xxh3_64_intdigest

from proxyfab.buffers import Buffer, Frames, byte_view
from proxyfab.errors import IntegrityError, SerializationError
from proxyfab.trace import here
from proxyfab.wire.layout import ALIGNMENT, PADS, aligned, laid_out, spans_of
from proxyfab.wire.streams import same_stream

VERSION = 1
MAX_METADATA = 16 << 20
MAX_BUFFERS = 1 << 16

_MAGIC = b"PFAB"
_MAJOR, _MINOR = 0, 1
_PICKLES = ("pickle", "cloudpickle")
_CHECKSUM = 1
_HEADER = struct.Struct("<4sBBBBQQI")
_CRC = struct.Struct("<I")
_FIXED = struct.Struct("<4sBBBBQQII")
_MARKED = _MAGIC + bytes([VERSION, _CHECKSUM, _MAJOR, _MINOR])
_START = _HEADER.size + _CRC.size
_SHORT = 512
_REMEMBERED = 256
_BEGINS = struct.Struct("<8sQQII")


class Payload:
    """An object as bytes, in pieces: what a codec needs to make it again, and its data. Immutable by convention.

    Args:
        codec: Name of what reads it (`"pickle"`, `"numpy"`, ...).
        type: The object's exact type, `"module:qualname"`.
        meta: What the codec needs besides the buffers; None, or anything that msgpack packs.
        buffers: The data; views, never copies.
        origin: The host that wrote it, `""` when that is this one or not known.

    Attributes:
        nbytes: Bytes in all buffers.
    """

    __slots__ = ("buffers", "codec", "meta", "nbytes", "origin", "type")

    def __init__(self, codec: str, type: str, meta: Any, buffers: Iterable[Buffer], origin: str = "") -> None:
        self.codec = codec
        self.type = type
        self.meta = meta
        views, nbytes = [], 0
        for buffer in buffers:
            view = memoryview(buffer) if buffer.__class__ is bytes else byte_view(buffer)
            views.append(view)
            nbytes += view.nbytes
        self.buffers: tuple[memoryview, ...] = tuple(views)
        self.nbytes = nbytes
        self.origin = origin

    def __repr__(self) -> str:
        return f"Payload({self.codec!r}, {self.type!r}, {len(self.buffers)} buffers, {self.nbytes} bytes)"

    def pack(self) -> tuple[Any, ...]:
        """Itself as a tuple of primitives, to be pickled inside a reference. Copies the data: for small objects."""
        origin = self.origin or here() if self.codec in _PICKLES else ""  # only a pickle can miss a class
        return (self.codec, self.type, self.meta, origin, *map(bytes, self.buffers))

    @classmethod
    def unpack(cls, packed: object) -> Payload:
        """The inverse of `pack`.

        Raises:
            IntegrityError: This is not what `pack` made.
        """
        if not isinstance(packed, tuple) or len(packed) < 4:
            raise IntegrityError("An object inside a reference is damaged: it is not a packed payload.")
        codec, type, meta, origin, *buffers = packed
        _check_names(codec, type, origin)
        views: list[memoryview] = []
        nbytes = 0
        for buffer in buffers:
            if buffer.__class__ is not bytes or len(views) == MAX_BUFFERS:
                raise IntegrityError("An object inside a reference is damaged: its buffers are not bytes.")
            views.append(memoryview(buffer))
            nbytes += len(buffer)
        return _payload(codec, type, meta, tuple(views), nbytes, origin)

    def detached(self) -> Payload:
        """The same over bytes of its own, so that nobody can change it. Copies the data: for small objects."""
        views = tuple([memoryview(bytes(view)) for view in self.buffers])
        return _payload(self.codec, self.type, self.meta, views, self.nbytes, self.origin)


def encode(payload: Payload, *, checksum: bool) -> Frames:
    """The wire form: a head, then each buffer at a 64-byte boundary. Copies no data.

    Args:
        payload: What `serialize.dumps` made.
        checksum: Whether to sign the data with XXH3-64. The head is always covered.

    Raises:
        SerializationError: The metadata cannot be packed.
    """
    buffers = payload.buffers
    name = (payload.codec, payload.type, payload.nbytes, payload.origin)
    known = _bodies.get(name) if payload.meta is None and len(buffers) == 1 else None
    length, body = known or _body(payload, name)
    views, total = laid_out(buffers, _START + len(body))
    flags, mark = (_CHECKSUM, _checksum(views)) if checksum else (0, 0)
    header = _HEADER.pack(_MAGIC, VERSION, flags, _MAJOR, _MINOR, total, mark, length)
    head = header + _CRC.pack(crc32(body, crc32(header))) + body
    return Frames.known((memoryview(head), *views), total)


_bodies: dict[tuple[str, str, int, str], tuple[int, bytes]] = {}
"""What stands in heads behind the header, and how much of it is metadata, by codec, type, bytes and origin, of objects
that need no more words: such of one kind and size come in streams."""


def _body(payload: Payload, name: tuple[str, str, int, str]) -> tuple[int, bytes]:
    metadata = _metadata(payload)
    made = len(metadata), metadata + PADS[-(_START + len(metadata)) % ALIGNMENT]
    if payload.meta is None and len(payload.buffers) == 1:
        if len(_bodies) >= _REMEMBERED:
            _bodies.clear()
        _bodies[name] = made
    return made


def _metadata(payload: Payload) -> bytes:
    codec, meta, buffers = payload.codec, payload.meta, payload.buffers
    sizes = [payload.nbytes] if len(buffers) == 1 else [view.nbytes for view in buffers]
    fields = [codec, payload.type, meta, sizes, payload.origin or here()]
    try:
        metadata = (_plain_packer() if meta is None else _packer())(fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise SerializationError(
            f"The codec {codec!r} describes a {payload.type} by something that msgpack cannot hold: {error}"
        ) from error
    if len(metadata) > MAX_METADATA or len(buffers) > MAX_BUFFERS:
        raise SerializationError(
            f"The codec {codec!r} needs {len(metadata)} bytes and {len(buffers)} buffers for a {payload.type}, above "
            f"the limits of {MAX_METADATA} and {MAX_BUFFERS}: join small buffers, and keep data out of the metadata."
        )
    return metadata


# msgpack brings datetime: 4 ms that a process which only passes references on, or carries small objects inside them,
# never pays.


@cache
def _plain_packer() -> Callable[[object], bytes]:
    """Twice as fast as `_packer`. Shared by threads, so only for exact strings, numbers and lists: no Python runs."""
    from msgpack import Packer

    return Packer().pack  # type: ignore[no-any-return]  # msgpack has no types


@cache
def _packer() -> Callable[[object], bytes]:
    from msgpack import packb

    return packb  # type: ignore[no-any-return]  # as above


@cache
def _unpacker() -> Callable[..., Any]:
    from msgpack import unpackb

    return unpackb  # type: ignore[no-any-return]  # as above


def _checksum(views: Sequence[memoryview]) -> int:
    if len(views) == 1:
        return xxh3_64_intdigest(views[0])
    state = xxh3_64()
    for view in views:
        state.update(view)
    return state.intdigest()


def decode(frames: Frames, *, verify: bool = True) -> Payload:
    """The payload inside `frames`, over views of them. Copies nothing when they are whole or cut as `encode` cut them.

    Args:
        frames: What a connector got.
        verify: Whether to check the data against their checksum, where they carry one. The head is always checked.

    Raises:
        IntegrityError: The bytes are truncated, damaged, not proxyfab's, or in a newer format.
    """
    if len(frames.views) == 1 and frames.nbytes >= _START:  # of what was seen before only the data are new
        # Spelt out, as is what leads here: a process that has just woken pays microseconds for each function.
        whole = frames.views[0]
        begins, total, mark, length, crc = _BEGINS.unpack_from(whole)
        if length <= _SHORT:
            start = _START + length + 63 & -ALIGNMENT
            head = whole[:start].tobytes()
            if begins == _MARKED:
                plan = _heads.get(head[_START:])
                if plan is not None and (
                    crc32(head[_START:], crc32(head[: _HEADER.size])) != crc
                    or (verify and not frames.mapped and xxh3_64_intdigest(whole[start:]) != mark)
                ):
                    plan = None
            else:
                plan = _heads.get(head)
            if plan is not None and plan[0] == total == frames.nbytes:
                payload = Payload.__new__(Payload)
                _, payload.codec, payload.type, payload.meta, spans, payload.nbytes, payload.origin = plan
                if len(spans) == 1:
                    payload.buffers = (whole[spans[0][0] : spans[0][1]],)
                else:
                    payload.buffers = tuple([whole[low:high] for low, high in spans])
                return payload
    return _decode(frames, verify)


def announced(head: Frames) -> tuple[str, str]:
    """Codec and type of an object of which only the beginning is here, as far as its head, which is verified.

    Raises:
        IntegrityError: The head is damaged, longer than what is here, or not proxyfab's.
    """
    view = head.join()
    length = _FIXED.unpack_from(view)[-2] if view.nbytes >= _START else 0
    start = aligned(_START + length)
    if view.nbytes < start or crc32(view[_START:start], crc32(view[: _HEADER.size])) != _CRC.unpack_from(view, 28)[0]:
        raise IntegrityError("The head of an object is damaged, cut off or not proxyfab's: it must be written again.")
    return tuple(_parsed(bytes(view[_START : _START + length]))[:2])


_heads: dict[bytes, tuple[int, str, str, Any, list[tuple[int, int]], int, str]] = {}
"""What heads say that were checked, behind their total length, by all their bytes or, where they carry a checksum of
their data, by those behind the header: objects of one kind and size come in streams. Nobody changes what was parsed,
so it may be shared."""


def _decode(frames: Frames, verify: bool) -> Payload:
    flags, total, mark, length, crc = _header(frames)
    start = _START + length + -(_START + length) % ALIGNMENT
    head = frames.views[0]
    if head.nbytes < start:
        head = frames.slice(0, start).join()  # a copy of the head, where it was cut apart
    if crc32(head[_START:start], crc32(head[: _HEADER.size])) != crc:
        raise IntegrityError("The head of an object is damaged (its CRC does not match): it must be written again.")
    whole = frames.views[0] if len(frames.views) == 1 else None
    if verify and flags & _CHECKSUM and not frames.mapped:
        data = (whole[start:],) if whole is not None else frames.slice(start, total - start).views
        if (xxh3_64_intdigest(data[0]) if whole is not None else _checksum(data)) != mark:
            raise IntegrityError("The data of an object are damaged (their checksum does not match): write it again.")
    metadata = bytes(head[_START : _START + length])
    codec, type, meta, spans, nbytes, origin = plan = _planned(metadata, total)
    if length <= _SHORT:
        if len(_heads) >= _REMEMBERED:
            _heads.clear()
        _heads[bytes(head[_START if flags & _CHECKSUM else 0 : start])] = total, *plan
    buffers = tuple([whole[low:high] for low, high in spans]) if whole is not None else _gathered(frames, spans)
    return _payload(codec, type, meta, buffers, nbytes, origin)


def _header(frames: Frames) -> tuple[int, int, int, int, int]:
    """Flags, total length, data checksum and metadata length, each within bounds, and what the head's CRC should be."""
    if frames.nbytes < _START:
        raise IntegrityError(f"{frames.nbytes} bytes are too few for an object: it is truncated, or not proxyfab's.")
    first = frames.views[0]
    if first.nbytes < _START:
        first = frames.slice(0, _START).join()
    magic, version, flags, major, minor, total, mark, length, crc = _FIXED.unpack_from(first)
    if magic != _MAGIC:
        raise IntegrityError(f"These bytes are not an object of proxyfab's: {_what_else(frames)}.")
    if version > VERSION:
        raise IntegrityError(
            f"This object is in wire format {version}, and this proxyfab reads up to {VERSION}: "
            f"upgrade to proxyfab {major}.{minor} or newer here, or the bytes are damaged."
        )
    if version != VERSION or flags & ~_CHECKSUM:
        raise IntegrityError(f"No proxyfab wrote an object of version {version} with flags {flags:#x}: it is damaged.")
    if total != frames.nbytes:
        raise IntegrityError(f"An object of {total} bytes came as {frames.nbytes}: it is truncated or damaged.")
    if length > MAX_METADATA or _START + length + -(_START + length) % ALIGNMENT > total:
        raise IntegrityError(f"The head of an object claims {length} bytes of metadata: it is damaged.")
    return flags, total, mark, length, crc


def _parsed(metadata: bytes) -> list[Any]:
    try:
        fields = _unpacker()(metadata, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"The metadata of an object cannot be read: {error}") from error
    if fields.__class__ is not list or len(fields) != 5:
        raise IntegrityError("The metadata of an object are not the five fields they should be.")
    codec, type, _, sizes, origin = fields
    _check_names(codec, type, origin)
    if sizes.__class__ is not list or len(sizes) > MAX_BUFFERS:
        raise IntegrityError("The buffer table of an object is not a list of sizes, or too long.")
    for size in sizes:
        if size.__class__ is not int or size < 0:
            raise IntegrityError("The buffer table of an object holds what is not a size.")
    return fields


def _planned(metadata: bytes, total: int) -> tuple[str, str, Any, list[tuple[int, int]], int, str]:
    """What the metadata of an object of `total` bytes say, with where each buffer lies and their bytes in all."""
    codec, type, meta, sizes, origin = _parsed(metadata)
    return codec, type, meta, spans_of(sizes, aligned(_START + len(metadata)), total), sum(sizes), origin


def _check_names(codec: object, type: object, origin: object) -> None:
    if not (codec.__class__ is type.__class__ is origin.__class__ is str):
        raise IntegrityError("The codec, type and origin of an object must be text: it is damaged.")


def _gathered(frames: Frames, spans: list[tuple[int, int]]) -> tuple[memoryview, ...]:
    """The buffers from several views: each one's own view where there is one, otherwise a slice, or at worst a join."""
    cut, position = {}, 0
    for view in frames.views:
        cut[position, position + view.nbytes] = view
        position += view.nbytes
    return tuple([cut[span] if span in cut else _slice(frames, *span) for span in spans])


def _slice(frames: Frames, low: int, high: int) -> memoryview:
    return frames.slice(low, high - low).join()


def _payload(
    codec: str, type: str, meta: Any, buffers: tuple[memoryview, ...], nbytes: int, origin: str = ""
) -> Payload:
    """A Payload from what is known to be byte views, without looking at each again."""
    payload = Payload.__new__(Payload)
    payload.codec = codec
    payload.type = type
    payload.meta = meta
    payload.buffers = buffers
    payload.nbytes = nbytes
    payload.origin = origin
    return payload


def digest(content: Payload | Frames) -> int:
    """A 64-bit digest of what an object is: codec, type, metadata and data. Equal for equal content, on any host.

    Two different digests may still mean equal objects (a set in another order); two equal ones mean equal content.
    """
    payload = decode(content, verify=False) if isinstance(content, Frames) else content
    views: Sequence[memoryview | bytes] = payload.buffers
    if payload.codec in _PICKLES and len(views) > 1:
        views = (same_stream(payload.buffers[0]), *payload.buffers[1:])
    sizes = [len(view) for view in views]
    state = xxh3_64(seed=xxh3_64_intdigest(_packer()((payload.codec, payload.type, payload.meta, sizes))))
    for view in views:
        state.update(view)
    return state.intdigest()


def _what_else(frames: Frames) -> str:
    """What bytes with another magic number are, as far as it can be told, and what to do."""
    from proxyfab.wire.packed import layer_of  # only here: most readers never meet any
    from proxyfab.wire.sealed import Header, is_sealed

    if is_sealed(frames):
        return f"they are sealed, so open the store with seal={Header.parse(frames).mode!r}"
    layer = layer_of(frames)
    if layer:
        return f"they were put through the layer {layer}+, so open the store as {layer}+<its URL>"
    return "they do not begin with its magic number"
