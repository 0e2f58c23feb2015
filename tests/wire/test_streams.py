"""The same content gives the same digest, whatever pickle notes about memory and frames."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.wire.streams import same_stream


def pickled(obj):
    buffers = []
    return pickle.dumps(obj, 5, buffer_callback=lambda buffer: buffers.append(buffer) is not None)


def arrays(writable, padding):
    made = [np.arange(1000.0) for _ in range(300)]
    for array in made:
        array.flags.writeable = writable
    return {
        "padding": padding,
        "many": made,
        "long": b"y" * 100_000,
        "text": "z" * 70_000,
        "last": made[0][:500].copy(),
    }


def test_read_only_and_writable_arrays_are_the_same_content():
    for padding in ("", ["x" * 50] * 3000, [str(each) for each in range(20_000)]):
        one, other = pickled(arrays(True, padding)), pickled(arrays(False, padding))
        assert one != other
        assert same_stream(memoryview(one)) == same_stream(memoryview(other))


PLAIN = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers(), inner),
)


@given(PLAIN, PLAIN)
def test_different_content_stays_different(one, other):
    first, second = pickle.dumps(one, 5), pickle.dumps(other, 5)
    assert (first == second) == (same_stream(memoryview(first)) == same_stream(memoryview(second)))


@given(st.binary())
def test_no_bytes_do_harm(noise):
    same_stream(memoryview(b"\x80\x05" + noise))
