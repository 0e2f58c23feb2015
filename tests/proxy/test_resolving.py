"""One fetch for all threads, none that sticks, none that a fork breaks."""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import proxyfab.proxy
from proxyfab.errors import ProxyfabError, ResolveTimeout
from tests.proxy.interrupted import at_each_instruction
from tests.proxy.things import Point

USES: list[Callable[[Any], Any]] = [
    len,
    lambda p: p[0],
    lambda p: p.index(1),
    lambda p: p * 2,
    lambda p: p == [1],
    list,
    str,
    bool,
]


@pytest.mark.parametrize("typed", [True, False])
def test_threads_share_one_fetch(px: Any, typed: bool) -> None:
    started, go = threading.Event(), threading.Event()
    calls: list[int] = []

    def fetch() -> list[int]:
        calls.append(1)
        started.set()
        assert go.wait(30)
        return [1]

    p = px.make(fetch, px.kind_of([])) if typed else px.Proxy(fetch)
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(use, p) for use in USES]
        assert started.wait(30)
        go.set()
        assert [f.result(30) for f in found] == [use([1]) for use in USES]
    assert len(calls) == 1


def test_many_threads_on_many_proxies(px: Any) -> None:
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    calls: list[int] = []
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(100):
                p = px.make(lambda: calls.append(1) or Point(2, 3), px.kind_of(Point()))  # type: ignore[func-returns-value]  # counts, then goes on
                assert list(pool.map(lambda _, p=p: (p.x, p.norm(), p == Point(2, 3)), range(8))) == [(2, 5, True)] * 8
    finally:
        sys.setswitchinterval(previous)
    assert len(calls) == 100


def test_a_failure_is_not_sticky(px: Any) -> None:
    answers: list[Any] = [ConnectionError("first"), ConnectionError("second"), [1, 2]]

    def fetch() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    p = px.make(fetch, px.kind_of([]))
    with pytest.raises(ConnectionError, match="first"):
        len(p)
    with pytest.raises(ConnectionError, match="second"):
        p.index(1)
    assert len(p) == 2


def test_a_failure_reaches_every_thread_that_waits(px: Any) -> None:
    go = threading.Event()

    def fetch() -> Any:
        assert go.wait(30)
        raise ConnectionError("gone")

    p = px.make(fetch, px.kind_of([]))
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(len, p) for _ in range(4)]
        go.set()
        for f in found:
            with pytest.raises(ConnectionError, match="gone"):
                f.result(30)


def test_deadlines(px: Any) -> None:
    class Factory:
        def __call__(self) -> Any:
            return "whole"

        def resolve(self, timeout: float | None = None) -> Any:
            assert timeout is not None
            return f"within {timeout:.1f}"

    assert px.resolve(px.make(Factory(), px.kind_of("")), timeout=2) == "within 2.0"
    assert px.resolve(px.make(Factory(), px.kind_of(""))) == "whole"
    assert px.resolve(px.make(list, px.kind_of([])), timeout=2) == []

    started, go = threading.Event(), threading.Event()
    p = px.make(lambda: (started.set(), go.wait(30)), px.kind_of(()))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(px.resolve, p)
        assert started.wait(30)
        with pytest.raises(ResolveTimeout, match="target of this proxy"):
            px.resolve(p, timeout=0.01)
        go.set()
        found.result(30)


def test_an_interrupt_of_who_fetches_holds_up_nobody(px: Any) -> None:
    kind = px.kind_of([])

    def asking(fetch: Callable[[], Any]) -> Callable[[], Any]:
        p = px.make(fetch, kind)
        return lambda: px.resolve(p)

    assert px.resolve(px.make(list, kind)) == []  # what is done once is done
    assert at_each_instruction(asking) > 3


def test_a_proxy_that_needs_itself_says_so(px: Any) -> None:
    box: list[Any] = []
    p = px.make(lambda: box[0] + 1, px.kind_of(3))
    box.append(p)
    with pytest.raises(ProxyfabError, match="itself"):
        p + 1


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("timeout", [None, 20])
def test_proxies_that_need_one_another_say_so(px: Any, count: int, timeout: float | None) -> None:
    """Each is fetched by a thread of its own; they would wait for ever."""
    all_at_it = threading.Barrier(count)
    ring: list[Any] = []

    def fetch(i: int) -> Any:
        all_at_it.wait(30)
        return px.resolve(ring[(i + 1) % count], timeout)

    ring += [px.make(lambda i=i: fetch(i), px.kind_of([])) for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        for found in [pool.submit(len, p) for p in ring]:
            with pytest.raises(ProxyfabError, match="hold references to one another"):
                found.result(30)
    all_at_it.abort()
    with pytest.raises(threading.BrokenBarrierError):  # none of them is still at it
        len(ring[0])


def test_a_future_of_itself_says_so(px: Any) -> None:
    box: list[Any] = []
    one = px.make(lambda: box[0], px.kind_of(3))
    box.append(px.make(lambda: one, px.kind_of(3)))
    for p in (one, box[0]):
        with pytest.raises(ProxyfabError, match="itself"):
            p + 1


def test_a_proxy_of_a_proxy_ends_at_the_object(px: Any) -> None:
    inner = px.make(lambda: [1], px.kind_of([]))
    outer = px.make(lambda: inner, px.kind_of([]))
    assert type(px.unwrap(outer)) is list


def test_a_flight_may_land_while_the_second_thread_boards(px: Any) -> None:
    """Making the list of those who wait may collect garbage, and so run anything."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this build of Python collects at moments of its own")
    started, go, armed = threading.Event(), threading.Event(), False

    def fetch() -> list[int]:
        started.set()
        assert go.wait(30)
        return [1]

    def collecting(phase: str, _: Any) -> None:
        nonlocal armed
        if armed and phase == "start":
            armed = False
            go.set()
            pilot.join(30)

    p = px.make(fetch, px.kind_of([]))
    pilot = threading.Thread(target=len, args=(p,))
    pilot.start()
    thresholds = gc.get_threshold()
    gc.callbacks.append(collecting)
    try:
        assert started.wait(30)
        gc.disable()
        kept: list[list[int]] = [[] for _ in range(500)]  # none is left for use: a new one collects
        gc.set_threshold(1)
        armed = bool(kept)
        gc.enable()
        assert px.resolve(p, 10) == [1]
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collecting)
        go.set()
        pilot.join(30)


def test_fork(px: Any) -> None:
    started, go = threading.Event(), threading.Event()
    p = px.make(lambda: [started.set(), go.wait(30)] and [7], px.kind_of([]))
    q = px.make(lambda: [8], px.kind_of([]))
    waiting = threading.Thread(target=lambda: len(p))
    waiting.start()
    assert started.wait(30)
    child = os.fork()
    if child == 0:
        try:
            go.set()
            os._exit(0 if p == [7] and q == [8] else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    go.set()
    waiting.join(30)
    assert os.waitstatus_to_exitcode(status) == 0
    assert p == [7]


def test_a_hundred_thousand_proxies_leave_nothing(px: Any) -> None:
    target = [1]
    kind = px.kind_of(target)

    def churn(n: int) -> None:
        for _ in range(n):
            p = px.make(int, kind)
            del p
            p = px.make(lambda: target, kind)
            assert len(p) == 1

    def held() -> int:
        """Bytes that proxies, and what is done with them here, have taken; what other threads take is theirs."""
        traces = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(True, place) for place in (__file__, f"{Path(proxyfab.proxy.__file__).parent}/*")]
        )
        return sum(trace.size for trace in traces.traces)

    churn(100)
    gc.collect()
    references = sys.getrefcount(target)
    tracemalloc.start()
    try:
        before = held()
        churn(50_000)
        gc.collect()
        assert held() - before < 20_000
    finally:
        tracemalloc.stop()
    assert sys.getrefcount(target) == references


def test_cycles_through_a_proxy_are_collected(px: Any) -> None:
    import weakref

    class Node:
        pass

    node = Node()
    node.proxy = px.make(lambda: node, px.kind_of(3))  # type: ignore[attr-defined]  # a cycle
    px.resolve(node.proxy)  # type: ignore[attr-defined]
    seen = weakref.ref(node)
    node = None  # type: ignore[assignment]
    gc.collect()
    assert seen() is None


def test_size_of_an_unresolved_proxy(px: Any) -> None:
    assert sys.getsizeof(px.make(int, px.kind_of(3))) <= 200
