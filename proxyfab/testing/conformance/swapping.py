"""Compare and set: of those who believe the same one wins; nothing is lost between threads, processes, or by a kill."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from proxyfab.abc import LARGEST_SWAP, Swap
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError
from proxyfab.keys import Key
from proxyfab.testing import roles
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.content import content, is_whole, plain, signed
from proxyfab.testing.processes import Child, at_once, until

A, B = Frames([b"a"]), Frames([b"b"])


class SwapTests(Suite):
    """`compare_and_set`, where the connector has it."""

    @pytest.fixture
    def swapper(self, one: Any) -> Any:
        """A fresh connector that can compare and set."""
        self.claim("swaps")
        return one

    def test_it_changes_what_is_as_believed(self, swapper: Any) -> None:
        key = Key("k")

        assert swapper.compare_and_set(key, None, A) is True
        assert swapper.compare_and_set(key, None, B) is False
        assert swapper.compare_and_set(key, B, A) is False
        assert content(swapper.get(key)) == b"a"
        assert swapper.compare_and_set(key, A, B) is True
        assert content(swapper.get(key)) == b"b"
        assert swapper.compare_and_set(key, A, None) is False
        assert swapper.compare_and_set(key, None, None) is False
        assert swapper.compare_and_set(key, B, None) is True
        assert swapper.get(key) is None
        assert swapper.compare_and_set(key, None, None) is True
        assert swapper.compare_and_set(key, B, A) is False
        assert not swapper.exists(key)

    def test_many_at_once_are_each_compared(self, swapper: Any) -> None:
        """Also where one key is named twice, and where there are more than go into one message."""
        there = swapper.put_many([A] * 400)
        new = [swapper.reserve() for _ in range(3)]
        large = swapper.put(Frames([plain(200_000)]))
        swaps = [Swap(key, A if number % 3 else B, None if number % 2 else B) for number, key in enumerate(there)]
        swaps += [Swap(new[0], None, A), Swap(new[1], A, B), Swap(new[2], None, None)]
        swaps += [Swap(large, Frames([plain(200_000)]), A, 1000)]

        done = swapper.compare_and_set_many(swaps)

        assert done == [bool(number % 3) for number in range(400)] + [True, False, True, True]
        found = [None if frames is None else content(frames) for frames in swapper.get_many([*there, *new, large])]
        kept = [b"a" if number % 3 == 0 else None if number % 2 else b"b" for number in range(400)]
        assert found == [*kept, b"a", None, None, b"a"]
        assert swapper.stat(large).expires is not None
        assert sorted(swapper.compare_and_set_many([Swap(large, A, B), Swap(large, A, B)])) == [False, True]
        assert swapper.compare_and_set_many([]) == []

    def test_any_key_will_do(self, swapper: Any) -> None:
        for key in (swapper.put(A), swapper.put(A, key=Key("named")), swapper.put(A, key=Key("../odd . name" * 12))):
            assert swapper.compare_and_set(key, A, B) is True
            assert content(swapper.get(key)) == b"b"
            assert swapper.stat(key).key.id == key.id
        reserved = swapper.reserve()
        assert swapper.compare_and_set(reserved, A, B) is False
        assert swapper.compare_and_set(reserved, None, B) is True
        assert content(swapper.get(reserved)) == b"b"

    def test_bytes_are_compared_and_not_pieces(self, swapper: Any) -> None:
        key = swapper.put(Frames([b"one", b"two"]))

        assert swapper.compare_and_set(key, Frames([b"onetwo!"]), A) is False
        assert swapper.compare_and_set(key, Frames([b"", b"onet", b"wo"]), Frames()) is True
        assert content(swapper.get(key)) == b""
        assert swapper.compare_and_set(key, Frames(), A) is True

    @pytest.mark.parametrize("nbytes", [5000, 200_000, LARGEST_SWAP - 1000])
    def test_objects_of_any_size_it_takes(self, swapper: Any, nbytes: int) -> None:
        """Each layer may add a header of its own."""
        old, new = Frames([plain(nbytes)]), Frames([plain(nbytes, 1)])
        key = swapper.put(old)

        assert swapper.compare_and_set(key, new, old) is False
        assert swapper.compare_and_set(key, old, new) is True
        assert swapper.get(key) == new

    def test_larger_ones_are_refused(self, swapper: Any) -> None:
        large = Frames([bytes(LARGEST_SWAP + 1)])
        key = swapper.put(A)
        for old, new in ((large, A), (A, large), (None, large)):
            with pytest.raises(ConfigurationError):
                swapper.compare_and_set(key, old, new)
        with pytest.raises(ConfigurationError):
            swapper.compare_and_set(key, A, B, ttl=-1)

        assert swapper.get(key) == A

    def test_a_time_to_live(self, swapper: Any) -> None:
        key = swapper.put(A, ttl=1000)

        assert swapper.compare_and_set(key, A, B) is True
        assert swapper.stat(key).expires is None
        assert swapper.compare_and_set(key, B, A, ttl=0.03) is True
        assert until(lambda: not swapper.exists(key))
        assert swapper.compare_and_set(key, A, B) is False
        assert swapper.compare_and_set(key, None, None) is True
        assert swapper.compare_and_set(key, None, B) is True
        assert content(swapper.get(key)) == b"b"

    def test_a_held_object_stays_as_it_was(self, swapper: Any) -> None:
        old = Frames([plain(300_000)])
        key = swapper.put(old)
        held = swapper.get(key)
        assert swapper.compare_and_set(key, old, A) is True
        for seed in range(3):
            swapper.put(Frames([plain(300_000, seed)]))

        assert held == old

    def test_of_many_threads_one_wins(self, swapper: Any) -> None:
        for round in range(5):
            old = None if round == 0 else swapper.get(Key("k"))
            calls: list[Callable[[], Any]] = [
                partial(swapper.compare_and_set, Key("k"), old, signed(100, 4 * round + seed)) for seed in range(4)
            ]
            wins = at_once(calls)
            assert sorted(wins) == [False, False, False, True]
            assert swapper.get(Key("k")) == signed(100, 4 * round + wins.index(True))

    def test_threads_that_count_lose_nothing(self, swapper: Any) -> None:
        key = Key("count")
        at_once([lambda: roles.count_up(swapper, key, 20)] * 4, timeout=60)

        assert content(swapper.get(key)) == b"80"

    def test_beside_those_who_do_not_compare(self, swapper: Any) -> None:
        """Whichever came first: what was replaced stays replaced, and what was evicted is gone."""
        key = Key("k")
        for _ in range(20):
            swapper.put(A, key=key, replace=True)
            at_once(
                [lambda: swapper.put(signed(50), key=key, replace=True), lambda: swapper.compare_and_set(key, A, B)]
            )
            assert swapper.get(key) == signed(50)
            swapper.put(A, key=key, replace=True)
            assert at_once([lambda: swapper.evict(key), lambda: swapper.compare_and_set(key, A, B)])[0] is True
            assert swapper.get(key) is None

    def test_processes_that_count_lose_nothing(self, swapper: Any) -> None:
        self.claim("crosses_processes")
        key = Key("count")
        with Child(roles.count, swapper, key, 40) as one, Child(roles.count, swapper, key, 40) as other:
            for child in (one, other):
                child.receive()
            for child in (one, other):
                child.send("start")
            roles.count_up(swapper, key, 40)
            assert one.result() + other.result() == 80

        assert content(swapper.get(key)) == b"120"

    @pytest.mark.parametrize("nbytes", [100, 200_000])
    def test_a_kill_leaves_the_old_or_the_new(self, swapper: Any, nbytes: int) -> None:
        self.claim("crosses_processes")
        key = swapper.put(signed(nbytes), key=Key("k"))
        for rounds in (1, 3, 8):
            with Child(roles.swap_until_killed, swapper, key, nbytes) as child:
                for _ in range(rounds):
                    child.receive()
                child.kill()
            found = swapper.get(key)
            assert is_whole(found)
            assert swapper.compare_and_set(key, found, signed(nbytes)) is True
        assert swapper.evict(key)
        if self.scans:
            assert key.id not in [stat.key.id for stat in swapper.scan()]
