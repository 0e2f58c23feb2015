"""The 64 bytes in front of every stored object: whose they are, how long, and until when. Sans-IO.

Layout, little-endian, 64 bytes, so that a payload behind it in a mapped file stays aligned to 64:

    0   8  magic `PFABSLOT`
    8   2  version (1)
    10  2  bytes of the key's id behind the payload (0: the file's name tells it)
    12  4  reserved, zero
    16  8  payload length
    24  8  created, seconds since the epoch (float)
    32  8  expires, seconds since the epoch (float); 0 for never
    40  8  hash of the key's id (XXH3, 64 bits)
    48  8  home: where the file returns to when the object is gone, if it is recycled (`osio.segments`); else 0
    56  4  reserved, zero
    60  4  CRC-32 of bytes 0 to 59

Promises: whatever bytes are given to `unpack`, the answer is a Slot or IntegrityError, and nothing is allocated from a
length found inside. Lengths are not believed before `unpack` was told how much there really is. The payload itself is
not covered: `wire.payload` checks it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from xxhash import xxh3_64_intdigest

from proxyfab.errors import IntegrityError

SIZE = 64
MAGIC = b"PFABSLOT"
VERSION = 1
_FIELDS = struct.Struct("<8sHHIQddQQI")
_CRC = struct.Struct("<I")
_ENDS = struct.Struct("<8sH50xI")
_ALL = struct.Struct("<8sHH4xQddQQ4xI")
_LARGEST = 1 << 62
_new = tuple.__new__  # what a NamedTuple's own constructor calls, through one frame less


class Slot(NamedTuple):
    """What the header of an object file says."""

    length: int
    """Payload bytes behind the header."""
    created: float
    """Seconds since the epoch."""
    expires: float
    """Seconds since the epoch; 0.0 for never."""
    id_hash: int
    """`id_hash(key.id)` of the key it was written under."""
    id_length: int = 0
    """Bytes of the key's id that follow the payload."""
    home: int = 0
    """Where the file returns to when the object is gone, as `osio.segments` counts; 0 for one that is not recycled."""

    def alive(self, now: float) -> bool:
        """Whether it has not expired at `now`, seconds since the epoch."""
        return not self.expires or now < self.expires

    @property
    def total(self) -> int:
        """Bytes a file needs to hold all this."""
        return SIZE + self.length + self.id_length


def id_hash(id: str) -> int:
    """64 bits of a key's id, to notice a file under the wrong name."""
    return xxh3_64_intdigest(id.encode())


def pack(slot: Slot) -> bytes:
    """The 64 bytes."""
    return header(*slot)


def header(length: int, created: float, expires: float, id_hash: int, id_length: int = 0, home: int = 0) -> bytes:
    """`pack(Slot(...))`, without making one."""
    body = _FIELDS.pack(MAGIC, VERSION, id_length, 0, length, created, expires, id_hash, home, 0)
    return body + _CRC.pack(crc32(body))  # `closed`, spelt out, as in `unpack`: each function costs a process that woke


def closed(body: bytes) -> bytes:
    """A header, from all of it but its checksum."""
    return body + _CRC.pack(crc32(body))


def check(header: bytes | bytearray | memoryview, magic: bytes, version: int) -> None:
    """Refuse what is no header of a kind: all of ours begin with magic and version and end with the checksum.

    Raises:
        IntegrityError: Too short, foreign, damaged or of a newer version.
    """
    if len(header) < SIZE:
        raise IntegrityError(f"it is cut off inside its header ({len(header)} of {SIZE} bytes)")
    begins, written, mark = _ENDS.unpack_from(header)
    if begins != magic:
        raise IntegrityError("it does not begin like an object of proxyfab")
    if crc32(header[: SIZE - 4]) != mark:
        raise IntegrityError("its header is damaged (checksum mismatch)")
    if written != version:
        raise IntegrityError(f"its header has version {written} and this proxyfab reads {version}; upgrade the reader")


def unpack(header: bytes | memoryview, *, available: int | None = None) -> Slot:
    """Read a header.

    Args:
        header: At least 64 bytes; what follows is not looked at.
        available: Bytes of the whole file. A header that promises more is refused.

    Raises:
        IntegrityError: Too short, foreign, damaged, of a newer version, or longer than the file. The message starts
            with what is wrong and names no file: the caller knows it.
    """
    if len(header) < SIZE:
        check(header, MAGIC, VERSION)
    begins, version, id_length, length, created, expires, hashed, home, mark = _ALL.unpack_from(header)
    if begins != MAGIC or version != VERSION or crc32(header[: SIZE - 4]) != mark:
        check(header, MAGIC, VERSION)
    total = SIZE + length + id_length
    if length > _LARGEST or (available is not None and total > available):
        raise IntegrityError(f"it is cut off: {total} bytes were written and {available} are there")
    return _new(Slot, (length, created, expires, hashed, id_length, home))
