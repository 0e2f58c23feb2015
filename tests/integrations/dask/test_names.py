"""Names by content: they are for Dask's keys alone, and small arrays get theirs from Dask unless it is wrong there."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

import distributed

from proxyfab.integrations.dask.link import Link
from proxyfab.integrations.dask.packing import MIDDLING, Packing
from proxyfab.integrations.dask.settings import Settings


class Nobody:
    """A client without futures."""

    futures = frozenset[str]()


def test_a_name_by_content_is_for_the_key_and_what_is_named_goes_along_as_it_is() -> None:
    link = Link(Nobody(), Settings(), None, graphs=False)
    seen: list[Any] = []

    def submit(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[1])
        return kwargs["key"]

    several = [b"x" * (1 << 21), "y" * MIDDLING, [np.arange(MIDDLING)]]
    keys = [link.submit(submit, len, (obj,), {}) for obj in several]
    assert all(one is other for one, other in zip(seen, several, strict=True))
    assert [link.submit(submit, len, (copy.deepcopy(obj),), {}) for obj in several] == keys
    assert len(set(keys)) == len(keys)


def test_small_arrays_are_not_looked_at_unless_dask_takes_one_for_its_transpose() -> None:
    link = Link(Nobody(), Settings(above=1 << 20), None, graphs=False)
    matrix = np.arange(10_000.0).reshape(100, 100)
    assert link.is_light(submitted, (matrix, 1), {"more": np.zeros(5000)})
    assert not link.is_light(submitted, (matrix.T,), {})
    assert not link.is_light(submitted, (np.zeros(1 << 17),), {})
    assert not Link(Nobody(), Settings(above=1 << 30), None, graphs=False).is_light(submitted, (np.zeros(1 << 17),), {})
    assert not link.is_light(submitted, (matrix.astype(object),), {})
    keys = {link.submit(lambda *_, key: key, submitted, (each,), {}) for each in (matrix, matrix.T)}
    assert len(keys) == 2


def calls_of(work: Callable[[], Any]) -> int:
    """Calls, of Python's functions and C's, that this makes."""
    events: list[str] = []
    sys.setprofile(lambda _frame, event, _arg: events.append(event))
    try:
        work()
    finally:
        sys.setprofile(None)
    return sum(event in ("call", "c_call") for event in events)


def test_futures_text_and_bytes_are_left_to_dask_with_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(Nobody(), Settings(above=1 << 20), None, graphs=False)
    future = object.__new__(distributed.Future)
    monkeypatch.delattr(distributed.Future, "__del__")  # there is no client to tell that it goes
    impure = {"pure": False}
    for args in ((future,), (future, 1, "a"), (b"x" * 100_000,), ("x" * 100_000, future), ([1, 2, 3], "a")):
        assert link.is_light(submitted, args, impure)
        assert calls_of(lambda args=args: link.is_light(submitted, args, impure)) < 30
    assert not link.is_light(submitted, (b"x" * 100_000,), {})  # that gets a name by content, faster than Dask's
    assert not link.is_light(submitted, (b"x" * (1 << 20),), impure)
    assert not link.is_light(submitted, ([future],), impure)


def test_map_looks_at_many_small_things_all_at_once() -> None:
    link = Link(Nobody(), Settings(above=1 << 20), None, graphs=False)
    for things in ([f"word {n}" for n in range(5000)], [np.arange(50.0) + n for n in range(5000)], [*range(5000)]):
        assert calls_of(lambda things=things: link.map(lambda *_, **__: [], submitted, (things,), {})) < 200
        assert calls_of(lambda things=things: Packing(1 << 17).many(things)) < 200  # together they are more than that
    large = np.zeros(1 << 21)
    seen: list[Any] = []
    link.map(lambda *args, **_: seen.append(args) or [], submitted, ([*map(str, range(5000)), large],), {})
    assert seen[0][1][-1].value is large  # one among many is found


def test_a_keyword_of_tasks_that_are_not_pure_gets_a_name_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(Nobody(), Settings(above=1 << 20), None, graphs=False)
    table = [{"a": n, "b": [n, n + 1]} for n in range(1000)]
    named: list[Any] = []
    monkeypatch.setattr("proxyfab.integrations.dask.link.tokenize", lambda value: named.append(value) or "name")
    told: list[Any] = []

    def mapped(*_: Any, **kwargs: Any) -> list[Any]:
        told.append(kwargs["table"])
        return []

    for pure in (False, False, True):
        link.map(mapped, submitted, (range(3),), {"table": table, "pure": pure})
    assert len(named) == 1
    assert all(each.value is table for each in told)
    assert len({each.token for each in told}) == 3


def submitted(*_: Any, **__: Any) -> None:
    """A task."""
