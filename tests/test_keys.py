"""Keys: frozen, hashable, printable, parseable; never a tuple."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, strategies

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, KeyExists
from proxyfab.keys import MAX_ID, Fresh, Key, as_key
from proxyfab.opening import open_connector
from proxyfab.testing.processes import in_fork

IDS = strategies.text(min_size=1, max_size=MAX_ID).filter(
    lambda text: "@" not in text and text.isprintable() and text == text.strip()
)


@given(IDS, strategies.text(max_size=50))
def test_a_key_survives_as_text_and_as_pickle(id: str, where: str) -> None:
    key = Key(id, where)

    assert Key.parse(str(key)) == as_key(str(key)) == as_key(key) == key
    assert pickle.loads(pickle.dumps(key)) == key
    assert hash(Key.parse(str(key))) == hash(key)
    assert copy.copy(key) == copy.deepcopy(key) == key


@pytest.mark.parametrize("id", ["", "x" * 201, "a@b", "a\nb", " a", "a ", "\x00", "a\x7f", "\u200b", "\ud800"])
def test_an_id_that_is_none_is_refused(id: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name an object"):
        Key(id)


@pytest.mark.parametrize("id", ["x", "x" * 200, "a b", "é", "日本", "../..", "a/b", "~", "."])
def test_an_id_may_be_almost_anything(id: str) -> None:
    assert Key(id).id == id


def test_keys_are_equal_by_id_and_place() -> None:
    assert Key("a") == Key("a")
    assert Key("a") != Key("b")
    assert Key("a", "here") != Key("a", "there")
    assert Key("a") != "a"
    assert len({Key("a"), Key("a"), Key("a", "x"), Key("b")}) == 3


def test_a_key_says_where_it_is() -> None:
    key = Key("a").at("shm:x@y")

    assert str(key) == "a@shm:x@y"
    assert repr(key) == "Key('a@shm:x@y')"
    assert (key.id, key.where) == ("a", "shm:x@y")
    assert str(Key("a")) == "a"


def test_a_key_is_frozen_and_no_tuple() -> None:
    key = Key("a")
    with pytest.raises(AttributeError, match="frozen"):
        key.id = "b"
    with pytest.raises(AttributeError, match="frozen"):
        del key.id
    with pytest.raises(AttributeError):
        key.more = 1

    assert not isinstance(key, (tuple, list, str, dict))
    assert not hasattr(key, "__iter__")


def test_drawn_keys_are_all_different_also_in_forks() -> None:
    keys = {Key.draw().id for _ in range(1000)}
    keys |= set(in_fork(lambda: [Key.draw().id for _ in range(1000)]))
    keys |= set(in_fork(lambda: [Key.draw().id for _ in range(1000)]))

    assert len(keys) == 3000
    assert {len(id) for id in keys} == {32}
    assert all(set(id) <= set("0123456789abcdef") for id in keys)


def test_many_are_drawn_as_one_is() -> None:
    keys = Key.draw_many(500, "there")

    assert len({key.id for key in keys} | {key.id for key in Key.draw_many(500)}) == 1000
    assert {key.where for key in keys} == {"there"}
    assert all(Key(key.id, key.where) == key and len(key.id) == 32 for key in keys)
    assert Key.draw_many(0) == []


def test_a_drawn_key_is_small_on_the_wire() -> None:
    assert len(pickle.dumps(Key.draw("~3f9a2c1e"), 5)) < 120


def test_drawing_needs_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    Key.draw()

    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_fresh_key_is_a_key_that_says_one_thing_more() -> None:
    """To whoever asks; it compares, prints and travels as any other, and there it is one."""
    drawn = Key.draw("here")
    fresh = Fresh.of(drawn)
    assert fresh == drawn
    assert len({fresh, drawn}) == 1
    assert str(fresh) == str(drawn)
    assert [type(key) for key in (fresh.plain(), fresh.at("there"), pickle.loads(pickle.dumps(fresh)))] == [Key] * 3
    assert fresh.plain() == pickle.loads(pickle.dumps(fresh)) == drawn
    with pytest.raises(AttributeError):
        fresh.id = "other"


@pytest.mark.parametrize("place", ["shm://", "file://{}", "memory://"])
@pytest.mark.parametrize("nbytes", [10, 1_000_000])
def test_a_fresh_key_is_good_for_one_put(place: str, nbytes: int, tmp_path: Path) -> None:
    with open_connector(place.format(tmp_path)) as connector:
        fresh = Fresh.of(connector.reserve())
        key = connector.put(Frames([bytes(nbytes)]), key=fresh)
        assert type(key) is Key
        assert connector.get(key) == Frames([bytes(nbytes)])
        with pytest.raises(KeyExists):
            connector.put(Frames([b"other"]), key=fresh)
        assert connector.evict(key)
