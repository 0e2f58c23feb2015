"""The header of an object file: 64 bytes in, a Slot or IntegrityError out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.errors import IntegrityError
from proxyfab.wire.slot import MAGIC, SIZE, Slot, id_hash, pack, unpack

SLOT = Slot(length=1000, created=1.5, expires=0.0, id_hash=id_hash("k"), id_length=3)


@given(
    st.builds(
        Slot,
        length=st.integers(0, 2**62),
        created=st.floats(0, 1e12),
        expires=st.floats(0, 1e12) | st.just(float("inf")),
        id_hash=st.integers(0, 2**64 - 1),
        id_length=st.integers(0, 2**16 - 1),
        home=st.integers(0, 2**64 - 1),
    )
)
def test_what_is_packed_is_unpacked(slot: Slot) -> None:
    assert len(pack(slot)) == SIZE
    assert unpack(pack(slot)) == slot
    assert unpack(pack(slot) + b"payload", available=slot.total) == slot


def test_any_flipped_bit_is_noticed() -> None:
    for bit in range(8 * SIZE):
        damaged = bytearray(pack(SLOT))
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            unpack(bytes(damaged))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_or_understood(noise: bytes, marked: bool) -> None:
    with pytest.raises(IntegrityError):
        unpack(MAGIC + noise if marked else noise, available=len(noise))


def test_a_length_beyond_the_file_is_refused() -> None:
    assert unpack(pack(SLOT), available=SIZE + 1003) == SLOT
    for available in (SIZE + 1002, SIZE, 0):
        with pytest.raises(IntegrityError, match="cut off"):
            unpack(pack(SLOT), available=available)
    with pytest.raises(IntegrityError, match="cut off"):
        unpack(pack(SLOT._replace(length=2**63)))


def test_life() -> None:
    assert SLOT.alive(1e12)
    assert SLOT._replace(expires=10.0).alive(9.9)
    assert not SLOT._replace(expires=10.0).alive(10.0)
