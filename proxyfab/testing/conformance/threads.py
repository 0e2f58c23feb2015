"""Many threads at one connector: nothing torn, nothing twice, nothing lost."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import KeyExists
from proxyfab.keys import Key
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import DEADLINE, at_once

THREADS = 8
ROUNDS = 120


def failures(results: list[Any]) -> list[BaseException]:
    """The exceptions among the results; where they came from is printed, for who reads of a failure."""
    found = [result for result in results if isinstance(result, BaseException)]
    for error in found:
        traceback.print_exception(error)
    return found


class ThreadTests(Suite):
    """Rule 6, within one process."""

    def test_threads_share_a_connector(self, one: Any) -> None:
        def work(seed: int) -> bool:
            keys = [one.put(signed(1000 * seed + number, number)) for number in range(20)]
            whole = all(is_whole(one.get(key)) for key in keys)
            return whole and one.evict_many(keys) == [True] * 20

        assert at_once([partial(work, seed) for seed in range(THREADS)]) == [True] * THREADS

    def test_the_first_operation_may_be_many(self, one: Any) -> None:
        """Opening is lazy, so that threads may all be the first."""
        keys = at_once([lambda: one.put(Frames([b"x"]))] * THREADS)

        assert failures(keys) == []
        assert one.exists_many(keys) == [True] * THREADS

    def test_of_many_writers_one_wins(self, one: Any) -> None:
        for number in range(10):
            key = Key(f"prize-{number}")
            results = at_once([partial(one.put, signed(5000, seed), key=key) for seed in range(THREADS)])
            losers = failures(results)

            assert [type(loser) for loser in losers] == [KeyExists] * (THREADS - 1)
            winner = next(seed for seed, result in enumerate(results) if not isinstance(result, BaseException))
            assert one.get(key) == signed(5000, winner)

    def test_of_many_evictors_one_wins(self, one: Any) -> None:
        for number in range(10):
            key = one.put(Frames([b"x"]), key=Key(f"k-{number}"))
            results = at_once([partial(one.evict, key)] * THREADS)

            assert sorted(results) == [False] * (THREADS - 1) + [True]

    def test_hammering_tears_nothing(self, one: Any) -> None:
        """Puts, replaces, evicts and gets of few keys; what was got is checked at once and again at the end."""
        keys = [Key(f"anvil-{number}") for number in range(4)]
        prepared = [signed(nbytes, nbytes) for nbytes in (32, 5_000, 300_000, 301_000)]

        def work(seed: int) -> int:
            dice = random.Random(seed)
            held: list[Frames] = []
            for _ in range(ROUNDS):
                key = dice.choice(keys)
                step = dice.random()
                if step < 0.3:
                    one.put(dice.choice(prepared), key=key, replace=True)
                elif step < 0.4:
                    one.evict(key)
                elif (found := one.get(key)) is not None:
                    assert is_whole(found), f"{key} was torn"
                    held = [*held[-7:], found]
            assert all(map(is_whole, held)), "what was got has changed"
            return ROUNDS

        assert failures(at_once([partial(work, seed) for seed in range(THREADS)])) == []

    def test_a_put_after_an_evict_is_never_lost(self, one: Any) -> None:
        """Each key has one owner who puts it and looks; others reap, clear nothing, and list meanwhile."""
        owners = 4
        over: list[int] = []

        def owner(seed: int) -> None:
            try:
                for number in range(30):
                    ttl = 0.001 if number % 2 else None
                    key = one.put(signed(200, seed), key=Key(f"{seed}-{number % 3}"), ttl=ttl, replace=True)
                    if number % 2 == 0:
                        assert is_whole(one.get(key) or Frames()), f"{key} was lost"
            finally:
                over.append(seed)

        def sweeper() -> None:
            sweeps = 0
            while sweeps < 60 and len(over) < owners:  # behind that there is nothing to lose
                sweeps += 1
                if self.reaps:
                    one.reap()
                if self.scans:
                    assert all(0 < stat.nbytes < 400 for stat in one.scan())  # a layer changes the size

        works: list[Callable[[], object]] = [*(partial(owner, seed) for seed in range(owners)), sweeper, sweeper]
        assert failures(at_once(works, 3 * DEADLINE)) == []  # a place of many places has much to do

    def test_the_expired_key_has_one_new_writer(self, one: Any) -> None:
        for number in range(5):
            key = Key(f"again-{number}")
            one.put(Frames([b"old"]), key=key, ttl=0.001)
            while one.exists(key):
                pass
            results = at_once([partial(one.put, signed(64, seed), key=key) for seed in range(THREADS)])
            winners = [seed for seed, result in enumerate(results) if not isinstance(result, BaseException)]

            assert len(winners) == 1
            assert one.get(key) == signed(64, winners[0])
