"""ByteLRU: bounded by bytes, youngest last, safe for threads and forks; compared with a plain model."""

from __future__ import annotations

import random
from collections import OrderedDict
from functools import partial

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxyfab.cache import ByteLRU
from proxyfab.testing.processes import at_once, in_fork

LIMIT = 100
KEYS = strategies.integers(0, 7)


class AgainstAModel(RuleBasedStateMachine):
    """The peer's list-based LRU breaks when a key is set twice and then evicted; this walks there and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: ByteLRU[int, bytes] = ByteLRU(LIMIT, len)
        self.model: OrderedDict[int, bytes] = OrderedDict()

    @rule(key=KEYS, size=strategies.integers(0, LIMIT + 20))
    def put(self, key: int, size: int) -> None:
        value = bytes(size)
        self.cache.put(key, value)
        self.model.pop(key, None)
        if size <= LIMIT:
            self.model[key] = value
        while sum(map(len, self.model.values())) > LIMIT:
            self.model.popitem(last=False)

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        assert self.cache.get(key) == self.model.get(key)
        if key in self.model:
            self.model.move_to_end(key)

    @rule(key=KEYS)
    def pop(self, key: int) -> None:
        assert self.cache.pop(key) == self.model.pop(key, None)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()

    @invariant()
    def bound_holds(self) -> None:
        assert self.cache.nbytes == sum(map(len, self.model.values())) <= LIMIT
        assert len(self.cache) == len(self.model)


TestAgainstAModel = AgainstAModel.TestCase


def test_the_oldest_goes_first_and_a_get_makes_young() -> None:
    cache: ByteLRU[str, bytes] = ByteLRU(30, len)
    for key in "abc":
        cache.put(key, bytes(10))
    cache.get("a")
    cache.put("d", bytes(10))

    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]


def test_too_large_is_not_kept_and_takes_the_old_value_along() -> None:
    cache: ByteLRU[str, bytes] = ByteLRU(10, len)
    cache.put("a", bytes(5))
    cache.put("b", bytes(5))
    cache.put("a", bytes(11))

    assert cache.get("a") is None
    assert cache.get("b") is not None
    assert cache.nbytes == 5


def test_no_room_keeps_nothing() -> None:
    cache: ByteLRU[str, bytes] = ByteLRU(0, len)
    cache.put("a", b"x")

    assert len(cache) == 0


@pytest.mark.parametrize("empty", [b"", 0, ""])
def test_a_value_may_be_empty(empty: object) -> None:
    cache: ByteLRU[str, object] = ByteLRU(10, lambda value: 1)
    cache.put("a", empty)

    assert cache.get("a") == empty
    assert cache.pop("a") == empty
    assert cache.nbytes == 0


def test_a_size_that_changed_meanwhile_does_not_break_the_count() -> None:
    """Sizes are taken when a value comes in: a value that grows later must not make the bound drift."""
    cache: ByteLRU[str, bytearray] = ByteLRU(100, len)
    value = bytearray(10)
    cache.put("a", value)
    value.extend(bytes(50))
    cache.pop("a")

    assert cache.nbytes == 0


def test_threads_keep_the_count() -> None:
    cache: ByteLRU[int, bytes] = ByteLRU(500, len)

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(2000):
            key = dice.randrange(20)
            dice.choice([cache.get, cache.pop, lambda key: cache.put(key, bytes(dice.randrange(60)))])(key)

    assert at_once([partial(work, seed) for seed in range(8)]) == [None] * 8
    assert 0 <= cache.nbytes <= 500
    for key in range(20):
        cache.pop(key)
    assert (cache.nbytes, len(cache)) == (0, 0)


def test_a_fork_starts_empty_and_unlocked() -> None:
    cache: ByteLRU[str, bytes] = ByteLRU(100, len)
    cache.put("a", b"parent's")

    def work() -> tuple[int, bytes | None]:
        cache.put("b", b"child's")
        return len(cache), cache.get("b")

    with cache._lock:  # as if another thread were in the middle of a change
        assert in_fork(work) == (1, b"child's")
    assert cache.get("a") == b"parent's"


def test_collecting_garbage_inside_may_come_back():
    """A finalizer that runs while the lock is held and uses the same cache must not wait for its own thread."""

    class Key(int):
        def __hash__(self) -> int:
            cache.put(1, b"finalized")
            return int(self)

    cache: ByteLRU[int, bytes] = ByteLRU(LIMIT, len)
    in_time = at_once([lambda: cache.put(Key(2), b"value"), lambda: cache.get(Key(2))], timeout=20)
    assert None in in_time
    assert cache.get(1) == b"finalized"
