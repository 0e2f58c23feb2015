"""A stored shard says what it is: a header of 64 bytes, then what `codec` made.

    offset  size  what (little-endian)
         0     4  magic `PFEC`
         4     1  version of the form
         5     1  k - 1
         6     1  m
         7     1  the shard's number
         8    16  the object's id
        24     8  the object's size in bytes
        32     1  which digest (`DIGESTS`)
        33     1  what it is a shard of (`KINDS`)
        34     6  bytes of the object of which this one lists the segments; zero for an object of one piece
        40    16  digest of the shard's content
        56     4  zero
        60     4  CRC-32 of the 60 bytes before

Rules:
1. A shard holds exactly as many bytes as follow from size and k.
2. Who reads compares it with what he looks for: another object's shard, or another shard of the object, is as bad as a
   broken one. Each is an IntegrityError, and to who reads a shard that is missing.
3. Whoever has the content's digest from elsewhere compares that, too: then nobody who keeps shards can forge one, if it
   is blake2b.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from proxyfab.buffers import Frames, GivenFrames
from proxyfab.erasure.field import MOST
from proxyfab.errors import IntegrityError

HEADER = 64
DIGEST = 16
XXH3, BLAKE2B = 1, 2
DIGESTS = {XXH3: "xxh3", BLAKE2B: "blake2b"}
DRAWN, NAMED, SEGMENT = 0, 1, 2
KINDS = {DRAWN: "", NAMED: ".n", SEGMENT: ".s"}
"""What an object's shards are called behind its id: of one with a drawn key, of a named one's content, of a segment."""
LARGEST = (1 << 48) - 1
"""Bytes of the largest object; more than any place holds."""
_MAGIC = b"PFEC"
_VERSION = 1
_FORM = struct.Struct("<4sBBBB16sQBB6s16s4x")
_CHECK = struct.Struct("<I")


class Shape(NamedTuple):
    """What all shards of an object have in common."""

    id: bytes
    """16 bytes that no other object has."""
    k: int
    m: int
    size: int
    """Bytes of the object."""
    digest: int = XXH3
    """The kind of digest."""
    kind: int = DRAWN
    total: int = 0
    """Bytes of the object, where this is a list of its segments."""

    @property
    def nbytes(self) -> int:
        """Bytes of the object that is meant."""
        return self.total or self.size

    @property
    def name(self) -> str:
        """What each of its shards is called by the child that has it."""
        return self.id.hex() + KINDS[self.kind]

    @property
    def length(self) -> int:
        """Bytes of each shard's content."""
        return -(-self.size // self.k)

    @property
    def sound(self) -> bool:
        """Whether there can be such an object."""
        fits = self.k >= 1 and self.m >= 0 and self.k + self.m <= MOST and 0 <= self.size <= LARGEST
        known = self.kind in KINDS and 0 <= self.total <= LARGEST
        return fits and known and len(self.id) == DIGEST and self.digest in DIGESTS


class Shard(NamedTuple):
    """What a shard's header says of it."""

    shape: Shape
    number: int
    digest: bytes
    """Of its content."""


def digest_of(kind: int, content: Frames) -> bytes:
    """The digest of a kind: 16 bytes."""
    if kind == BLAKE2B:
        from hashlib import blake2b

        state = blake2b(digest_size=DIGEST)
        for view in content:
            state.update(view)
        return state.digest()
    from xxhash import xxh3_128

    quick = xxh3_128()
    for view in content:
        quick.update(view)
    return quick.digest()


def packed(shape: Shape, index: int, content: Frames) -> tuple[Frames, bytes]:
    """A shard as it is stored, and the digest of its content."""
    digest = digest_of(shape.digest, content)
    total = shape.total.to_bytes(6, "little")
    code = (_MAGIC, _VERSION, shape.k - 1, shape.m, index)
    head = _FORM.pack(*code, shape.id, shape.size, shape.digest, shape.kind, total, digest)
    kind = GivenFrames if content.given else Frames
    return kind((head + _CHECK.pack(crc32(head)), *content)), digest


def header_of(stored: Frames, *, whole: bool = True) -> Shard:
    """What a stored shard says of itself.

    Args:
        stored: The shard, or at least its first bytes.
        whole: Whether it is all of the shard.

    Raises:
        IntegrityError: It is no shard, its header is broken, or it does not hold as many bytes as it should.
    """
    head = stored.slice(0, HEADER).tobytes()
    if len(head) < HEADER or head[:4] != _MAGIC:
        raise IntegrityError("What lies there is no shard of an erasure-coded object.")
    if _CHECK.unpack(head[-4:])[0] != crc32(head[:-4]):
        raise IntegrityError("A shard's header is broken: its checksum is another.")
    _, version, k, m, index, id, size, how, kind, total, digest = _FORM.unpack(head[:-4])
    if version != _VERSION:
        raise IntegrityError(f"A shard has the form {version}, and this version of proxyfab reads {_VERSION}; upgrade.")
    shape = Shape(id, k + 1, m, size, how, kind, int.from_bytes(total, "little"))
    if not shape.sound or index >= k + 1 + m:
        raise IntegrityError("A shard's header makes no sense, although its checksum holds.")
    if whole and stored.nbytes != HEADER + shape.length:
        raise IntegrityError(f"Shard {index} holds {stored.nbytes - HEADER} bytes and not {shape.length}: it was cut.")
    return Shard(shape, index, digest)


def content_of(stored: Frames, shape: Shape, index: int, digest: bytes | None = None) -> Frames:
    """The content of a stored shard, which is the one that is asked for, and whole.

    Args:
        stored: What lies there.
        shape: The object's.
        index: The shard's number.
        digest: What is known of its content, if anything is.

    Raises:
        IntegrityError: It is another, or broken.
    """
    found = header_of(stored)
    if found.shape != shape or found.number != index:
        raise IntegrityError(f"What lies where shard {index} should is a shard of another object, or another shard.")
    content = stored.slice(HEADER, shape.length)
    if digest_of(shape.digest, content) != found.digest or (digest is not None and digest != found.digest):
        raise IntegrityError(f"The content of shard {index} is not what was written.")
    return content
