"""Objects that know what they should be: bytes with their own length and digest inside, so that a torn one shows."""

from __future__ import annotations

import random

import xxhash

from proxyfab.buffers import Frames
from proxyfab.store import Store

_HEAD = 32
_SHOWN = 4096


def plain(nbytes: int, seed: int = 0) -> bytes:
    """Bytes that do not compress and do not repeat, the same for the same arguments."""
    return random.Random(f"{nbytes}.{seed}").randbytes(nbytes)


def signed(nbytes: int, seed: int = 0) -> Frames:
    """Frames of about `nbytes` bytes (at least 32) in three pieces, with their length and digest in front."""
    body = memoryview(plain(max(nbytes - _HEAD, 0), seed))
    head = f"{body.nbytes:015d} {xxhash.xxh3_64_hexdigest(body)}".encode()
    third = body.nbytes // 3
    return Frames([head, body[:third], body[third:]])


def is_whole(frames: Frames) -> bool:
    """Whether these are the bytes of one `signed`, complete and unmixed."""
    data = frames.join()
    if data.nbytes < _HEAD:
        return False
    length, digest = bytes(data[:15]), bytes(data[16:_HEAD])
    body = data[_HEAD:]
    return length == b"%015d" % body.nbytes and digest.decode(errors="replace") == xxhash.xxh3_64_hexdigest(body)


def held(store: Store) -> int:
    """How many objects lie in a store that can be listed."""
    return sum(1 for _ in store.connector.scan())  # type: ignore[attr-defined, misc]  # only some can be listed


class Large:
    """Bytes too many to be told apart one by one: where two such differ, writing down how takes pytest minutes."""

    __slots__ = ("data",)
    __hash__ = None  # type: ignore[assignment]  # compared, and never a key

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return self.data == (other.data if isinstance(other, Large) else other)

    def __repr__(self) -> str:
        return f"<{len(self.data)} bytes from {self.data[:8]!r} on, digest {xxhash.xxh3_64_hexdigest(self.data)}>"


def content(frames: Frames | None) -> bytes | Large | None:
    """The bytes of what a get returned, to be compared with bytes."""
    if frames is None:
        return None
    data = frames.tobytes()
    return data if len(data) < _SHOWN else Large(data)
