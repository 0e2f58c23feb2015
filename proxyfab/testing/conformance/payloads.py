"""Bytes of every shape: none, one, odd sizes, thousands of pieces, borrowed and read-only memory, more than 4 GiB."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError
from proxyfab.keys import Key
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.content import content, is_whole, plain, signed

SIZES = [0, 1, 7, 63, 64, 65, 511, 4031, 4032, 4095, 4096, 4097, 65_537, 1_000_003, 8 * 2**20 + 5]
RANGES = [
    (0, 0),
    (0, 1),
    (0, 30_000),
    (0, 99_999),
    (29_999, 1),
    (29_999, 9),
    (30_000, 1),
    (40_000, 5),
    (9_999, 2),
    (123, 20_000),
]


class PayloadTests(Suite):
    """What goes in comes out, whatever its size and however it is cut; and parts of it."""

    @pytest.mark.parametrize("nbytes", SIZES)
    def test_any_size(self, one: Any, nbytes: int) -> None:
        data = plain(nbytes)
        key = one.put(Frames([data]))
        found = one.get(key)

        assert found.nbytes == one.stat(key).nbytes == nbytes
        assert content(found) == data

    def test_no_frames_at_all(self, one: Any) -> None:
        key = one.put(Frames())

        assert content(one.get(key)) == b""
        assert one.stat(key).nbytes == 0
        assert one.exists(key)

    @pytest.mark.parametrize("count", [1023, 1024, 1025, 2500])
    def test_more_frames_than_one_system_call_takes(self, one: Any, count: int) -> None:
        frames = Frames([b"%d," % number for number in range(count)])
        key = one.put(frames)

        assert content(one.get(key)) == frames.tobytes()

    def test_many_empty_frames_between_others(self, one: Any) -> None:
        frames = Frames([b"", b"a", b"", b"", b"b" * 100_000, b""] * 300)

        assert content(one.get(one.put(frames))) == frames.tobytes()

    def test_borrowed_typed_and_read_only_memory(self, one: Any) -> None:
        numbers: Any = array("d", range(1000))
        matrix = memoryview(array("i", range(12))).cast("B").cast("i", (3, 4))
        flat = memoryview(numbers)
        parts: list[Any] = [
            b"ro",
            bytearray(b"rw"),
            memoryview(b"0123456789")[2:7],
            numbers,
            matrix,
            flat.toreadonly(),
            b"",
        ]
        expected = b"".join(memoryview(part).tobytes() for part in parts)

        assert content(one.get(one.put(Frames(parts)))) == expected

    def test_memory_with_gaps(self, one: Any) -> None:
        every_third = memoryview(bytearray(range(256)))[::3]
        backwards = memoryview(b"0123456789")[::-1]

        found = one.get(one.put(Frames([every_third, backwards])))

        assert content(found) == bytes(range(0, 256, 3)) + b"9876543210"

    @pytest.mark.parametrize(("offset", "length"), RANGES)
    def test_a_range_is_a_slice(self, one: Any, offset: int, length: int) -> None:
        data = plain(30_000)
        key = one.put(Frames([data[:10_000], data[10_000:10_001], data[10_001:]]))

        assert content(one.get_range(key, offset, length)) == data[offset : offset + length]

    def test_a_range_of_nothing(self, one: Any) -> None:
        assert content(one.get_range(one.put(Frames()), 0, 10)) == b""
        assert one.get_range(Key("never"), 0, 10) is None

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
    def test_a_negative_range_is_refused(self, one: Any, offset: int, length: int) -> None:
        key = one.put(Frames([b"0123"]))
        with pytest.raises(ConfigurationError):
            one.get_range(key, offset, length)

    def test_sizes_in_turn_leave_no_trace_of_each_other(self, one: Any) -> None:
        """Memory that is used again must neither shine through nor cut off."""
        for seed, nbytes in enumerate([5_000_000, 4_000_000, 70_000, 5_000_000, 64, 4_999_999, 0, 70_001]):
            key = one.put(signed(nbytes, seed))
            assert is_whole(one.get(key))
            assert one.get(key).nbytes == max(nbytes, 32)
            one.evict(key)

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_more_than_four_gib(self, one: Any) -> None:
        block = memoryview(plain(64 * 2**20))
        count = 65
        key = one.put(Frames([block] * count))
        last = (count - 1) * block.nbytes

        assert one.stat(key).nbytes == count * block.nbytes > 2**32
        assert content(one.get_range(key, last - 5, 10)) == bytes(block[-5:]) + bytes(block[:5])
        found = one.get(key)
        assert found.nbytes == count * block.nbytes
        assert all(found.slice(n * block.nbytes, block.nbytes).join() == block for n in (0, 31, 32, 63, 64))
        del found
        assert one.evict(key)
