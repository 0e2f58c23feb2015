"""Habits: an object of which tasks use little is not copied for each of them, and nobody sees a difference."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from proxyfab import Ref, Store
from proxyfab.integrations.dask.habits import OFTEN, Habits
from proxyfab.integrations.dask.loading import habits, loaded
from proxyfab.keys import Key
from proxyfab.osio.mapping import kept_by
from proxyfab.osio.private import Use, private_view
from proxyfab.osio.shared import all_shared

COUNT = 1 << 19
"""Numbers, of 8 bytes each."""


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


def put(store: Store, seed: int = 0) -> Ref[Any]:
    return referred(store, np.arange(COUNT) + seed)


def referred(store: Store, obj: object) -> Ref[Any]:
    return Ref(store.url, store.put(obj), source=store)


def is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return kept_by(memoryview(array)) is not None


def looks(array: Any) -> None:
    array[5]


def reads(array: Any) -> None:
    array.sum()


def marks(array: Any) -> None:
    array[:1] += 1


def writes(array: Any) -> None:
    array += 1


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (looks, [False, True, True, True]),
        (marks, [False, True, True, True]),
        (reads, [False, True, False, False]),
        (writes, [False, True, False, False]),
    ],
)
def test_what_is_used_a_little_is_mapped(store: Store, use: Callable[[Any], None], expected: list[bool]) -> None:
    ref = put(store)
    found = []
    for _ in expected:
        array = loaded(ref)
        assert array.flags.writeable
        assert array[7] == 7
        found.append(is_mapped(array))
        use(array)
        del array
    assert found == expected
    assert (store.get(str(ref.key)) == np.arange(COUNT)).all()


def test_a_habit_that_ends_is_noticed(store: Store) -> None:
    ref = put(store)
    for use in (looks, looks, looks, *[reads] * OFTEN):
        use(loaded(ref))
    assert not is_mapped(loaded(ref))


def test_a_habit_that_is_known_is_looked_at_now_and_then(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [put(store) for _ in range(OFTEN)]
    told: list[Key] = []

    def noted(key: Key, use: Use) -> None:
        told.append(key)
        Habits.told(habits, key, use)

    monkeypatch.setattr(habits, "told", noted)
    for _ in range(2 + 2 * OFTEN):
        for ref in refs:
            looks(loaded(ref))
    assert sorted(map(str, told)) == sorted(str(ref.key) for ref in refs * 3)


def test_while_one_is_tried_others_are_copied(store: Store) -> None:
    ref = put(store)
    first, second, third = (loaded(ref) for _ in range(3))
    assert [is_mapped(each) for each in (first, second, third)] == [False, True, False]
    second += 1
    assert (third == first).all()
    assert (second == first + 1).all()


def test_what_is_mapped_stays_what_it_is_when_its_memory_is_wanted(store: Store) -> None:
    """The segment is not filled anew while any part of the array is left."""
    ref = put(store)
    loaded(ref)
    part = loaded(ref)[COUNT // 2 : COUNT // 2 + 3]
    assert is_mapped(part)
    store.evict(str(ref.key))
    refs = [put(store, seed) for seed in range(1, 6)]
    gc.collect()
    assert list(part) == [COUNT // 2 + place for place in range(3)]
    store.evict_many([str(each.key) for each in refs])


def test_objects_in_several_parts_are_mapped_part_by_part(store: Store) -> None:
    ref = referred(store, {"large": np.arange(COUNT), "small": np.arange(10), "text": b"x" * COUNT})
    loaded(ref)
    found = loaded(ref)
    assert is_mapped(found["large"])
    assert found["small"].sum() == 45
    found["large"][0] = 9
    assert loaded(ref)["large"][0] == 0


def test_only_so_much_is_mapped_and_only_what_is_a_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    [view] = put(store).payload().buffers
    told: list[Use] = []
    one = private_view(memoryview(view), told.append)
    assert one is not None
    for each in all_shared():
        monkeypatch.setattr(each.mappings, "limit", 3 * len(one))
    two = private_view(memoryview(view), told.append)
    assert two is not None
    two[0] = two[-1] = 3
    assert private_view(memoryview(view), told.append) is None
    del one, two
    assert [(use.seen, use.changed) for use in told] == [(0, 0), (2, 2)]
    assert private_view(memoryview(view), told.append) is not None
    assert private_view(memoryview(bytes(100)), told.append) is None


def test_without_a_descriptor_nothing_is_mapped(store: Store) -> None:
    [view] = put(store).payload().buffers
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert private_view(memoryview(view), pytest.fail) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert private_view(memoryview(view), lambda _: None) is not None
