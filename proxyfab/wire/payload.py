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
from collections.abc import Iterable
from typing import Any, cast
from zlib import crc32

from msgpack import packb, unpackb
from xxhash import xxh3_64, xxh3_64_intdigest

from proxyfab.buffers import Buffer, Frames, byte_view
from proxyfab.errors import IntegrityError, SerializationError
from proxyfab.trace import here

VERSION = 1
ALIGNMENT = 64
MAX_METADATA = 16 << 20
MAX_BUFFERS = 1 << 16

_MAGIC = b"PFAB"
_NEEDS = (0, 1)
_CHECKSUM = 1
_HEADER = struct.Struct("<4sBBBBQQI")
_CRC = struct.Struct("<I")
_START = _HEADER.size + _CRC.size
_PADS = tuple(memoryview(bytes(size)) for size in range(ALIGNMENT))


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
        self.buffers: tuple[memoryview, ...] = tuple([byte_view(buffer) for buffer in buffers])
        self.nbytes = sum([view.nbytes for view in self.buffers])
        self.origin = origin

    def __repr__(self) -> str:
        return f"Payload({self.codec!r}, {self.type!r}, {len(self.buffers)} buffers, {self.nbytes} bytes)"

    def pack(self) -> tuple[Any, ...]:
        """Itself as a tuple of primitives, to be pickled inside a reference. Copies the data: for small objects."""
        return (self.codec, self.type, self.meta, self.origin or here(), *map(bytes, self.buffers))

    @classmethod
    def unpack(cls, packed: tuple[Any, ...]) -> Payload:
        """The inverse of `pack`.

        Raises:
            IntegrityError: This is not what `pack` made.
        """
        if not isinstance(packed, tuple) or len(packed) < 4:
            raise IntegrityError("An object inside a reference is damaged: it is not a packed payload.")
        codec, type, meta, origin, *buffers = packed
        _check_names(codec, type, origin)
        if not all([isinstance(buffer, bytes) for buffer in buffers]):
            raise IntegrityError("An object inside a reference is damaged: its buffers are not bytes.")
        return cls(codec, type, meta, buffers, origin)

    def detached(self) -> Payload:
        """The same over bytes of its own, so that nobody can change it. Copies the data: for small objects."""
        return Payload(self.codec, self.type, self.meta, [bytes(view) for view in self.buffers], self.origin)


def encode(payload: Payload, *, checksum: bool) -> Frames:
    """The wire form: a head, then each buffer at a 64-byte boundary. Copies no data.

    Args:
        payload: What `serialize.dumps` made.
        checksum: Whether to sign the data with XXH3-64 (25 GB/s in cache). The head is always covered.

    Raises:
        SerializationError: The metadata cannot be packed.
    """
    metadata = _metadata(payload)
    used = _START + len(metadata)
    pad = bytes(-used % ALIGNMENT)
    views, total = _laid_out(payload.buffers, used + len(pad))
    flags, mark = (_CHECKSUM, _checksum(views)) if checksum else (0, 0)
    header = _HEADER.pack(_MAGIC, VERSION, flags, *_NEEDS, total, mark, len(metadata))
    crc = crc32(pad, crc32(metadata, crc32(header)))
    return Frames((b"".join((header, _CRC.pack(crc), metadata, pad)), *views))


def _metadata(payload: Payload) -> bytes:
    sizes = [view.nbytes for view in payload.buffers]
    try:
        metadata = cast(bytes, packb((payload.codec, payload.type, payload.meta, sizes, payload.origin or here())))
    except (TypeError, ValueError, OverflowError) as error:
        raise SerializationError(
            f"The codec {payload.codec!r} describes a {payload.type} by something that msgpack cannot hold: {error}"
        ) from error
    if len(metadata) > MAX_METADATA:
        raise SerializationError(
            f"The codec {payload.codec!r} needs {len(metadata)} bytes to describe a {payload.type}, above the limit of "
            f"{MAX_METADATA}: keep data in buffers."
        )
    return metadata


def _laid_out(buffers: tuple[memoryview, ...], start: int) -> tuple[list[memoryview], int]:
    """The buffers with the pads between them, and where the last one ends."""
    views: list[memoryview] = []
    end = start
    for view in buffers:
        pad = -end % ALIGNMENT
        if pad:
            views.append(_PADS[pad])
        views.append(view)
        end += pad + view.nbytes
    return views, end


def _checksum(views: Iterable[memoryview]) -> int:
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
    total, mark, length = _header(frames)
    start = _START + length + -(_START + length) % ALIGNMENT
    head = _piece(frames, 0, start)
    expected = _CRC.unpack_from(head, _HEADER.size)[0]
    if crc32(head[_START:], crc32(head[: _HEADER.size])) != expected:
        raise IntegrityError("The head of an object is damaged (its CRC does not match): it must be written again.")
    if verify and mark is not None and _checksum(frames.slice(start, total - start).views) != mark:
        raise IntegrityError("The data of an object are damaged (their checksum does not match): write it again.")
    codec, type, meta, sizes, origin = _parsed(head[_START : _START + length])
    return Payload(codec, type, meta, _buffers(frames, start, sizes), origin)


def _header(frames: Frames) -> tuple[int, int | None, int]:
    """Total length, data checksum (None when there is none) and metadata length; each within bounds."""
    if frames.nbytes < _START:
        raise IntegrityError(f"{frames.nbytes} bytes are too few for an object: it is truncated, or not proxyfab's.")
    magic, version, flags, major, minor, total, mark, length = _HEADER.unpack_from(_piece(frames, 0, _START))
    if magic != _MAGIC:
        raise IntegrityError("These bytes are not an object of proxyfab's: they do not begin with its magic number.")
    if version > VERSION:
        raise IntegrityError(
            f"This object is in wire format {version}, and this proxyfab reads up to {VERSION}: "
            f"upgrade to proxyfab {major}.{minor} or newer here, or the bytes are damaged."
        )
    if version != VERSION or flags & ~_CHECKSUM:
        raise IntegrityError(f"No proxyfab wrote an object of version {version} with flags {flags:#x}: it is damaged.")
    if total != frames.nbytes:
        raise IntegrityError(f"An object of {total} bytes came as {frames.nbytes}: it is truncated or damaged.")
    start = _START + length + -(_START + length) % ALIGNMENT
    if length > MAX_METADATA or start > total:
        raise IntegrityError(f"The head of an object claims {length} bytes of metadata: it is damaged.")
    return total, mark if flags & _CHECKSUM else None, length


def _piece(frames: Frames, offset: int, length: int) -> memoryview:
    """Some of the bytes in one view; a copy only where they were cut apart."""
    first = frames.views[0] if frames.views else _PADS[0]
    if offset + length <= first.nbytes:
        return first[offset : offset + length]
    return frames.slice(offset, length).join()


def _parsed(metadata: memoryview) -> list[Any]:
    try:
        fields = unpackb(metadata, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"The metadata of an object cannot be read: {error}") from error
    if not isinstance(fields, list) or len(fields) != 5:
        raise IntegrityError("The metadata of an object are not the five fields they should be.")
    codec, type, _, sizes, origin = fields
    _check_names(codec, type, origin)
    if not isinstance(sizes, list) or not all([size.__class__ is int and size >= 0 for size in sizes]):
        raise IntegrityError("The buffer table of an object is not a list of sizes.")
    return fields


def _check_names(*names: object) -> None:
    for name in names:
        if not isinstance(name, str):
            raise IntegrityError("The codec, type and origin of an object must be text: it is damaged.")


def _buffers(frames: Frames, start: int, sizes: list[int]) -> list[memoryview]:
    """A view of each buffer; the table must end where the bytes end."""
    offsets, end = [], start
    for size in sizes:
        end += -end % ALIGNMENT
        offsets.append(end)
        end += size
    if end != frames.nbytes:
        raise IntegrityError(f"The buffer table of an object ends at {end} of {frames.nbytes} bytes: it is damaged.")
    if len(frames.views) == 1:
        whole = frames.views[0]
        return [whole[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]
    return _gathered(frames, offsets, sizes)


def _gathered(frames: Frames, offsets: list[int], sizes: list[int]) -> list[memoryview]:
    """The same from several views: each buffer's own view where there is one, otherwise a slice or a join."""
    starts, position = {}, 0
    for view in frames.views:
        starts[position, view.nbytes] = view
        position += view.nbytes
    return [
        starts[offset, size] if (offset, size) in starts else frames.slice(offset, size).join()
        for offset, size in zip(offsets, sizes, strict=True)
    ]


def digest(content: Payload | Frames) -> int:
    """A 64-bit digest of what an object is: codec, type, metadata, and the data. Equal for equal bytes, on any host."""
    payload = decode(content, verify=False) if isinstance(content, Frames) else content
    sizes = [view.nbytes for view in payload.buffers]
    seed = xxh3_64_intdigest(packb((payload.codec, payload.type, payload.meta, sizes)))
    state = xxh3_64(seed=seed)
    for view in payload.buffers:
        state.update(view)
    return state.intdigest()
