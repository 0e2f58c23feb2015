"""The wire form: what is written is read, nothing is copied, and no bytes do more harm than an IntegrityError."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from itertools import pairwise
from zlib import crc32

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyfab.buffers import Frames, MappedFrames
from proxyfab.errors import IntegrityError, SerializationError
from proxyfab.trace import here
from proxyfab.wire import payload as wire
from proxyfab.wire.layout import ALIGNMENT
from proxyfab.wire.payload import MAX_METADATA, Payload, announced, decode, digest, encode

SMALL = Payload("numpy", "numpy:ndarray", ["<f8", [3], False], [b"abcdefgh" * 3, b"", b"tail"])
META = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
PAYLOADS = st.builds(
    Payload, st.text(max_size=20), st.text(max_size=40), META, st.lists(st.binary(max_size=200), max_size=6)
)


def same(one: Payload, other: Payload) -> bool:
    fields = [(p.codec, p.type, p.meta, [bytes(view) for view in p.buffers], p.nbytes) for p in (one, other)]
    return fields[0] == fields[1]


def forged(fields: object, data: bytes = b"", *, flags: int = 0, total: int | None = None, length: int | None = None):
    """Bytes with a correct CRC, as somebody would write them who means harm."""
    metadata = fields if isinstance(fields, bytes) else msgpack.packb(fields)
    body = metadata + bytes(-(32 + len(metadata)) % ALIGNMENT)
    header = struct.pack(
        "<4sBBBBQQI",
        *(b"PFAB", 1, flags, 0, 1),
        *(32 + len(body) + len(data) if total is None else total, 0, len(metadata) if length is None else length),
    )
    return Frames([header + struct.pack("<I", crc32(body, crc32(header))) + body + data])


@given(PAYLOADS, st.booleans())
def test_what_is_encoded_is_decoded(payload, checksum):
    frames = encode(payload, checksum=checksum)
    assert same(decode(frames), payload)
    assert same(decode(Frames([frames.tobytes()])), payload)
    assert same(Payload.unpack(pickle.loads(pickle.dumps(payload.pack()))), payload)


@given(PAYLOADS, st.lists(st.integers(0, 2000), max_size=8))
def test_cut_anywhere_it_reads_the_same(payload, cuts):
    whole = encode(payload, checksum=True).tobytes()
    edges = sorted({0, len(whole), *[cut % (len(whole) + 1) for cut in cuts]})
    parts = [whole[low:high] for low, high in pairwise(edges)]
    assert same(decode(Frames(parts)), payload)
    assert same(decode(Frames([b"", *parts, b""])), payload)


def test_buffers_are_views_at_64_byte_boundaries():
    data = [bytearray(b"x" * size) for size in (1, 64, 1000, 0, 65)]
    frames = encode(Payload("c", "t", None, data), checksum=True)
    whole = frames.tobytes()
    for view, back in zip(data, decode(frames).buffers, strict=True):
        assert len(view) == 0 or back.obj is view
    position = 0
    for view in frames.views:
        assert len(view) < ALIGNMENT or position % ALIGNMENT == 0
        position += len(view)
    assert all(back.obj is whole for back in decode(Frames([whole])).buffers if back)


def test_the_origin_is_the_writer():
    assert decode(encode(SMALL, checksum=False)).origin == here()
    relayed = Payload("c", "t", None, [], "elsewhere")
    assert decode(encode(relayed, checksum=False)).origin == "elsewhere"


@pytest.mark.parametrize("checksum", [True, False])
def test_every_truncation_and_every_extension_is_noticed(checksum):
    whole = encode(SMALL, checksum=checksum).tobytes()
    for length in range(len(whole)):
        with pytest.raises(IntegrityError):
            decode(Frames([whole[:length]]))
    with pytest.raises(IntegrityError):
        decode(Frames([whole + b"\0"]))
    with pytest.raises(IntegrityError):
        decode(Frames())


def test_every_flipped_bit_is_noticed():
    whole = encode(SMALL, checksum=True).tobytes()
    for position in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(IntegrityError):
            decode(Frames([damaged]))
        with pytest.raises(IntegrityError):
            decode(Frames([damaged[:70], damaged[70:]]))


def test_without_a_checksum_every_flipped_bit_of_the_head_is_noticed():
    whole = encode(SMALL, checksum=False).tobytes()
    start = len(whole) - len(encode(SMALL, checksum=False).slice(128, 10**6).tobytes())
    for position in range(start * 8):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(IntegrityError):
            decode(Frames([damaged]))


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_refused(noise, headed):
    with pytest.raises(IntegrityError):
        decode(Frames([b"PFAB\1\0\0\1" + noise if headed else noise]))


@given(st.binary(max_size=300), st.binary(max_size=100))
@settings(max_examples=200)
def test_any_metadata_behind_a_correct_crc_are_refused_or_read(metadata, data):
    try:
        decode(forged(metadata, data))
    except IntegrityError:
        pass


HOSTILE = {
    "not-a-list": forged({"codec": "bytes"}),
    "too-few": forged(["bytes", "t", None, []]),
    "too-many": forged(["bytes", "t", None, [], "h", 1]),
    "codec-not-text": forged([b"bytes", "t", None, [], "h"]),
    "type-not-text": forged(["bytes", 1, None, [], "h"]),
    "origin-not-text": forged(["bytes", "t", None, [], None]),
    "table-not-a-list": forged(["bytes", "t", None, {"0": 0}, "h"]),
    "negative-size": forged(["bytes", "t", None, [-64, 64], "h"]),
    "size-a-boolean": forged(["bytes", "t", None, [True], "h"], b"x"),
    "size-a-float": forged(["bytes", "t", None, [1.0], "h"], b"x"),
    "size-too-large": forged(["bytes", "t", None, [2**63], "h"], b"x"),
    "table-beyond-the-end": forged(["bytes", "t", None, [2], "h"], b"x"),
    "table-before-the-end": forged(["bytes", "t", None, [1], "h"], b"xy"),
    "too-many-buffers": forged(["bytes", "t", None, [0] * 70_000, "h"]),
    "giant-total": forged(["bytes", "t", None, [], "h"], total=2**64 - 1),
    "giant-metadata": forged(["bytes", "t", None, [], "h"], length=2**32 - 1),
    "limit-of-metadata": forged(["bytes", "t", None, [], "h"], length=MAX_METADATA),
    "array-of-4-billion": forged(b"\xdd\xff\xff\xff\xff"),
    "map-of-4-billion": forged(b"\xdf\xff\xff\xff\xff"),
    "text-of-4-billion": forged(b"\xdb\xff\xff\xff\xff"),
    "nested-100000-deep": forged(b"\x91" * 100_000 + b"\xc0"),
    "maps-in-keys": forged(b"\x81" * 1000 + b"\xc0" * 1001),
    "invalid-utf8": forged(b"\x95\xa1\xff\xa1t\xc0\x90\xa1h"),
    "trailing": forged(msgpack.packb(["bytes", "t", None, [], "h"]) + b"\xc0"),
    "unknown-flag": forged(["bytes", "t", None, [], "h"], flags=2),
    "wrong-checksum": forged(["bytes", "t", None, [1], "h"], b"x", flags=1),
    "zeros": Frames([bytes(4096)]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_cost_an_error_and_no_memory(name):
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            decode(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 20 * HOSTILE[name].nbytes + 500_000
    finally:
        tracemalloc.stop()


def test_a_newer_version_says_which_proxyfab_reads_it():
    whole = bytearray(encode(SMALL, checksum=True).tobytes())
    whole[4], whole[6], whole[7] = 9, 3, 14
    with pytest.raises(IntegrityError, match=r"wire format 9.*proxyfab 3\.14 or newer"):
        decode(Frames([whole]))


def test_data_are_verified_before_anything_is_read_from_them():
    whole = bytearray(encode(SMALL, checksum=True).tobytes())
    whole[-1] ^= 1
    with pytest.raises(IntegrityError, match="checksum"):
        decode(Frames([whole]))
    assert decode(Frames([whole]), verify=False).codec == "numpy"


def test_metadata_that_cannot_be_packed_are_refused_at_the_writer():
    with pytest.raises(SerializationError, match="codec 'c'"):
        encode(Payload("c", "t", object(), []), checksum=False)
    with pytest.raises(SerializationError, match="codec 'c'"):
        encode(Payload("c", "t", 2**70, []), checksum=False)
    with pytest.raises(SerializationError, match="codec 'c'"):
        encode(Payload("c", "\ud800", None, []), checksum=False)
    plain = Payload("c", "t", None, [b"x"])
    assert same(decode(encode(plain, checksum=True)), plain)  # nothing is left over from what failed
    with pytest.raises(SerializationError, match="buffers"):
        encode(Payload("c", "t", None, [b""] * (wire.MAX_BUFFERS + 1)), checksum=False)
    with pytest.raises(SerializationError, match="buffers"):
        encode(Payload("c", "t", bytes(MAX_METADATA), []), checksum=False)


@pytest.mark.parametrize(
    "packed",
    [
        None,
        [],
        (),
        ("bytes", "t", None),
        (b"bytes", "t", None, ""),
        ("bytes", None, None, ""),
        ("bytes", "t", None, 1),
        ("bytes", "t", None, "", "text"),
        ("bytes", "t", None, "", bytearray(b"x")),
    ],
)
def test_what_pack_did_not_make_is_not_unpacked(packed):
    with pytest.raises(IntegrityError):
        Payload.unpack(packed)


def test_a_small_object_packs_small():
    assert len(pickle.dumps(Payload("bytes", "builtins:bytes", None, [b"x" * 100]).pack(), 5)) <= 180


def test_a_detached_payload_no_longer_shows_the_object():
    data = bytearray(b"before")
    payload = Payload("bytearray", "builtins:bytearray", None, [data])
    detached = payload.detached()
    data[:] = b"after!"
    assert bytes(payload.buffers[0]) == b"after!"
    assert bytes(detached.buffers[0]) == b"before"


def test_the_digest_is_of_the_content():
    def of(*args):
        return digest(Payload(*args))

    base = of("c", "t", [1], [b"ab", b"c"])
    assert base == of("c", "t", (1,), [bytearray(b"ab"), memoryview(b"c")], "elsewhere")
    assert base == digest(encode(Payload("c", "t", [1], [b"ab", b"c"]), checksum=False))
    others = [("d", "t", [1], [b"ab", b"c"]), ("c", "u", [1], [b"ab", b"c"]), ("c", "t", [2], [b"ab", b"c"])]
    others += [("c", "t", [1], [b"a", b"bc"]), ("c", "t", [1], [b"abc"]), ("c", "t", [1], [b"ab", b"d"])]
    assert base not in [of(*other) for other in others]


def test_what_lies_as_it_was_put_is_not_verified_again() -> None:
    frames = encode(Payload("raw", "builtins:bytes", None, (memoryview(b"x" * 100),)), checksum=True)
    damaged = bytearray(frames.tobytes())
    damaged[-1] ^= 1

    with pytest.raises(IntegrityError):
        decode(Frames([damaged]))
    assert bytes(decode(MappedFrames([damaged])).buffers[0]) == b"x" * 99 + b"y"
    damaged[40] ^= 1
    with pytest.raises(IntegrityError, match="head"):
        decode(MappedFrames([damaged]))


def test_the_beginning_says_what_it_is() -> None:
    payload = Payload("numpy", "numpy:ndarray", {"shape": [9999]}, [bytes(9999)])
    frames = encode(payload, checksum=True)

    assert announced(frames) == announced(frames.slice(0, 512)) == ("numpy", "numpy:ndarray")
    assert announced(Frames([frames.slice(0, 20).join(), frames.slice(20, 400).join()])) == ("numpy", "numpy:ndarray")


@pytest.mark.parametrize("size", [0, 31, 32, 80])
def test_too_short_a_beginning_is_refused(size: int) -> None:
    frames = encode(Payload("numpy", "numpy:ndarray", {"shape": [9999]}, [bytes(9999)]), checksum=True)
    with pytest.raises(IntegrityError, match="cut off"):
        announced(frames.slice(0, size))


@given(st.integers(0, 63), st.integers(1, 255))
def test_a_damaged_beginning_is_refused(place: int, flip: int) -> None:
    data = bytearray(
        encode(Payload("bytes", "builtins:bytes", None, [bytes(9999)]), checksum=True).slice(0, 128).join()
    )
    data[place] ^= flip
    with pytest.raises(IntegrityError):
        announced(Frames([bytes(data)]))
