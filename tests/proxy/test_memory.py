"""A million proxies leave nothing behind, whatever became of them, and an unresolved one weighs little."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

LIVES = 3_000
SLACK = 80_000
"""Bytes that may stay: free lists of the interpreter, and what other threads do. Of LIVES leaks each would be more."""


class Target:
    def __init__(self) -> None:
        self.x = 1

    def __call__(self) -> int:
        return 1


def _fail() -> Any:
    raise ConnectionError("gone")


def _lives(px: Any) -> list[Callable[[], Any]]:
    """Ways to live and end, each of which makes one proxy."""
    target, kind = Target(), px.kind_of(Target())
    numbers, of_list = [1, 2], px.kind_of([])

    def unresolved() -> Any:
        return px.make(int, kind)

    def used() -> Any:
        p = px.make(lambda: target, kind)
        return p.x, p(), p == target, hash(p)

    def of_another_kind() -> Any:
        p = px.Proxy(lambda: numbers)
        return p * 2, len(p), p[0], 1 in p, list(p)

    def in_a_cycle() -> None:
        node = Target()
        node.p = px.make(lambda: node, kind)  # type: ignore[attr-defined]  # a cycle
        node.p.x  # type: ignore[attr-defined]  # as above

    def failed() -> None:
        with pytest.raises(ConnectionError):
            len(px.make(_fail, of_list))

    def taken_back() -> Any:
        p = px.make(lambda: numbers, of_list)
        first = len(p)
        px.unsettle(p)
        return first, len(p)

    def watched() -> Any:
        return weakref.ref(px.make(int, kind))()

    def asked() -> Any:
        p = px.make(int, kind)
        return repr(p), hasattr(p, "__len__"), isinstance(p, Target), p.__reduce_ex__(2)

    return [unresolved, used, of_another_kind, in_a_cycle, failed, taken_back, watched, asked]


def _traced(live: Callable[[], Any], times: int) -> int:
    for _ in range(100):
        live()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(times):
            live()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("i", range(8))
def test_lives_that_leave_nothing(px: Any, i: int) -> None:
    live = _lives(px)[i]
    watched = (Target, list, int, None, True, live)
    before = [sys.getrefcount(x) for x in watched]
    assert any(_traced(live, LIVES) < SLACK for _ in range(4))  # the first may import something
    after = [sys.getrefcount(x) for x in watched]
    assert all(b - a < LIVES // 2 for a, b in zip(before, after, strict=True)), (before, after)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_proxies_leave_nothing(px: Any) -> None:
    lives = _lives(px)
    for live in lives:
        assert _traced(live, 1_000_000 // len(lives)) < SLACK


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_proxies_at_once(px: Any) -> None:
    """What the system gives for them is at most 200 bytes each beyond what they share."""
    kind = px.kind_of(3)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        proxies: list[Any] = [None] * 1_000_000
        room = tracemalloc.get_traced_memory()[0]
        for i in range(len(proxies)):
            proxies[i] = px.make(int, kind)
        each = (tracemalloc.get_traced_memory()[0] - room) / len(proxies)
        del proxies
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert each <= 200
    assert left < SLACK


def test_threads_that_wait_leave_nothing(px: Any) -> None:
    of_list = px.kind_of([])

    def together() -> None:
        go = threading.Event()
        p = px.make(lambda: [go.wait(30)], of_list)
        threads = [threading.Thread(target=len, args=(p,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        go.set()
        for thread in threads:
            thread.join(30)

    assert any(_traced(together, 20) < SLACK for _ in range(2))  # as above: other threads may make something meanwhile


def test_what_is_in_use_outlives_being_taken_back(px: Any) -> None:
    """An operator that ends its own proxy's target works on it to the end."""

    class Fickle:
        def __init__(self) -> None:
            self.data = [1, 2, 3]

        def __len__(self) -> int:
            px.unsettle(p)
            gc.collect()
            return len(self.data)

        def __add__(self, x: Any) -> Any:
            px.unsettle(p)
            gc.collect()
            return [*self.data, x]

        def __iadd__(self, x: Any) -> Any:
            px.unsettle(p)
            return self

        def __getattr__(self, name: str) -> Any:
            px.unsettle(p)
            return len(self.data)

    p: Any = px.make(Fickle, px.kind_of_type(Fickle))
    for _ in range(3):
        assert len(p) == 3
        assert p + 4 == [1, 2, 3, 4]
        assert p.anything == 3
        p += 1
        assert px.is_proxy(p)
        assert not px.is_resolved(p)
