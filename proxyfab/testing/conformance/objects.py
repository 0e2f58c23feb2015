"""One object: it is there, once, whole, until it is evicted; and missing is not an error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from proxyfab.abc import Stat
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, KeyExists, ProxyfabError
from proxyfab.keys import Key
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import content

ODD_IDS = [
    "a",
    "A",
    "\u00e9",
    "e\u0301",
    "a/b",
    "/etc/passwd",
    "../../up",
    ".",
    "..",
    ".owner",
    ".proxyfab",
    "~x",
    "a\\b",
    "with space",
    "%2F",
    "a?b#c",
    "-rf",
    "*",
    "'\";--",
    "{0}",
    "x" * 200,
    "X" * 200,
    "\u00fc" * 200,
    "\u65e5\u672c" * 100,
    "0" * 32,
    "f" * 32,
]


class ObjectTests(Suite):
    """Rules 1 and 3, and the ids that a key may have."""

    def test_what_was_put_can_be_got(self, one: Any) -> None:
        key = one.put(Frames([b"some", b"", b" bytes"]))

        assert content(one.get(key)) == b"some bytes"
        assert one.exists(key) is True

    def test_two_puts_draw_two_keys(self, one: Any) -> None:
        first, second = one.put(Frames([b"1"])), one.put(Frames([b"1"]))

        assert first != second
        assert [content(one.get(key)) for key in (first, second)] == [b"1", b"1"]

    def test_a_get_can_be_repeated(self, one: Any) -> None:
        key = one.put(Frames([b"again"]))

        assert [content(one.get(key)) for _ in range(3)] == [b"again"] * 3

    def test_missing_is_none_or_false(self, one: Any) -> None:
        for key in (Key("never"), Key.draw(), one.reserve()):
            assert one.get(key) is None
            assert one.stat(key) is None
            assert one.exists(key) is False
            assert one.evict(key) is False
            assert one.get_range(key, 0, 10) is None

    def test_evicted_is_missing(self, one: Any) -> None:
        key = one.put(Frames([b"x"]))

        assert one.evict(key) is True
        assert (one.get(key), one.stat(key), one.exists(key), one.evict(key)) == (None, None, False, False)

    def test_an_evicted_object_stays_readable_for_who_has_it(self, one: Any) -> None:
        data = b"old" * 100_000
        views = one.get(one.put(Frames([data]), key=Key("k")))
        one.evict(Key("k"))
        for _ in range(4):  # whatever might recycle the memory
            one.put(Frames([b"new" * 100_000]))

        assert content(views) == data

    def test_a_replaced_object_stays_readable_for_who_has_it(self, one: Any) -> None:
        old, new = b"old" * 50_000, b"new" * 50_000
        views = one.get(one.put(Frames([old]), key=Key("k")))
        one.put(Frames([new]), key=Key("k"), replace=True)

        assert content(views) == old
        assert content(one.get(Key("k"))) == new

    def test_a_cleared_and_closed_connector_leaves_views_whole(self, one: Any) -> None:
        data = b"kept" * 50_000
        views = one.get(one.put(Frames([data])))
        one.clear()
        one.close()

        assert content(views) == data

    def test_a_put_keeps_what_the_bytes_were(self, one: Any) -> None:
        buffer = bytearray(b"before" * 1000)
        key = one.put(Frames([buffer]))
        buffer[:6] = b"AFTER!"

        assert content(one.get(key)) == b"before" * 1000

    def test_who_reads_shared_bytes_cannot_write_them(self, one: Any) -> None:
        views = one.get(one.put(Frames([b"shared" * 1000])))

        assert all(view.readonly for view in views) or not one.local

    def test_objects_are_written_once(self, one: Any) -> None:
        one.put(Frames([b"first"]), key=Key("k"))
        with pytest.raises(KeyExists, match="k"):
            one.put(Frames([b"second"]), key=Key("k"))

        assert content(one.get(Key("k"))) == b"first"

    @pytest.mark.parametrize("sizes", [(10, 100_000), (100_000, 10), (10, 0), (0, 10), (5, 5)])
    def test_replace_replaces(self, one: Any, sizes: tuple[int, int]) -> None:
        first, second = b"1" * sizes[0], b"2" * sizes[1]
        one.put(Frames([first]), key=Key("k"))
        one.put(Frames([second]), key=Key("k"), replace=True)

        assert content(one.get(Key("k"))) == second
        assert one.evict(Key("k")) is True
        assert one.exists(Key("k")) is False

    def test_replace_needs_nothing_to_replace(self, one: Any) -> None:
        one.put(Frames([b"new"]), key=Key("k"), replace=True)

        assert content(one.get(Key("k"))) == b"new"

    def test_an_evicted_key_can_be_put_again(self, one: Any) -> None:
        for number in range(3):
            one.put(Frames([b"%d" % number]), key=Key("k"))
            assert content(one.get(Key("k"))) == b"%d" % number
            assert one.evict(Key("k"))

    def test_a_reserved_key_is_free_and_can_be_put(self, one: Any) -> None:
        keys = [one.reserve() for _ in range(20)]
        assert len(set(keys)) == 20
        assert one.exists_many(keys) == [False] * 20

        done = one.put(Frames([b"later"]), key=keys[0])

        assert done.id == keys[0].id
        assert content(one.get(keys[0])) == content(one.get(done)) == b"later"

    def test_a_key_survives_as_text(self, one: Any) -> None:
        key = one.put(Frames([b"text"]))

        assert Key.parse(str(key)) == key
        assert content(one.get(Key.parse(str(key)))) == b"text"

    def test_any_id_is_its_own_key(self, one: Any) -> None:
        ids = ODD_IDS
        keys = [one.put(Frames([id.encode()]), key=Key(id)) for id in ids]

        assert [key.id for key in keys] == ids
        assert [content(one.get(Key(id))) for id in ids] == [id.encode() for id in ids]
        assert [content(one.get(key)) for key in keys] == [id.encode() for id in ids]
        assert one.evict_many([Key(id) for id in ids]) == [True] * len(ids)
        assert one.exists_many(keys) == [False] * len(ids)

    def test_stat_tells(self, one: Any) -> None:
        before = time.time()
        key = one.put(Frames([b"12345", b"678"]))
        stat = one.stat(key)

        assert isinstance(stat, Stat)
        assert stat.nbytes == 8
        assert stat.expires is None
        assert before - 2 < stat.created < time.time() + 2
        assert stat.key.id == key.id
        assert content(one.get(stat.key)) == b"12345678"

    def test_clear_deletes_its_own_namespace_and_counts(self, connect: Open) -> None:
        one, other = connect("one"), connect("other")
        keys = [one.put(Frames([b"x"])) for _ in range(3)]
        kept = other.put(Frames([b"kept"]))
        one.evict(keys[0])

        assert one.clear() == 2
        assert one.exists_many(keys) == [False] * 3
        assert one.clear() == 0
        assert content(other.get(kept)) == b"kept"
        assert content(one.get(one.put(Frames([b"after"])))) == b"after"

    def test_scan_lists_a_namespace(self, connect: Open) -> None:
        self.claim("scans")
        one, other = connect("one"), connect("other")
        other.put(Frames([b"not mine"]))
        keys = {one.put(Frames([b"x" * number]), key=Key(f"k{number}")): number for number in range(5)}
        gone = one.put(Frames([b"gone"]))
        one.evict(gone)
        stats = list(one.scan())

        assert {stat.key.id: stat.nbytes for stat in stats} == {key.id: number for key, number in keys.items()}
        assert {(stat.namespace, stat.owner) for stat in stats} == {(one.stat(next(iter(keys))).namespace, "")}
        assert [one.exists(stat.key) for stat in stats] == [True] * 5

    def test_a_key_of_another_store_is_refused(self, one: Any) -> None:
        stranger = Key("0" * 32, "some-other-place.example:7")
        calls: list[Callable[[], Any]] = [
            lambda: one.get(stranger),
            lambda: one.exists(stranger),
            lambda: one.evict(stranger),
            lambda: one.stat(stranger),
            lambda: one.get_range(stranger, 0, 1),
            lambda: one.wait(stranger, 0.05),
            lambda: one.put(Frames([b"x"]), key=stranger),
            *([lambda: one.renew(stranger, 10)] if self.leases else []),
        ]
        for call in calls:
            with pytest.raises(ProxyfabError, match=r"some-other-place|0{32}"):
                call()

    def test_neighbours_read_each_others_keys(self, connect: Open) -> None:
        self.claim("reads_neighbours")
        one, other = connect(), connect("other")
        keys = [one.put(Frames([b"ephemeral"])), other.put(Frames([b"named"]))]

        for reader in (one, other, connect()):
            assert [content(reader.get(key)) for key in keys] == [b"ephemeral", b"named"]
            assert reader.exists_many(keys) == [True, True]
            assert [reader.stat(key).nbytes for key in keys] == [9, 5]
        assert connect().evict_many(keys) == [True, True]
        assert one.get_many(keys) == [None, None]

    def test_a_plain_id_means_the_own_namespace(self, connect: Open) -> None:
        one, other = connect(), connect()
        one.put(Frames([b"mine"]), key=Key("k"))

        assert other.get(Key("k")) is None
        other.put(Frames([b"yours"]), key=Key("k"))
        assert content(one.get(Key("k"))) == b"mine"

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), -0.5])
    def test_a_ttl_that_makes_no_sense_is_refused(self, one: Any, ttl: float) -> None:
        with pytest.raises(ConfigurationError):
            one.put(Frames([b"x"]), key=Key("k"), ttl=ttl)

        assert one.exists(Key("k")) is False
