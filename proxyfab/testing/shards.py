"""Targets: what says of an erasure-coded object where its shards are, and what each shard says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from zlib import crc32

from proxyfab.buffers import Frames
from proxyfab.erasure.codec import Code
from proxyfab.erasure.locator import Locator, Lying
from proxyfab.erasure.shard import BLAKE2B, HEADER, XXH3, Shape, content_of, digest_of, header_of, packed
from proxyfab.errors import IntegrityError

_ID = bytes(range(16))
_CONTENT = b"what must not be lost"


def shard_seeds() -> Iterable[bytes]:
    """Good inputs."""
    for k, m, kind in ((1, 0, XXH3), (4, 2, XXH3), (10, 4, BLAKE2B)):
        shape = Shape(_ID, k, m, len(_CONTENT), kind)
        last = Code(k, m, kernel="python").encode(_CONTENT)[-1]
        yield packed(shape, k + m - 1, last)[0].tobytes()


def read_shard(data: bytes) -> None:
    """A stored shard, with a header whose checksum holds: what opens holds as many bytes as it says, and no others."""
    if len(data) >= HEADER:
        with suppress(IntegrityError):
            _read(data[: HEADER - 4] + crc32(data[: HEADER - 4]).to_bytes(4, "little") + data[HEADER:])
    _read(data)


def _read(data: bytes) -> None:
    stored = Frames([data])
    shape, number, digest = header_of(stored)
    assert shape.sound
    assert number < shape.k + shape.m
    content = content_of(stored, shape, number)
    assert content.nbytes == shape.length == len(data) - HEADER
    assert digest_of(shape.digest, content) == digest
    assert packed(shape, number, content)[0].tobytes()[:40] == data[:40]


def locator_seeds() -> Iterable[bytes]:
    """Good inputs."""
    for k, m, where in ((1, 0, ""), (2, 1, "/names"), (4, 2, "a3f0:10.0.0.1:5555/~x")):
        shards = [Lying(bytes([number + 1] * 4), where, bytes(16)) for number in range(k + m - 1)]
        found = Locator(Shape(_ID, k, m, 1 << 30), bytes(16), (*shards, Lying(b"", "", bytes(16))))
        yield str(found).encode()


def read_locator(data: bytes) -> None:
    """The locator of a key: what is taken means the same when it is written again."""
    found = Locator.parse(data.decode("latin-1"))
    assert found.shape.sound
    assert len(found.shards) == found.shape.k + found.shape.m
    assert Locator.parse(str(found)) == found
