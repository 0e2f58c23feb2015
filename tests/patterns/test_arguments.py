"""Seconds that make no sense are refused by each public call, naming the argument, before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import nan
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.patterns import (
    Future,
    Lease,
    Lifetime,
    ProxyExecutor,
    adopt,
    as_completed,
    borrow,
    borrow_mut,
    own,
    proxied,
    release,
    wait,
)

POSITIVE: dict[str, Callable[[Store, float], Any]] = {
    "Future, ttl": lambda store, value: Future(store, ttl=value),
    "Future, lease": lambda store, value: Future(store, lease=value),
    "own, lease": lambda store, value: own(store, [1], lease=value),
    "adopt, lease": lambda store, value: adopt(store.proxy([1]), lease=value),
    "Lifetime, lease": lambda store, value: Lifetime(store, lease=value),
    "Lifetime.process, lease": lambda store, value: Lifetime.process(store, lease=value),
    "Lease, seconds": lambda store, value: Lease(store, seconds=value),
    "extend, seconds": lambda store, value: Lease(store, seconds=30).extend(value),
    "proxied, ttl": lambda store, value: proxied(store, ttl=value),
    "ProxyExecutor, lease": lambda store, value: ProxyExecutor(ThreadPoolExecutor(1), store, lease=value),
    "put, ttl": lambda store, value: store.put([1], ttl=value),
    "proxy_many, ttl": lambda store, value: store.proxy_many([[1]], ttl=value),
}
KEPT: dict[str, Callable[[Store, float], Any]] = {
    "Future, timeout": lambda store, value: Future(store, timeout=value),
    "borrow, timeout": lambda store, value: borrow(own(store, [1]), timeout=value),
    "borrow_mut, timeout": lambda store, value: borrow_mut(own(store, [1]), timeout=value),
    "release, timeout": lambda store, value: release(own(store, [1]), timeout=value),
}
WAITED: dict[str, Callable[[Store, float], Any]] = {
    "result, timeout": lambda store, value: done(store).result(value),
    "exception, timeout": lambda store, value: done(store).exception(value),
    "wait, timeout": lambda store, value: wait([done(store)], timeout=value),
    "as_completed, timeout": lambda store, value: [*as_completed([done(store)], timeout=value)],
    "map, timeout": lambda store, value: mapped(store, value),
}
"""As in `concurrent.futures`: what is negative has passed already."""


def done(store: Store) -> Future[int]:
    future: Future[int] = Future(store)
    future.set_result(1)
    return future


def mapped(store: Store, timeout: float) -> list[int]:
    with ProxyExecutor(ThreadPoolExecutor(1), store) as executor:
        return [*executor.map(len, ["a"], timeout=timeout)]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("memory://") as opened:
        yield opened
        opened.clear()


@pytest.mark.parametrize(
    ("call", "value"),
    [
        *((call, value) for call in POSITIVE for value in (-1, 0, nan, "1")),
        *((call, value) for call in KEPT for value in (-1, nan, "1")),
        *((call, value) for call in WAITED for value in (nan, "1")),
    ],
)
def test_seconds_that_make_no_sense_are_refused(call: str, value: Any, store: Store) -> None:
    with pytest.raises(ValueError, match=f"{call.partition(', ')[2]}=") as caught:
        (POSITIVE | KEPT | WAITED)[call](store, value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("call", ["Future, timeout", "borrow, timeout", "borrow_mut, timeout", "release, timeout"])
def test_no_time_at_all_is_one_look(call: str, store: Store) -> None:
    KEPT[call](store, 0)


@pytest.mark.parametrize("wrong", [{"of": 5}, {"broker": "nats"}])
def test_a_future_of_what_makes_no_sense_is_refused(wrong: Any, store: Store) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        Future(store, **wrong)


def test_what_is_pending_has_no_size_yet(store: Store) -> None:
    future: Future[int] = Future(store, of=int)
    assert "bytes" not in repr(future.proxy())
    assert repr(future.ref()) == f"<Ref to builtins.int, {future.key} in {store.url}>"


def test_a_depth_that_is_no_number_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="levels deep"):
        proxied(store, depth="all")  # type: ignore[arg-type]  # the point
