"""What the beginning of an object says of the rest: codec, metadata and where each buffer lies. For who reads parts.

Promises: the head is verified (its CRC) before anything of it is believed, and nothing is allocated by a length that
was read. Leaves to the reader: the checksum of the data covers all of them, so a part is not checked against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError
from proxyfab.wire import payload as whole
from proxyfab.wire.layout import aligned

FIRST = 4096
"""Bytes to begin with: the head of nearly everything."""


class Head(NamedTuple):
    """What an object is.

    Attributes:
        codec: What reads it.
        type: Its exact type, `"module:qualname"`.
        meta: The codec's own.
        spans: Where each buffer begins and ends, counted from the object's first byte.
        nbytes: Bytes of the whole object, head included.
        origin: The host that wrote it.
        mark: The bytes of the head: another object under the same key has others, as far as a checksum tells.
    """

    codec: str
    type: str
    meta: Any
    spans: list[tuple[int, int]]
    nbytes: int
    origin: str
    mark: bytes


def length_of(first: Frames) -> int:
    """Bytes of the head of an object of which the first ones are here.

    Raises:
        IntegrityError: They are not the beginning of an object that this proxyfab reads.
    """
    if first.nbytes < whole._START:
        raise IntegrityError(f"{first.nbytes} bytes are too few for an object: it is truncated, or not proxyfab's.")
    fixed = first.slice(0, whole._START).join()
    total = whole._FIXED.unpack_from(fixed)[5]
    # Checked as if all of it were here; of the views none is touched behind the fixed part.
    length = whole._header(Frames.known((fixed,), total))[3]
    return aligned(whole._START + length)


def head_of(first: Frames) -> Head:
    """The head in the first bytes of an object, all of which have to be here.

    Raises:
        IntegrityError: It is damaged, or cut off.
    """
    start = length_of(first)
    head = bytes(first.slice(0, start).join())
    if len(head) < start or crc32(head[whole._START :], crc32(head[: whole._HEADER.size])) != _crc(head):
        raise IntegrityError("The head of an object is damaged (its CRC does not match): it must be written again.")
    total, length = whole._FIXED.unpack_from(head)[5], whole._FIXED.unpack_from(head)[7]
    codec, type, meta, spans, _, origin = whole._planned(head[whole._START : whole._START + length], total)
    return Head(codec, type, meta, spans, total, origin, head)


def _crc(head: bytes) -> int:
    return int.from_bytes(head[whole._HEADER.size : whole._START], "little")
