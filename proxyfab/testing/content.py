"""Objects that know what they should be: bytes with their own length and digest inside, so that a torn one shows."""

from __future__ import annotations

import random

import xxhash

from proxyfab.buffers import Frames

_HEAD = 32


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


def content(frames: Frames | None) -> bytes | None:
    """The bytes of what a get returned."""
    return None if frames is None else frames.tobytes()
