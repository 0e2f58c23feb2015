"""Memory to receive into: equal to the ordinary kind, only faster to get."""

from __future__ import annotations

import os
import sys

import pytest

from proxyfab.osio.memory import HUGE, allocate, new_bytearray, new_bytes

SIZES = [0, 1, 1000, HUGE - 1, HUGE, HUGE + 4097, 5 * HUGE]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [(new_bytes, bytes), (new_bytearray, bytearray)], ids=["bytes", "bytearray"])
def test_equal_to_the_ordinary_kind(size, make):
    """Same type, content, hash and end; an object of its own."""
    new, ordinary = make
    data = bytearray(os.urandom(1024) * (size // 1024 + 1))[:size]
    made = new(memoryview(data).toreadonly())
    assert type(made) is ordinary
    assert made == data
    assert sys.getsizeof(made) == sys.getsizeof(ordinary(data))
    if size:
        data[0] ^= 1
        assert made != data
    if new is new_bytes:
        assert hash(made) == hash(bytes(made[:]))
        assert size <= 1 or sys.getrefcount(made) == 2  # the shortest bytes are shared by the interpreter
    else:
        made += b"more"  # it can grow like any other
        assert made.endswith(b"more")


@pytest.mark.parametrize("size", SIZES)
def test_allocated_memory_is_zeroed_and_writable(size):
    """Whatever way it was had."""
    block = allocate(size)
    assert block.nbytes == size
    assert not any(block[-8:])
    block[:] = b"\1" * size


def test_memory_goes_back():
    """Large blocks are returned to the system when they are dropped."""
    source = memoryview(bytes(16 * HUGE))

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    for _ in range(10):
        new_bytes(source)
        new_bytearray(source)
        allocate(16 * HUGE)[:] = source
    assert resident() - before < 8 * HUGE
