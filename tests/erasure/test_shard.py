"""Stored shards and locators: their bytes for good, and every way in which they may be wrong."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator, Lying
from proxyfab.erasure.shard import BLAKE2B, DIGESTS, XXH3, Shape, content_of, digest_of, header_of, packed
from proxyfab.errors import ConfigurationError, IntegrityError

ID = bytes(range(16))
SHAPE = Shape(ID, 4, 2, 19, XXH3)
CONTENT = Frames([b"ab", b"cde"])
GOLDEN = (
    "50464543010302050001020304050607"
    "08090a0b0c0d0e0f1300000000000000"
    "01000000000000003043c78169f25c3f"
    "97d5a48ef320eec200000000440b7aca"
    "6162636465"
)


def test_the_form_of_a_shard_never_changes() -> None:
    stored, digest = packed(SHAPE, 5, CONTENT)
    assert stored.tobytes().hex() == GOLDEN
    assert digest == stored.tobytes()[40:56] == digest_of(XXH3, CONTENT)
    assert header_of(Frames([bytes.fromhex(GOLDEN)])) == (SHAPE, 5, digest)


@pytest.mark.parametrize("kind", DIGESTS)
def test_what_was_stored_comes_back_and_nothing_is_copied(kind: int) -> None:
    shape = SHAPE._replace(digest=kind)
    stored, digest = packed(shape, 0, CONTENT)
    assert stored.views[1:] == CONTENT.views
    assert content_of(Frames([stored.tobytes()]), shape, 0, digest) == CONTENT
    assert content_of(stored, shape, 0) == CONTENT
    assert header_of(packed(Shape(ID, 256, 0, 0), 255, Frames())[0]).number == 255


def test_each_broken_byte_and_each_cut_is_noticed() -> None:
    stored, digest = packed(SHAPE, 3, CONTENT)
    raw = stored.tobytes()
    for at, bit in product(range(len(raw)), (1, 128)):
        broken = raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]
        with pytest.raises(IntegrityError, match=r"\.$"):
            content_of(Frames([broken]), SHAPE, 3, digest)
    for end in range(len(raw)):
        with pytest.raises(IntegrityError, match=r"\.$"):
            content_of(Frames([raw[:end]]), SHAPE, 3)
    with pytest.raises(IntegrityError, match="it was cut"):
        header_of(Frames([raw, b"more"]))


def test_the_right_bytes_of_something_else_are_wrong() -> None:
    stored, digest = packed(SHAPE, 3, CONTENT)
    for shape, index in (
        (SHAPE, 2),
        (SHAPE._replace(id=bytes(16)), 3),
        (SHAPE._replace(size=20), 3),
        (SHAPE._replace(m=3), 3),
        (SHAPE._replace(digest=BLAKE2B), 3),
    ):
        with pytest.raises(IntegrityError, match="a shard of another object, or another shard"):
            content_of(stored, shape, index, digest)
    with pytest.raises(IntegrityError, match="not what was written"):
        content_of(stored, SHAPE, 3, bytes(16))


def locator(wheres: list[str]) -> Locator:
    shards = [Lying(f"c{index:03}".encode(), where, bytes([index]) * 16) for index, where in enumerate(wheres)]
    return Locator(SHAPE, bytes(range(16, 32)), tuple(shards))


@given(st.lists(st.text(max_size=40), min_size=6, max_size=6), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_locator_is_text_and_back(wheres: list[str], lost: int) -> None:
    one = locator(wheres)
    one = one._replace(shards=(*one.shards[:lost], Lying(b"", "", bytes(16)), *one.shards[lost + 1 :]))
    assert Locator.parse(str(one)) == one
    assert str(one).isascii()
    assert set(str(one)).isdisjoint("@ =;&?/")


def test_a_key_of_six_shards_is_short() -> None:
    assert len(str(locator(["/namespace"] * 6))) < 350


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_what_is_no_locator_and_no_shard(raw: bytes) -> None:
    with pytest.raises(ConfigurationError, match="does not say where shards lie"):
        Locator.parse(raw.decode("latin-1"))
    with pytest.raises(IntegrityError, match=r"\.$"):
        header_of(Frames([raw]))


def test_each_cut_of_a_locator_is_noticed() -> None:
    text = str(locator(["", "x", "/y", "", "", "z"]))
    for end in range(len(text)):
        with pytest.raises(ConfigurationError, match="does not say where shards lie"):
            Locator.parse(text[:end])
    with pytest.raises(ConfigurationError, match="does not say"):
        Locator.parse(text + "AAAA")
    with pytest.raises(ConfigurationError, match="a key holds 65,535 for each shard"):
        str(locator(["x" * 70_000]))
