"""The 64 bytes in front of every object in Redis, and the names of its keys there. Sans-IO.

Layout, little-endian, 64 bytes:

    0   8  magic `PFABREDS`
    8   2  version (1)
    10  6  reserved, zero
    16  8  length of the object
    24  8  created, seconds since the epoch (float)
    32  8  token: random, drawn by each put, so that a reader of several pieces knows that they belong together
    40  8  hash of the key's id (XXH3, 64 bits)
    48  8  bytes a chunk; 0 where the object follows the header, otherwise it lies in keys of its own
    56  4  reserved, zero
    60  4  CRC-32 of bytes 0 to 59

Keys: `proxyfab:<namespace>:o:{<id>}` is an object, `proxyfab:<namespace>:c:{<id>}:<token>:<number>` a chunk of one, in
the same slot of a cluster; `proxyfab.owner:<namespace>`, `proxyfab.owners` and `proxyfab.epoch` belong to nobody's
namespace. Promises: whatever bytes are given to `unpack`, the answer is a Header or IntegrityError. The object itself
is not covered: `wire.payload` checks it.
"""

from __future__ import annotations

import re
import struct
from os import urandom
from typing import NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.wire.slot import SIZE, check, closed

MAGIC = b"PFABREDS"
VERSION = 1
_FIELDS = struct.Struct("<8sHHIQdQQQI")
_INNER = struct.Struct("<16xQdQQQ8x")
_QUICK = struct.Struct("<16sQ16xQQ")
_START = struct.pack("<8sHHI", MAGIC, VERSION, 0, 0)
_new = tuple.__new__  # what a NamedTuple's own constructor calls, through one frame less

ROOT = b"proxyfab:"
EPOCH = b"proxyfab.epoch"
OWNERS = b"proxyfab.owners"
_OWNER = b"proxyfab.owner:"
_TOKEN = re.compile(rb"[0-9a-f]{16}")


class Header(NamedTuple):
    """What stands in front of an object."""

    length: int
    created: float
    token: int
    id_hash: int
    chunk: int = 0

    def pack(self) -> bytes:
        """The 64 bytes."""
        return pack_header(*self)

    @property
    def chunks(self) -> int:
        """Keys besides the first that the object lies in."""
        return -(-self.length // self.chunk) if self.chunk else 0

    @property
    def stored(self) -> int:
        """Bytes behind the header, in the same key."""
        return 0 if self.chunk else self.length


def pack_header(length: int, created: float, token: int, id_hash: int, chunk: int = 0) -> bytes:
    """`Header(...).pack()`, without making one."""
    body = _FIELDS.pack(MAGIC, VERSION, 0, 0, length, created, token, id_hash, chunk, 0)
    return closed(body)


def unpack(data: bytes | bytearray | memoryview, id_hash: int | None, total: int | None = None) -> Header:
    """Read a header.

    Args:
        data: At least 64 bytes; what follows is not looked at.
        id_hash: Of the key that was asked for; None where any will do.
        total: Bytes of the whole value, where they are known.

    Raises:
        IntegrityError: Too short, foreign, damaged, of a newer version, or of another key or length. The message
            starts with what is wrong and names no key: the caller knows it.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):  # a server may answer anything
        raise IntegrityError("what the server answered is no value")
    check(data, MAGIC, VERSION)
    length, created, token, hashed, chunk = _INNER.unpack_from(data)
    if id_hash is not None and hashed != id_hash:
        raise IntegrityError("it was written under another key")
    if total is not None and total != SIZE + (0 if chunk else length):
        raise IntegrityError(f"it should have {SIZE + length} bytes and has {total}")
    return _new(Header, (length, created, token, hashed, chunk))


def is_whole(data: bytes, id_hash: int) -> bool:
    """Whether this is an object of that key, header and all, in one piece: all that `unpack` would look at but time.

    Where the answer is no, `unpack` says what it is.
    """
    if len(data) < SIZE:
        return False
    start, length, hashed, chunk = _QUICK.unpack_from(data)
    return length == len(data) - SIZE and hashed == id_hash and not chunk and start == _START


def space_prefix(namespace: str) -> bytes:
    """What all keys of a namespace begin with; no character of it means anything in a pattern."""
    return b"%b%b:" % (ROOT, namespace.encode())


def object_name(prefix: bytes, id: str) -> bytes:
    """The key of an object. The braces make its chunks lie beside it in a cluster."""
    return b"%bo:{%b}" % (prefix, id.encode() if id.isalnum() else _quoted(id))


def drawn_token() -> int:
    """A token that nobody else has."""
    return int.from_bytes(urandom(8), "little")


def chunk_name(name: bytes, token: int, number: int) -> bytes:
    """The key of an object's chunk, from the object's own."""
    space, _, rest = name.partition(b":o:{")
    return b"%b:c:{%b:%016x:%d" % (space, rest, token, number)


def chunk_parts(name: bytes) -> tuple[bytes, int] | None:
    """The object's key and the token in a chunk's key; None for any other key."""
    space, mark, rest = name.partition(b":c:{")
    quoted, token, number = [*rest.rsplit(b":", 2), b"", b""][:3]
    if not mark or not number.isdigit() or not _TOKEN.fullmatch(token):
        return None
    return b"%b:o:{%b" % (space, quoted), int(token, 16)


def object_parts(name: bytes) -> tuple[str, str] | None:
    """Namespace and id in an object's key; None for any other key."""
    space, mark, rest = name[len(ROOT) :].partition(b":o:{")
    if not mark or not name.startswith(ROOT) or not rest.endswith(b"}"):
        return None
    try:
        return space.decode(), rest[:-1].replace(b"%7D", b"}").replace(b"%7B", b"{").replace(b"%25", b"%").decode()
    except UnicodeDecodeError:  # somebody else's, under a name like ours
        return None


def namespace_of(name: bytes) -> str:
    """The namespace that any key under the root belongs to."""
    return name[len(ROOT) :].partition(b":")[0].decode(errors="replace")


def owner_name(namespace: str) -> bytes:
    """The key that says whose an unnamed namespace is."""
    return _OWNER + namespace.encode()


def _quoted(id: str) -> bytes:
    return id.encode().replace(b"%", b"%25").replace(b"{", b"%7B").replace(b"}", b"%7D")
