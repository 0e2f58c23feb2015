"""Events that are written one by one, or as late as their frame, make the frame that would be made of all at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.errors import SerializationError
from proxyfab.wire.events import (
    FIELDS,
    NOTHING,
    Event,
    Frame,
    decode,
    encode,
    joined,
    pack_metadata,
    unpack_metadata,
    written,
)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 64, 4096])
def test_the_slow_way_and_the_fast_one_read_the_same(count: int) -> None:
    frame = Frame("p", 1, 2, 1 << 40, "//host", ["shm://", "file:///x"], [])
    packed = pack_metadata({"exposure": 0.5})
    events = [Event(0, bytes([i % 256]), i, "k", packed, {"type": "t"}) for i in range(count)]
    one_by_one = [written(0, event.data, event.time, "k", {"exposure": 0.5}, {"type": "t"}) for event in events]

    frame.events = []
    fast = decode(joined(frame, one_by_one, bytearray()))
    frame.events = events

    assert fast == decode(encode(frame))


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=70_000) | st.text(st.characters(max_codepoint=127), max_size=70_000),
            st.integers(0, 1 << 62),
            st.none() | st.text(st.characters(max_codepoint=127), max_size=300),
            st.none() | st.dictionaries(st.text(max_size=5), st.integers(0, 1 << 40) | st.text(max_size=5), max_size=3),
        ),
        max_size=5,
    ),
    st.binary(max_size=9),
)
def test_what_is_written_late_reads_the_same_and_takes_no_more_than_was_counted(
    events: list[tuple[bytes | str, int, str | None, dict[str, Any] | None]], former: bytes
) -> None:
    frame = Frame("p", 1, 2, 3, "//host", [], [])
    packed = [NOTHING if metadata is None else pack_metadata(metadata) for *_, metadata in events]
    early = [written(0, data, time, key, metadata, None) for data, time, key, metadata in events]
    late = [Event(0, *each[:3], metadata) for each, metadata in zip(events, packed, strict=True)]
    room = bytearray(former)

    assert joined(frame, late, room) == joined(frame, early, room)
    for each, (data, _, key, _), metadata in zip(early, events, packed, strict=True):
        assert len(memoryview(each)) <= len(data) + len(key or "") + len(memoryview(metadata)) + FIELDS


def test_numpys_numbers_are_plain_in_metadata() -> None:
    event = written(0, None, 0, None, {"n": np.int64(3), "f": np.float32(0.5)}, None)

    (found,) = decode(joined(Frame("p", 0, 0, 0, "", [], []), [event], bytearray())).events

    assert unpack_metadata(found.metadata) == {"n": 3, "f": 0.5}


@pytest.mark.parametrize("metadata", [{"x": object()}, {"x": np.arange(3)}, {"x": 1 << 70}])
def test_what_cannot_be_said(metadata: dict[str, object]) -> None:
    with pytest.raises(SerializationError, match="metadata are plain"):
        written(0, bytes(1000), 0, None, metadata, None)
