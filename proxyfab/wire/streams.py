"""What counts as the same pickle stream, so that an object read and sent on unchanged keeps its digest.

A stream depends on two things that are not content: an out-of-band buffer is marked read-only when its array is (arrays
come back read-only), and frames begin where the pickler's buffer was full. Both are taken out, exactly where the format
(PEP 574, PEP 3154) puts them; nothing is interpreted.
"""

from __future__ import annotations

_FRAME = 0x95
_BEHIND_FRAMES = {0x42: 4, 0x58: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}
"""Opcodes of large bytes, str and bytearray, which stand outside frames -> size of their length."""
_NEXT_BUFFER = b"\x97"
_READONLY_BUFFER = b"\x98"


def same_stream(stream: memoryview) -> bytes:
    """A protocol 5 pickle without frames and without read-only marks. A copy: only made where contents are compared."""
    pieces, position = [stream[:2]], 2
    while position < stream.nbytes:
        opcode = stream[position]
        width = 8 if opcode == _FRAME else _BEHIND_FRAMES.get(opcode)
        if width is None:
            pieces.append(stream[position:])
            break
        data = position + 1 + width
        end = data + int.from_bytes(stream[position + 1 : data], "little")
        pieces.append(stream[data if opcode == _FRAME else position : end])
        position = end
    return b"".join(pieces).replace(_NEXT_BUFFER + _READONLY_BUFFER, _NEXT_BUFFER)
