"""What lies on a stream of a link: headings of 32 bytes, and behind each a segment or a letter. Sans-IO.

    heading   version, kind, length of what follows, and for a segment its transfer, offset and the object's size

Each segment says how large its object is, so that it may overtake the letter which announces it.

Rules:
1. Whatever 32 bytes come in, a Heading or an IntegrityError comes out.
2. What follows is bounded: a segment by its kind, a letter by LETTER.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.link.sending import SEGMENT, Segment
from proxyfab.wire.messages import LARGEST, MAX_BODY, MAX_HEADER

_HEADING = struct.Struct("!BBxxIQQQ")
HEADING = _HEADING.size
"""Bytes of a heading."""
LETTER = 4 + MAX_HEADER + MAX_BODY
"""Bytes of a letter at most."""
VERSION = 1
_SEGMENT, _LETTER = 1, 2


class Heading(NamedTuple):
    """What follows on a stream: a segment of an object of `size` bytes, or a letter of `length` bytes."""

    length: int
    segment: Segment | None = None
    size: int = 0


def heading_of_segment(segment: Segment, size: int) -> bytes:
    """What goes before the bytes of a segment."""
    return _HEADING.pack(VERSION, _SEGMENT, segment.length, segment.transfer, segment.offset, size)


def heading_of_letter(length: int) -> bytes:
    """What goes before the bytes of a letter."""
    return _HEADING.pack(VERSION, _LETTER, length, 0, 0, 0)


def read_heading(data: bytes | memoryview) -> Heading:
    """What 32 bytes announce.

    Raises:
        IntegrityError: They are no heading of this version.
    """
    if len(data) != HEADING:
        raise IntegrityError(f"A heading has {HEADING} bytes, not {len(data)}.")
    version, kind, length, transfer, offset, size = _HEADING.unpack(data)
    if version != VERSION:
        raise IntegrityError(
            f"A stream is of version {version}, and this proxyfab speaks {VERSION}: upgrade the older side."
        )
    if kind == _LETTER and length <= LETTER:
        return Heading(length)
    if kind == _SEGMENT and 0 < length <= SEGMENT and offset + length <= size <= LARGEST:
        return Heading(length, Segment(transfer, offset, length), size)
    raise IntegrityError(
        f"A stream carries a heading of kind {kind} for {length} bytes from {offset} of {size}, which is none."
    )
