"""Events that are written one by one make the frame that would be made of all at once."""

from __future__ import annotations

import numpy as np
import pytest

from proxyfab.errors import SerializationError
from proxyfab.wire.events import Event, Frame, append, decode, encode, joined, pack_metadata, unpack_metadata


@pytest.mark.parametrize("count", [0, 1, 15, 16, 64, 4096])
def test_the_slow_way_and_the_fast_one_read_the_same(count: int) -> None:
    frame = Frame("p", 1, 2, 1 << 40, "//host", ["shm://", "file:///x"], [])
    packed = pack_metadata({"exposure": 0.5})
    events = [Event(0, bytes([i % 256]), i, "k", packed, {"type": "t"}) for i in range(count)]
    written = bytearray()
    for event in events:
        append(written, 0, event.data, event.time, "k", {"exposure": 0.5}, {"type": "t"})

    frame.events = []
    fast = decode(joined(frame, count, written))
    frame.events = events

    assert fast == decode(encode(frame))


def test_numpys_numbers_are_plain_in_metadata() -> None:
    written = bytearray()
    append(written, 0, None, 0, None, {"n": np.int64(3), "f": np.float32(0.5)}, None)

    (event,) = decode(joined(Frame("p", 0, 0, 0, "", [], []), 1, written)).events

    assert unpack_metadata(event.metadata) == {"n": 3, "f": 0.5}


@pytest.mark.parametrize("metadata", [{"x": object()}, {"x": np.arange(3)}, {"x": 1 << 70}])
def test_what_cannot_be_said_leaves_the_others_as_they_were(metadata: dict[str, object]) -> None:
    written = bytearray()
    append(written, 0, b"first", 0, None, None, None)
    before = bytes(written)

    with pytest.raises(SerializationError, match="metadata are plain"):
        append(written, 0, bytes(1000), 0, None, metadata, None)

    assert written == before
