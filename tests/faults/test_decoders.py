"""Bytes from outside: only declared errors come out, and no length that they claim costs memory.

The same properties as `make fuzz` runs for hours, on inputs that Hypothesis makes of good ones.
"""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.testing.decoders import DECODERS, Decoder

SMALL = 8 << 20
"""Bytes that a decoder may take whatever it is told; objects that were really sent come on top."""
EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "repeat", "number"]),
        st.integers(0, 400),
        st.binary(min_size=1, max_size=9),
        st.sampled_from(EDGES),
    ),
    max_size=6,
)


def edited(data: bytes, changes: list[tuple[str, int, bytes, int]]) -> bytes:
    for how, where, piece, number in changes:
        at = where % (len(data) + 1)
        if how == "set":
            data = data[:at] + piece + data[at + len(piece) :]
        elif how == "cut":
            data = data[:at]
        elif how == "insert":
            data = data[:at] + piece + data[at:]
        elif how == "repeat":
            data = data[:at] + data[at : at + 40] * 3 + data[at + 40 :]
        else:
            packed = number.to_bytes(8, "little")[: len(piece)]
            data = data[:at] + packed + data[at + len(packed) :]
    return data


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_good_input_is_taken(decoder: Decoder) -> None:
    taken = [decoder(seed) for seed in decoder.seeds()]

    assert any(taken) or decoder.name in ("redis-reply", "redis-header", "slot", "flow", "key")


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@given(data=st.data())
def test_only_declared_errors(decoder: Decoder, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from([*decoder.seeds(), b""]))
    decoder(edited(seed, data.draw(edits)))


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@given(noise=st.binary(max_size=300))
def test_noise(decoder: Decoder, noise: bytes) -> None:
    decoder(noise)


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_every_flipped_bit_and_every_cut_of_a_good_input(decoder: Decoder) -> None:
    seed = min(decoder.seeds(), key=len)[:160]
    for at in range(len(seed)):
        decoder(seed[:at])
        for bit in range(8):
            decoder(seed[:at] + bytes([seed[at] ^ 1 << bit]) + seed[at + 1 :])


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_a_giant_length_costs_no_memory(decoder: Decoder) -> None:
    """Each number of a good input in turn becomes a giant one, in every width."""
    for seed in decoder.seeds():
        decoder(seed)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for seed in decoder.seeds():
            for at in range(min(len(seed), 120)):
                for width in (1, 4, 8) if len(seed) < 2000 else (8,):  # the same fields before a larger body
                    decoder(seed[:at] + (b"\xff" * (width - 1) + b"\x7f") + seed[at + width :])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak - before < SMALL + 4 * max(len(seed) for seed in decoder.seeds())
