"""Any plain object and any array come back equal in both modes; damaged input is our error, or another object."""

import datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError, ProxyfabError
from proxyfab.serialize import dumps, loads
from proxyfab.wire.payload import Payload, decode, encode

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
LEAVES = KEYS | st.complex_numbers(allow_nan=False) | st.dates() | st.datetimes(timezones=st.none() | st.timezones())
LEAVES |= st.timedeltas() | st.datetimes(timezones=st.just(datetime.UTC))
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS | st.frozensets(KEYS))
    ),
    max_leaves=12,
)
DTYPES = hn.scalar_dtypes() | hn.array_dtypes()
ARRAYS = hn.arrays(DTYPES, hn.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def received(payload):
    return decode(Frames([encode(payload, checksum=True).tobytes()]))


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return one == other


@given(PLAIN)
def test_plain_objects(obj):
    assert same(loads(received(dumps(obj, mode="safe")), mode="safe"), obj)
    assert same(loads(received(dumps(obj))), obj)


@given(ARRAYS, st.booleans(), st.booleans())
def test_arrays(array, transposed, reversed_):
    array = array.T if transposed else array
    array = array[::-1] if reversed_ and array.ndim else array
    for mode in ("default", "safe"):
        back = loads(received(dumps(array, mode=mode)), mode=mode)
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert not back.flags.writeable or back.dtype.itemsize == 0


@given(PLAIN | ARRAYS, st.integers(0, 10**6), st.integers(0, 7))
def test_damage_that_got_past_the_wire_is_an_error_of_ours_or_another_object(obj, where, bit):
    payload = dumps(obj, mode="safe")
    stream = bytearray(payload.buffers[0])
    if stream:
        stream[where % len(stream)] ^= 1 << bit
    damaged = Payload(payload.codec, payload.type, payload.meta, [stream, *payload.buffers[1:]])
    try:
        loads(damaged, mode="safe")
    except ProxyfabError:
        pass


DESCRIPTION = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.sampled_from(["<f8", "|O", "<U0", "|V8", "f8,O", "names"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["names", "formats", "offsets", "titles", "itemsize", "aligned"]), inner)
    ),
    max_leaves=10,
)


@given(st.sampled_from(["numpy", "numpy.scalar", "numpy.masked", "memoryview"]), DESCRIPTION, st.binary(max_size=64))
def test_any_description_is_refused_or_read(codec, meta, data):
    try:
        made = loads(Payload(codec, "t:T", meta, [data]), mode="safe")
    except IntegrityError:
        return
    assert not (isinstance(made, np.ndarray) and made.dtype.hasobject)
