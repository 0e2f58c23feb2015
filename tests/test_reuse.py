"""Reuse: the same object handed out twice is stored once, and never a stale one."""

from __future__ import annotations

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.connectors import MemoryConnector
from proxyfab.reuse import REMEMBERED


class Far(MemoryConnector):
    """Memory whose gets are counted and not free."""

    local = False
    gets = 0

    def get(self, key):
        self.gets += 1
        return super().get(key)


@pytest.fixture(params=[MemoryConnector, Far])
def store(request):
    with Store(request.param(), inline_below=0) as store:
        yield store


@pytest.mark.parametrize("make", [lambda: np.arange(5000), lambda: b"x" * 9000, lambda: ["a", 1], lambda: {"k": b"v"}])
def test_once_for_the_same_object(store, make):
    """Arrays, bytes, lists and dicts."""
    obj = make()
    keys = {store.ref(obj).key for _ in range(5)}
    assert len(keys) == 1
    assert store.stats()["put"]["count"] == 1


def test_a_change_anywhere_is_noticed(store):
    """Also one between the sampled places, of one byte."""
    array = np.zeros(1_000_000, np.uint8)
    seen = set()
    for index in (0, 999_999, 500_001, 12_345):
        seen.add(store.ref(array).key)
        array[index] ^= 1
    last = store.ref(array)
    assert len(seen | {last.key}) == 5
    assert last.resolve().sum() == 4


def test_equal_but_other_objects_are_stored_on_their_own(store):
    """Identity decides who is a candidate: two owners never share by accident."""
    for make in (
        lambda: [1, 2] * 500,
        lambda: {"k": 1},
        lambda: bytes(9000),
        lambda: "text".ljust(9000),
        lambda: np.zeros(9),
    ):
        assert len({store.ref(make()).key for _ in range(5)}) == 5  # though each has the address of the one before
    kept = [[1, 2], [1, 2]]
    assert store.ref(kept[0]).key != store.ref(kept[1]).key


def test_candidates_cost_no_fetch_from_afar():
    """A far store is asked whether the object still lies there, never for its bytes."""
    far = Far()
    with Store(far, inline_below=0) as store:
        obj = list(range(1000))
        for _ in range(3):
            store.ref(obj)
    assert far.gets == 0


def test_memory_is_bounded():
    """Only the last objects are remembered."""
    with Store("memory://", inline_below=0) as store:
        first = [0]
        key = store.ref(first).key
        kept = [[n] for n in range(REMEMBERED)]
        for obj in kept:
            store.ref(obj)
        assert store.ref(first).key != key
