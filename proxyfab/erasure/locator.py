"""Where an object's shards are, as text in its key: whoever has the key needs nobody to ask.

The text is base64 (for URLs, without padding) of a version, the object's shape and digest, and for each shard what
stands for its child, where the child says that it lies, and the digest of its content. All shards of an object have its
id in common, each at a child of its own. Sans-IO, and nothing in it is believed before it was checked.
"""

from __future__ import annotations

import struct
from base64 import b64decode, urlsafe_b64encode
from typing import NamedTuple

from proxyfab.erasure.shard import DIGEST, Shape
from proxyfab.errors import ConfigurationError

LABEL = 4
"""Bytes that stand for a child."""
_VERSION = 1
_HEAD = struct.Struct("<BBBQBBQ16s16s")
_ENTRY = struct.Struct(f"<{LABEL}s{DIGEST}sH")


class Lying(NamedTuple):
    """Where a shard lies."""

    child: bytes
    """What stands for the child; nothing for a shard that could not be stored."""
    where: str
    """What the child's key says besides the object's id."""
    digest: bytes
    """Of the shard's content; zeros where it is not known."""


class Locator(NamedTuple):
    """An object, and where each of its shards lies, by number."""

    shape: Shape
    digest: bytes
    """Of the digests of its shards."""
    shards: tuple[Lying, ...]

    def __str__(self) -> str:
        shape = self.shape
        code = (_VERSION, shape.k - 1, shape.m, shape.size, shape.digest)
        parts = [_HEAD.pack(*code, shape.kind, shape.total, shape.id, self.digest)]
        for lying in self.shards:
            where = lying.where.encode("utf-8", "surrogatepass")
            if len(where) > 0xFFFF:
                raise ConfigurationError(f"A child's key has {len(where)} bytes; a key holds 65,535 for each shard.")
            parts += [_ENTRY.pack(lying.child or bytes(LABEL), lying.digest, len(where)), where]
        return urlsafe_b64encode(b"".join(parts)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Locator:
        """The inverse of `str(locator)`.

        Raises:
            ConfigurationError: It is no locator.
        """
        try:
            return cls._read(b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True))
        except (struct.error, ValueError):
            raise ConfigurationError(
                "A key does not say where shards lie: it was cut, or is of another place."
            ) from None

    @classmethod
    def _read(cls, raw: bytes) -> Locator:
        version, k, m, size, how, kind, total, id, digest = _HEAD.unpack_from(raw)
        shape = Shape(id, k + 1, m, size, how, kind, total)
        if version != _VERSION or not shape.sound:
            raise ValueError(version)
        at, shards = _HEAD.size, []
        for _ in range(shape.k + shape.m):
            child, content, length = _ENTRY.unpack_from(raw, at)
            at += _ENTRY.size + length
            where = raw[at - length : at]
            if len(where) < length:
                raise ValueError(length)
            shards.append(Lying(child if any(child) else b"", where.decode("utf-8", "surrogatepass"), content))
        if at != len(raw):
            raise ValueError(at)
        return cls(shape, digest, tuple(shards))
