"""Frames: bytes in pieces, joined only when asked, never copied unasked."""

from __future__ import annotations

import weakref
from array import array
from pickle import PickleBuffer
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies

from proxyfab.buffers import Frames, byte_view

PARTS = strategies.lists(strategies.binary(max_size=20), max_size=6)


@pytest.mark.parametrize(
    "buffer",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"0123456789")[2:8],
        array("d", [1.0, 2.0]),
        np.arange(12, dtype=">i4"),
        np.ones((3, 4), order="F"),
        np.array(3.5),
        np.array([1 + 2j]),
        np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        np.array([True, False]),
        np.ones(3, np.float16),
        np.array(["text"]),
    ],
    ids=lambda buffer: type(buffer).__name__,
)
def test_a_view_is_of_the_same_memory(buffer) -> None:
    view = byte_view(buffer)

    assert (view.format, view.ndim, view.nbytes) == ("B", 1, memoryview(buffer).nbytes)
    assert view.tobytes() == memoryview(buffer).tobytes(order="A")
    assert np.shares_memory(np.frombuffer(view, "u1"), np.asarray(memoryview(buffer)).view())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("wrap", [np.asarray, memoryview, PickleBuffer], ids=lambda wrap: wrap.__name__)
def test_no_view_holds_another_one_by_its_buffer(order: str, wrap: Any) -> None:
    """Two such in a reference cycle, as in a traceback that its frame keeps, end the process: a fault of CPython's."""
    array = np.ones((3, 4), order=order)
    view = byte_view(wrap(array))

    assert not isinstance(view.obj, memoryview)


def test_a_flat_view_holds_the_memory_and_is_as_writable() -> None:
    array = np.ones((300, 400), order="F")
    view, gone = byte_view(array), weakref.ref(array)
    view[:8] = bytes(8)
    assert array[0, 0] == 0
    array.flags.writeable = False
    assert byte_view(array).readonly
    del array
    assert gone() is not None
    del view
    assert gone() is None


@pytest.mark.parametrize("empty", [b"", np.empty((0, 3)), np.empty(0, "f8"), memoryview(b"abc")[3:]])
def test_nothing_is_an_empty_view(empty) -> None:
    assert byte_view(empty).nbytes == 0
    assert byte_view(empty).format == "B"


@pytest.mark.parametrize(
    "buffer",
    [
        np.arange(10)[::2],
        np.arange(12).reshape(3, 4)[:, 1:3],
        memoryview(b"0123456789")[::-1],
        np.arange(10, dtype="u1")[::3],
    ],
)
def test_memory_with_gaps_is_copied_in_order(buffer) -> None:
    assert byte_view(buffer).tobytes() == memoryview(buffer).tobytes()


def test_a_read_only_buffer_stays_read_only() -> None:
    assert byte_view(b"x").readonly
    assert not byte_view(bytearray(b"x")).readonly
    assert byte_view(memoryview(bytearray(b"x")).toreadonly()).readonly


def test_what_is_no_buffer_is_refused() -> None:
    with pytest.raises(TypeError):
        Frames(["text"])  # type: ignore[list-item]  # that is the point


@given(PARTS)
def test_frames_are_their_bytes(parts: list[bytes]) -> None:
    frames, joined = Frames(parts), b"".join(parts)

    assert frames.nbytes == len(joined)
    assert len(frames) == len(parts)
    assert frames.tobytes() == bytes(frames.join()) == b"".join(frames) == joined
    assert frames == Frames([joined])
    assert str(len(parts)) in repr(frames)


@given(PARTS, strategies.integers(0, 150), strategies.integers(0, 150))
def test_a_slice_is_a_slice(parts: list[bytes], offset: int, length: int) -> None:
    assert Frames(parts).slice(offset, length).tobytes() == b"".join(parts)[offset : offset + length]


@given(PARTS, strategies.integers(0, 9))
def test_copy_into_fills_and_says_where_it_stopped(parts: list[bytes], offset: int) -> None:
    joined = b"".join(parts)
    target = bytearray(len(joined) + offset + 3)

    assert Frames(parts).copy_into(memoryview(target), offset) == offset + len(joined)
    assert target == bytes(offset) + joined + bytes(3)


def test_copy_into_too_little_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="structure"):
        Frames([b"abc"]).copy_into(memoryview(bytearray(2)))


def test_one_frame_joins_without_a_copy() -> None:
    data = bytearray(b"same memory")
    joined = Frames([data]).join()
    data[:4] = b"SAME"

    assert joined == b"SAME memory"


def test_a_slice_copies_nothing() -> None:
    data = bytearray(b"0123456789")
    part = Frames([data]).slice(2, 3)
    data[2:5] = b"abc"

    assert part.tobytes() == b"abc"


def test_views_keep_their_memory_alive() -> None:
    frames = Frames([np.full(100_000, 7, "u1")])
    part = frames.slice(50_000, 10).join()
    del frames

    assert part == b"\x07" * 10


def test_frames_compare_with_frames_only_and_cannot_be_hashed() -> None:
    assert Frames([b"a"]) != b"a"
    assert Frames([b"ab"]) != Frames([b"ba"])
    assert Frames() == Frames([b"", b""])
    with pytest.raises(TypeError, match="unhashable"):
        hash(Frames())
