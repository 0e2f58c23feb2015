"""Many at once: a batch does what a loop does."""

from __future__ import annotations

from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, KeyExists
from proxyfab.keys import Key
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.content import content


class BatchTests(Suite):
    """`put_many`, `get_many`, `exists_many`, `evict_many`."""

    def test_batches_equal_loops(self, one: Any) -> None:
        data = [b"x" * (number * 37) for number in range(50)]
        keys = one.put_many([Frames([chunk]) for chunk in data])
        mixed = [*keys, Key("missing"), keys[0], Key.draw()]

        assert len(set(keys)) == 50
        assert [content(found) for found in one.get_many(mixed)] == [content(one.get(key)) for key in mixed]
        assert [content(found) for found in one.get_many(keys)] == data
        assert one.exists_many(mixed) == [one.exists(key) for key in mixed]

    def test_a_batch_evicts_each_once(self, one: Any) -> None:
        keys = one.put_many([Frames([b"1"]), Frames([b"2"]), Frames([b"3"])])

        assert one.evict_many([keys[0], Key("missing"), keys[0], keys[2]]) == [True, False, False, True]
        assert one.exists_many(keys) == [False, True, False]

    def test_empty_batches(self, one: Any) -> None:
        assert one.put_many([]) == []
        assert one.put_many([], keys=[]) == []
        assert one.get_many([]) == []
        assert one.exists_many([]) == []
        assert one.evict_many([]) == []

    def test_a_batch_under_given_keys(self, one: Any) -> None:
        keys = [Key("a"), one.reserve(), Key("c")]
        done = one.put_many([Frames([b"1"]), Frames([b"2"]), Frames([b"3"])], keys=keys)

        assert [key.id for key in done] == [key.id for key in keys]
        assert [content(found) for found in one.get_many(keys)] == [b"1", b"2", b"3"]

    def test_a_batch_is_written_once_too(self, one: Any) -> None:
        one.put(Frames([b"old"]), key=Key("b"))
        with pytest.raises(KeyExists):
            one.put_many([Frames([b"1"]), Frames([b"2"])], keys=[Key("a"), Key("b")])
        assert content(one.get(Key("b"))) == b"old"

        one.put_many([Frames([b"1"]), Frames([b"2"])], keys=[Key("a"), Key("b")], replace=True)
        assert [content(found) for found in one.get_many([Key("a"), Key("b")])] == [b"1", b"2"]

    def test_a_batch_keeps_its_time_to_live(self, one: Any) -> None:
        keys = one.put_many([Frames([b"1"]), Frames([b"2"])], ttl=100)

        assert [one.stat(key).expires is not None for key in keys] == [True, True]

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_keys_and_objects_must_be_as_many(self, one: Any, count: int) -> None:
        keys = [Key(f"k{number}") for number in range(count)]
        with pytest.raises(ConfigurationError, match="2"):
            one.put_many([Frames([b"1"]), Frames([b"2"])], keys=keys)

        assert one.exists_many(keys) == [False] * count

    def test_a_batch_of_a_thousand(self, one: Any) -> None:
        data = [b"%d" % number for number in range(1000)]
        keys = one.put_many([Frames([chunk]) for chunk in data])

        assert [content(found) for found in one.get_many(keys)] == data
        assert one.evict_many(keys) == [True] * 1000
