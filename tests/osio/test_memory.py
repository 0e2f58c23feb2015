"""Memory to receive into: equal to the ordinary kind, only faster to get."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import pytest

from proxyfab.buffers import Frames
from proxyfab.osio import memory
from proxyfab.osio.mapping import UNLOCKED
from proxyfab.osio.memory import HUGE, allocate, copied, map_private, new_bytearray, new_bytes, unfilled

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


@pytest.mark.parametrize("size", [*SIZES, UNLOCKED - 1, UNLOCKED])
def test_memory_that_is_filled_anyway(size):
    """It is as long, writable and nobody else's; a copy into it is whole, also of several views."""
    one, other = unfilled(size), unfilled(size)
    one[:], other[:] = b"\1" * size, b"\2" * size
    assert one.nbytes == size
    assert one == b"\1" * size
    data = os.urandom(size)
    assert copied(Frames([data[:7], data[7:]])) == data


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


@pytest.mark.parametrize("cold", [False, True])
def test_where_huge_pages_are_not_there_yet_small_ones_are_taken(cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that took free memory back gives it again by huge pages, which takes 30 times as long as to clear them."""
    times = iter([1.0, 1.006 if cold else 1.0002])
    monkeypatch.setattr(memory, "thread_time", lambda: next(times))
    block = map_private(2 * HUGE)
    try:
        assert ("nh" in flags(block)) == cold
    finally:
        block.close()


def flags(block: mmap.mmap) -> list[str]:
    """What the kernel knows of the mapping."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    lines = Path("/proc/self/smaps").read_text().splitlines()
    ours = next(at for at, line in enumerate(lines) if _holds(line, start))
    return next(line for line in lines[ours:] if line.startswith("VmFlags:")).split()


def _holds(line: str, address: int) -> bool:
    span = line.split()[0]
    if "-" not in span or span.endswith(":"):
        return False
    begin, _, end = span.partition("-")
    return int(begin, 16) <= address < int(end, 16)
