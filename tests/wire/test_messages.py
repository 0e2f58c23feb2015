"""Messages: what was encoded is decoded, and whatever else comes in is an IntegrityError."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, strategies
from msgpack import packb

from proxyfab.errors import IntegrityError
from proxyfab.wire.messages import (
    CHUNK,
    MAX_BODY,
    MAX_HEADER,
    MAX_PARTS,
    NOBODY,
    VERSION,
    Message,
    decode,
    encode,
    parted,
    pieces,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "messages"
REQUEST = bytes(range(16))
PLAIN = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.integers(-(2**63), 2**64 - 1),
    strategies.floats(allow_nan=False),
    strategies.text(max_size=20),
    strategies.binary(max_size=20),
)
VALUES = strategies.recursive(PLAIN, lambda inner: strategies.lists(inner, max_size=4), max_leaves=10)
FIELDS = strategies.dictionaries(strategies.text(max_size=8), VALUES, max_size=6)
EXAMPLES = {
    "put": ("put", {"ns": "run7", "ids": ["a", "é"], "sizes": [3, 0], "ttl": None, "replace": False}, [b"abc"]),
    "get": ("get", {"ns": "~yt7ap3aaddkaaaauud5qaaaa", "ids": ["0" * 32], "window": 1 << 24, "shared": True}, []),
    "data": ("data", {"o": 1 << 40}, [b"\0" * 100]),
    "error": ("error", {"kind": "KeyExists", "text": "it is there"}, []),
}


@given(verb=strategies.text(max_size=10), request=strategies.binary(min_size=16, max_size=16), fields=FIELDS)
def test_what_was_encoded_is_decoded(verb, request, fields):
    assert decode([encode(verb, request, fields), b"x", b"yz"]) == Message(
        verb, request, fields, (memoryview(b"x"), memoryview(b"yz"))
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_format_stays(name):
    """A golden file is changed only with the version: older clients speak to newer servers."""
    verb, fields, body = EXAMPLES[name]
    path = GOLDEN / f"{name}.bin"
    if os.environ.get("PROXYFAB_MAKE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(verb, REQUEST, fields))

    assert path.read_bytes() == encode(verb, REQUEST, fields)
    assert decode([path.read_bytes(), *body]) == Message(verb, REQUEST, fields, tuple(map(memoryview, body)))


@given(parts=strategies.lists(strategies.binary(max_size=200), max_size=3))
def test_noise_is_refused(parts):
    with pytest.raises(IntegrityError):
        decode(parts)


@given(header=strategies.binary(max_size=40).map(lambda tail: packb([1, "get", NOBODY, {}])[:-1] + tail))
def test_what_begins_well_is_a_message_or_refused(header):
    try:
        message = decode([header])
    except IntegrityError:
        return
    assert message.verb == "get"
    assert type(message.fields) is dict


@given(position=strategies.integers(0, 10_000), bit=strategies.integers(0, 7))
def test_a_flipped_bit_is_another_message_or_refused(position, bit):
    header = bytearray(encode(*_example("put")))
    header[position % len(header)] ^= 1 << bit
    try:
        decode([header])
    except IntegrityError:
        pass


def _example(name: str) -> tuple[str, bytes, dict[str, object]]:
    verb, fields, _ = EXAMPLES[name]
    return verb, REQUEST, fields


HOSTILE = {
    "no list": packb({}),
    "too short": packb([1, "get", NOBODY]),
    "no version": packb(["1", "get", NOBODY, {}]),
    "a newer version": packb([VERSION + 1, "get", NOBODY, {}]),
    "version true": packb([True, "get", NOBODY, {}]),
    "no verb": packb([1, 5, NOBODY, {}]),
    "a short request": packb([1, "get", b"1", {}]),
    "a text as request": packb([1, "get", "1" * 16, {}]),
    "no fields": packb([1, "get", NOBODY, []]),
    "a field's name is a number": packb([1, "get", NOBODY, {"a": {5: 1}}]),
    "nested too deep": packb([1, "get", NOBODY, {"a": [[[[[[[[1]]]]]]]]}]),
    "a thousand levels": b"\x94\x01\xa3get\xc4\x10" + NOBODY + b"\x81\xa1a" + b"\x91" * 60_000 + b"\x01",
    "a list of a billion": b"\x94\x01\xa3get\xc4\x10" + NOBODY + b"\x81\xa1a\xdd\x3f\xff\xff\xff",
    "a map of a billion": b"\x94\x01\xa3get\xc4\x10" + NOBODY + b"\xdf\x3f\xff\xff\xff",
    "a text of a gigabyte": b"\x94\x01\xa3get\xc4\x10" + NOBODY + b"\x81\xa1a\xdb\x3f\xff\xff\xffabc",
    "an extension": b"\x94\x01\xa3get\xc4\x10" + NOBODY + b"\x81\xa1a\xd4\x05\x00",
    "a timestamp": b"\x94\x01\xa3get\xc4\x10" + NOBODY + b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",
    "no utf-8": b"\x94\x01\xa3\xff\xfe\xfd\xc4\x10" + NOBODY + b"\x80",
    "more behind it": packb([1, "get", NOBODY, {}]) + b"\0",
    "too large": packb([1, "get", NOBODY, {"a": "x" * MAX_HEADER}]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_and_cost_nothing(name):
    with pytest.raises(IntegrityError):
        decode([HOSTILE[name]])
    tracemalloc.start()
    with pytest.raises(IntegrityError):
        decode([HOSTILE[name]])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_newer_version_is_told_which_side_to_upgrade():
    with pytest.raises(IntegrityError, match="version 2.*speaks 1.*upgrade"):
        decode([HOSTILE["a newer version"]])


def test_parts_and_bodies_are_bounded():
    header = encode("put", NOBODY, {})
    assert decode([header, bytes(MAX_BODY)]).nbytes == MAX_BODY
    for parts in ([], [header] * (MAX_PARTS + 1), [header, bytes(CHUNK), bytes(CHUNK), b"x"]):
        with pytest.raises(IntegrityError):
            decode(parts)
    with pytest.raises(IntegrityError):
        encode("put", NOBODY, {"ids": ["x" * 100] * 1000})


def test_fields_are_asked_for_by_their_type():
    fields = {"t": "x", "n": 5, "b": True, "s": 1.5, "i": 2, "l": [1, 2], "ns": "n", "ids": ["a", "b"], "no": -1}
    message = Message("m", NOBODY, fields)

    assert (message.text("t"), message.count("n"), message.flag("b"), message.flag("n")) == ("x", 5, True, False)
    assert (message.seconds("s"), message.seconds("i"), message.seconds("none")) == (1.5, 2.0, None)
    assert (message.items("l"), message.counts("l"), message.names()) == ([1, 2], [1, 2], [("n", "a"), ("n", "b")])
    wrong = [
        lambda: message.text("n"),
        lambda: message.text("none"),
        lambda: message.count("t"),
        lambda: message.count("b"),
        lambda: message.count("no"),
        lambda: message.seconds("t"),
        lambda: message.items("n"),
        lambda: message.items("l", most=1),
        lambda: message.counts("ids"),
        lambda: Message("m", NOBODY, {"ns": "n", "ids": [""]}).names(),
        lambda: Message("m", NOBODY, {"ns": "n", "ids": ["x" * 201]}).names(),
        lambda: Message("m", NOBODY, {"ns": "n", "ids": [5]}).names(),
        lambda: Message("m", NOBODY, {"ids": ["a"]}).names(),
    ]
    for ask in wrong:
        with pytest.raises(IntegrityError, match="malformed"):
            ask()


@given(
    cuts=strategies.lists(strategies.binary(max_size=9), max_size=6),
    offset=strategies.integers(0, 40),
    length=strategies.integers(0, 40),
)
def test_pieces_are_a_slice(cuts, offset, length):
    found = pieces(tuple(map(memoryview, cuts)), offset, length)

    assert b"".join(found) == b"".join(cuts)[offset : offset + length]


@given(objects=strategies.lists(strategies.binary(max_size=9), max_size=6), seed=strategies.integers(0, 2**32))
def test_bodies_are_parted_however_they_are_cut(objects, seed):
    whole, dice = b"".join(objects), random.Random(seed)
    cuts = sorted(dice.choices(range(len(whole) + 1), k=4))
    body = [memoryview(whole[low:high]) for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    assert [b"".join(views) for views in parted(body, [len(one) for one in objects])] == objects
