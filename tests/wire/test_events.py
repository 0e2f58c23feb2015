"""Frames of events: they come back as they were, and of any bytes comes a frame or an IntegrityError."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.errors import IntegrityError, SerializationError
from proxyfab.testing.framing import golden
from proxyfab.wire import events
from proxyfab.wire.events import (
    END,
    MAX_EVENTS,
    MAX_FRAME,
    NOTHING,
    OBJECT,
    VALUE,
    VERSION,
    Event,
    Frame,
    decode,
    encode,
    is_plain,
    joined,
    pack_metadata,
    unpack_metadata,
    written,
)

GOLDEN = Path(__file__).parents[1] / "golden" / f"events-v{VERSION}.bin"
START = b"\xefE\x01"

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
nested = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
times = st.integers(0, 2**62)
made = st.builds(
    Event,
    st.just(VALUE),
    plain,
    times,
    st.none() | st.text(),
    st.just(NOTHING) | st.dictionaries(st.text(), nested, max_size=4).map(pack_metadata),
    st.none() | st.dictionaries(st.text(), st.text(), max_size=3),
)
frames = st.builds(
    Frame,
    st.text(),
    st.integers(0, 2**40),
    st.integers(0, 1023),
    st.integers(0, 2**60),
    st.text(),
    st.lists(st.text(), max_size=3),
    st.lists(made, max_size=6),
)


def packed(*fields: object) -> bytes:
    return START + msgpack.packb(list(fields))


def test_the_golden_frame_is_read_and_written() -> None:
    """A file that stands for frames that lie in somebody's broker is never written again."""
    assert encode(golden()) == GOLDEN.read_bytes()
    assert encode(decode(GOLDEN.read_bytes())) == GOLDEN.read_bytes()
    found = decode(GOLDEN.read_bytes())
    assert found.id == f"camera-1-2-3-{1 << 40}"
    assert [found.id_of(0), found.id_of(1)] == ["own", f"camera-1-2-3-{(1 << 40) + 1}"]
    assert unpack_metadata(found.events[0].metadata) == {"exposure": 0.2, "tags": ["a", None, {"b": b"\0"}], "n": -1}


@given(frames)
def test_a_frame_comes_back(frame: Frame) -> None:
    body = encode(frame)

    assert encode(decode(body)) == body
    assert encode(decode(memoryview(body))) == encode(decode(bytearray(body))) == body


@given(frames)
def test_events_written_one_by_one_are_the_same_frame(frame: Frame) -> None:
    events = []
    for event in frame.events:
        metadata = None if event.metadata == NOTHING else unpack_metadata(event.metadata)
        events.append(written(event.kind, event.data, event.time, event.key, metadata, event.attributes))
    body = joined(frame, events, bytearray())

    assert encode(decode(body)) == encode(frame)


@given(plain)
def test_a_plain_value_comes_out_the_same(value: object) -> None:
    frame = Frame("p", 0, 0, 0, "", [], [Event(VALUE, value)])
    found = decode(encode(frame)).events[0].data

    assert is_plain(value)
    assert type(found) is type(value)
    assert found == value or (found != found and value != value)


@pytest.mark.parametrize(
    "value",
    [[], {}, (), 1 << 64, -(1 << 63) - 1, "\ud800", 1j, np.float64(1), bytearray(b"x"), type("S", (str,), {})()],
)
def test_what_is_not_plain(value: object) -> None:
    assert not is_plain(value)


@given(frames, st.data())
def test_every_cut_is_noticed(frame: Frame, data: st.DataObject) -> None:
    body = encode(frame)
    cut = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(IntegrityError):
        decode(body[:cut])
    with pytest.raises(IntegrityError):
        decode(body + b"\0")


@given(frames, st.integers(0, 1 << 20))
def test_a_flipped_bit_is_noticed_or_means_another_frame(frame: Frame, bit: int) -> None:
    body = bytearray(encode(frame))
    body[bit // 8 % len(body)] ^= 1 << bit % 8
    try:
        found = decode(bytes(body))
    except IntegrityError:
        return
    for event in found.events:
        assert event.kind in (VALUE, OBJECT, END)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for body in (data, START + data):
        try:
            decode(body)
        except IntegrityError:
            pass


def memory_of_refusing(body: bytes) -> int:
    """Bytes that it took at most to find out that this is no frame."""
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            decode(body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xefE",
        b"\xefE\x02\x97",
        b"\x80\x04]\x94.",  # a pickle
        START,
        packed(),
        packed("p", 0, 0, 0, "", []),
        packed("p", -1, 0, 0, "", [], []),
        packed("p", 0, -1, 0, "", [], []),
        packed("p", 0, 0, -1, "", [], []),
        packed("p", 1.5, 0, 0, "", [], []),
        packed("p", 0, 0, 0, "", [], [[VALUE, []]]),
        packed("p", 0, 0, 0, "", [], [[VALUE, {}]]),
        packed("p", 0, 0, 0, "", [], [[3, None]]),
        packed("p", 0, 0, 0, "", [], [[-1, None]]),
        packed("p", 0, 0, 0, "", ["s"], [[OBJECT, [1, "k"]]]),
        packed("p", 0, 0, 0, "", ["s"], [[OBJECT, [-1, "k"]]]),
        packed("p", 0, 0, 0, "", ["s"], [[OBJECT, [True, "k"]]]),
        packed("p", 0, 0, 0, "", ["s"], [[OBJECT, []]]),
        packed("p", 0, 0, 0, "", ["s"], [[OBJECT, "k"]]),
        packed("p", 0, 0, 0, "", [], [[VALUE, msgpack.ExtType(5, b"x")]]),
        packed("p", 0, 0, 0, "", [], [[VALUE, 0, 0, 7]]),
        packed("p", 0, 0, 0, "", [], [[VALUE, 0, 0, None, None, {"a": 1}]]),
        START + b"\x97\xa1p\x00\x00\x00\xa0\x90\xdd\xff\xff\xff\xff",  # 2**32 events, it says
        START + b"\x97\xa1p\x00\x00\x00\xa0\x90\x91\x92\x00\xc6\xff\xff\xff\xff",  # 4 GiB of bytes
        START + b"\x97\xdb\xff\xff\xff\xff",
        START + b"\x97\xa1p\xcf" + b"\xff" * 8,
        START + b"\x91" * 100_000,
        START + b"\x97\xa1p\x00\x00\x00\xa0\x90\x91\x92\x01" + b"\x91" * 100_000,
        START + b"\x97\xa1p\x00\x00\x00\xa0\x90\x91\x95\x00\x00\x00\xc0" + b"\x81\xa0" * 100_000,
    ],
)
def test_what_is_no_frame(body: bytes) -> None:
    assert memory_of_refusing(body) < 8 << 20


def test_more_events_than_a_frame_has_cost_no_memory() -> None:
    """A million of two bytes each: they are counted before they are made."""
    body = START + b"\x97\xa1p\x00\x00\x00\xa0\x90\xdd" + (1 << 20).to_bytes(4, "big") + b"\x91\x00" * (1 << 20)
    assert memory_of_refusing(body) < 8 << 20


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Frame("p", 0, 0, 0, "", [], [Event(VALUE, None)] * MAX_EVENTS)
    assert len(decode(encode(many)).events) == MAX_EVENTS
    monkeypatch.setattr(events, "MAX_FRAME", 1000)
    large = Frame("p", 0, 0, 0, "", [], [Event(VALUE, bytes(1000))])
    with pytest.raises(SerializationError, match="store"):
        encode(large)
    monkeypatch.setattr(events, "MAX_FRAME", MAX_FRAME)
    body = encode(large)
    monkeypatch.setattr(events, "MAX_FRAME", 1000)
    with pytest.raises(IntegrityError, match="1000"):
        decode(body)


def test_a_later_version_says_so() -> None:
    with pytest.raises(IntegrityError, match="version 02"):
        decode(b"\xefE\x02" + encode(golden())[3:])


def test_metadata() -> None:
    numbers = {"f": np.float32(0.5), "i": np.int64(3), "b": np.bool_(True)}
    assert unpack_metadata(pack_metadata(numbers)) == {"f": 0.5, "i": 3, "b": True}
    assert unpack_metadata(NOTHING) == {}
    for wrong in ({"a": np.zeros(2)}, {"a": object()}, {"a": 1 << 70}):
        with pytest.raises(SerializationError, match="plain"):
            pack_metadata(wrong)
    for packed_wrong in (b"\x01", b"\x81\x01\x02", b"\x81" * 10_000, b""):
        with pytest.raises(IntegrityError):
            unpack_metadata(msgspec.Raw(packed_wrong))


def test_what_cannot_be_written() -> None:
    for data, metadata in ((1, {"a": object()}), (1 << 70, None), ("\ud800", None)):
        with pytest.raises(SerializationError):
            written(VALUE, data, 0, None, metadata, None)
