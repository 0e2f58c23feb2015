"""The form of packed bytes: what a compressing layer stores, in chunks that are unpacked one by one.

    offset  size  what (little-endian)
         0     4  magic `PFPK`
         4     1  version of the form
         5     1  flags: 1 = in chunks; otherwise the content follows the header as it is
         6     2  reserved, zero
         8     8  bytes of the content
        16     4  bytes of a chunk's content (the last may be shorter)
        20     4  number of chunks
        24     8  drawn for each object, so that two reads know whether they saw the same one
        32    12  name of the layer, padded with zeros
        44    16  reserved, zero
        60     4  CRC-32 of bytes 0 to 59 and the table
        64        in chunks: the table, 4 bytes a chunk: stored size; the highest bit says that it is stored as it is
                  then the chunks, one behind the other

Rules:
1. Content that does not compress is stored as it is, behind 64 bytes, so that it stays aligned and is read in place.
2. A stored chunk is at least 1/1024 of its content: whoever declares more than 1,024 times the bytes that are there is
   refused before memory is taken. What compresses better is filled up with zeros.
3. Sizes must add up to the bytes that are there. The content itself is checked by what stands inside it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError

HEADER = 64
CHUNK = 1 << 20
DENSEST = 1024
"""How many bytes of content a stored byte stands for at most."""
PAYS = 0.9
"""Packing is worth its time where the sample shrinks to this."""
_MAGIC = b"PFPK"
_VERSION = 1
_PACKED = 1
_AS_IT_IS = 1 << 31
_FIELDS = struct.Struct("<4sBBHQIIQ12s16x")
_CRC = struct.Struct("<I")
_SAMPLES, _WIDTH = 8, 4096


class Chunk(NamedTuple):
    """Where a chunk is stored, and what it holds."""

    offset: int
    """From the object's beginning."""
    stored: int
    nbytes: int
    """Of its content."""
    packed: bool


class Form(NamedTuple):
    """How an object was packed."""

    layer: str
    nbytes: int
    """Of the content."""
    nonce: int
    chunks: tuple[Chunk, ...] | None
    """None where the content is stored as it is."""

    @property
    def begin(self) -> int:
        """Where the content, or the first chunk, begins."""
        return HEADER if self.chunks is None else HEADER + 4 * len(self.chunks)


def places(nbytes: int) -> list[tuple[int, int]]:
    """Offsets and lengths of the sample that decides: the whole of what is small, eight places of what is not."""
    if nbytes <= _SAMPLES * _WIDTH * 2:
        return [(0, nbytes)]
    step = (nbytes - _WIDTH) // (_SAMPLES - 1)
    return [(number * step, _WIDTH) for number in range(_SAMPLES)]


def pays(before: int, after: int) -> bool:
    """Whether a sample of `before` bytes that shrank to `after` says that packing is worth its time."""
    return after + HEADER < before * PAYS


def cut(frames: Frames) -> list[memoryview]:
    """The content in chunks. Copies only those that lie across two of its pieces."""
    return [frames.slice(offset, CHUNK).join() for offset in range(0, frames.nbytes, CHUNK)]


def as_it_is(layer: str, frames: Frames, nonce: int) -> Frames:
    """Content that does not compress, behind a header."""
    return Frames([_header(layer, 0, frames.nbytes, 0, nonce, b""), *frames.views])


def assemble(layer: str, chunks: Sequence[memoryview], packed: Sequence[bytes | None], nonce: int) -> Frames:
    """Header, table and chunks; None where a chunk is stored as it is."""
    sizes, parts = [], []
    for chunk, small in zip(chunks, packed, strict=True):
        if small is None:
            sizes.append(chunk.nbytes | _AS_IT_IS)
            parts.append(chunk)
            continue
        filling = max(-(-chunk.nbytes // DENSEST) - len(small), 0)
        sizes.append(len(small) + filling)
        parts += [memoryview(small), memoryview(bytes(filling))]
    table = struct.pack(f"<{len(sizes)}I", *sizes)
    total = sum(chunk.nbytes for chunk in chunks)
    return Frames([_header(layer, _PACKED, total, len(sizes), nonce, table), table, *parts])


def _header(layer: str, flags: int, nbytes: int, count: int, nonce: int, table: bytes) -> bytes:
    body = _FIELDS.pack(_MAGIC, _VERSION, flags, 0, nbytes, CHUNK if count else 0, count, nonce, layer.encode())
    return body + _CRC.pack(crc32(table, crc32(body)))


def is_packed(frames: Frames) -> bool:
    """Whether these bytes begin like packed ones."""
    return frames.nbytes >= HEADER and frames.slice(0, 4).tobytes() == _MAGIC


def layer_of(frames: Frames) -> str:
    """The name of the layer that packed these bytes, as they claim; `""` where they are not packed."""
    if not is_packed(frames):
        return ""
    name: bytes = _FIELDS.unpack(frames.slice(0, HEADER - 4).join())[8]
    return name.rstrip(b"\0").decode("ascii", "replace")


def table_end(frames: Frames, layer: str) -> int:
    """How many bytes from the beginning on `parse` needs, told by the first 64."""
    return HEADER + 4 * _fields(frames, layer)[2]


def _fields(frames: Frames, layer: str) -> tuple[int, int, int, int, int]:
    """Flags, content's size, number of chunks, nonce and CRC; no more is believed of them than that they are there."""
    found = layer_of(frames)
    if not found:
        raise IntegrityError(
            f"These bytes were not put through the layer {layer}+: open the store without it, as they were put."
        )
    if found != layer:
        raise IntegrityError(
            f"These bytes were put through the layer {found}+ and not {layer}+: open the store as {found}+..."
        )
    head = frames.slice(0, HEADER).join()
    _, version, flags, _, nbytes, chunk, count, nonce, _ = _FIELDS.unpack(head[:-4])
    if version != _VERSION or chunk != (CHUNK if flags & _PACKED else 0):
        raise IntegrityError(
            f"These bytes are packed in version {version}, which this proxyfab does not read; upgrade."
        )
    if count != (-(-nbytes // CHUNK) if flags & _PACKED else 0):
        raise IntegrityError("The table of a packed object does not fit its size: it is damaged.")
    return flags, nbytes, count, nonce, _CRC.unpack(head[-4:])[0]


def parse(frames: Frames, total: int, layer: str) -> Form:
    """The form of an object of `total` bytes that begins with `frames`.

    Raises:
        IntegrityError: It is not packed by this layer, damaged, cut off, or declares more than can be there.
    """
    flags, nbytes, count, nonce, crc = _fields(frames, layer)
    if count > max(total - HEADER, 0) // 4 or nbytes > DENSEST * total:
        raise IntegrityError(
            f"A packed object of {total} bytes declares {nbytes}: it is damaged. Nothing was unpacked."
        )
    table = frames.slice(HEADER, 4 * count).tobytes()
    if len(table) < 4 * count or crc != crc32(table, crc32(frames.slice(0, HEADER - 4).join())):
        raise IntegrityError("The header of a packed object is damaged (checksum mismatch).")
    chunks = _chunks(struct.unpack(f"<{count}I", table), nbytes) if flags & _PACKED else None
    end = HEADER + nbytes if chunks is None else chunks[-1].offset + chunks[-1].stored if chunks else HEADER
    if end != total:
        raise IntegrityError(f"A packed object of {end} bytes came as {total}: it was cut or lengthened.")
    return Form(layer, nbytes, nonce, chunks)


def _chunks(sizes: Sequence[int], nbytes: int) -> tuple[Chunk, ...]:
    chunks, offset = [], HEADER + 4 * len(sizes)
    for number, size in enumerate(sizes):
        stored, content = size & ~_AS_IT_IS, min(CHUNK, nbytes - number * CHUNK)
        packed = not size & _AS_IT_IS
        if stored != content if not packed else not -(-content // DENSEST) <= stored <= content:
            raise IntegrityError(f"A chunk of {content} bytes is stored in {stored}: it is damaged.")
        chunks.append(Chunk(offset, stored, content, packed))
        offset += stored
    return tuple(chunks)
