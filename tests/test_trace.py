"""The one seam: spans are counted in seconds and bytes, listeners hear them, nothing is kept per key."""

from __future__ import annotations

import os
import threading
import time

import pytest

from proxyfab import trace
from proxyfab.testing.processes import at_once, in_fork
from proxyfab.trace import Link, Meter, Span, Total, here, listen, span

LINK = Link("here", "there", "test")


@pytest.fixture
def heard():
    spans: list[Span] = []
    stop = listen(spans.append)
    yield spans
    stop()


def test_a_span_is_counted_and_heard(heard: list[Span]) -> None:
    meter = Meter()
    before = trace.totals.totals().get(("get", LINK), Total(0, 0, 0, 0.0))
    with span("get", LINK, "k@x", meter=meter) as step:
        step.nbytes = 100
    after = trace.totals.totals()["get", LINK]

    assert meter.totals()["get", LINK][:3] == (1, 0, 100)
    assert (after.calls - before.calls, after.nbytes - before.nbytes) == (1, 100)
    assert heard == [step]
    assert (step.operation, step.link, step.key, step.error) == ("get", LINK, "k@x", None)


def test_seconds_are_seconds(heard: list[Span]) -> None:
    meter = Meter()
    started = time.perf_counter()
    with span("get", LINK, meter=meter):
        threading.Event().wait(0.02)
    took = time.perf_counter() - started

    assert 0.015 < heard[0].seconds <= took
    assert meter.totals()["get", LINK].seconds == heard[0].seconds


def test_a_failure_is_counted_and_passed_on(heard: list[Span]) -> None:
    meter = Meter()
    with pytest.raises(KeyError), span("get", LINK, meter=meter):
        raise KeyError("gone")

    assert meter.totals()["get", LINK][:2] == (1, 1)
    assert isinstance(heard[0].error, KeyError)


def test_a_listener_can_be_stopped_twice_and_alone() -> None:
    first, second = [], []
    stop_first, stop_second = listen(first.append), listen(second.append)
    stop_first()
    stop_first()
    with span("put", LINK):
        pass
    stop_second()

    assert (len(first), len(second)) == (0, 1)


def test_the_same_listener_twice_is_stopped_once_each() -> None:
    heard: list[Span] = []
    callback = heard.append
    stop_one, stop_two = listen(callback), listen(callback)
    stop_one()
    with span("put", LINK):
        pass
    stop_two()
    with span("put", LINK):
        pass

    assert len(heard) == 1


def test_a_listener_that_fails_does_not_hide_the_operation_or_the_others(heard: list[Span]) -> None:
    """Metrics must not be able to break what they measure."""

    def broken(step: Span) -> None:
        raise ZeroDivisionError("a bug in somebody's metrics")

    stop = listen(broken)
    other: list[Span] = []
    stop_other = listen(other.append)
    try:
        with pytest.warns(RuntimeWarning, match="ZeroDivisionError"), span("put", LINK):
            pass
        with pytest.raises(KeyError), pytest.warns(RuntimeWarning), span("put", LINK):
            raise KeyError
    finally:
        stop()
        stop_other()

    assert len(heard) == len(other) == 2


def test_totals_sum_by_operation() -> None:
    meter = Meter()
    meter.add("get", LINK, 10, 1.0)
    meter.add("get", Link("a", "b", "c"), 5, 0.5, failed=True)
    meter.add("put", LINK, 1, 0.1)

    assert meter.by_operation() == {"get": Total(2, 1, 15, 1.5), "put": Total(1, 0, 1, 0.1)}


def test_a_meter_does_not_grow_with_the_number_of_objects() -> None:
    meter = Meter()
    for number in range(1000):
        with span("put", LINK, f"key{number}", 10, meter):
            pass

    assert len(meter.totals()) == 1
    assert meter.totals()["put", LINK].calls == 1000


def test_threads_lose_no_count() -> None:
    meter = Meter()

    def work() -> None:
        for _ in range(500):
            meter.add("put", LINK, 1, 0.0)

    at_once([work] * 8)

    assert meter.totals()["put", LINK].calls == meter.totals()["put", LINK].nbytes == 4000


def test_a_fork_counts_on_though_its_parent_was_counting() -> None:
    meter = Meter()
    meter.add("put", LINK, 1, 0.0)

    def work() -> int:
        meter.add("put", LINK, 1, 0.0)
        with span("put", LINK):
            pass
        return meter.totals()["put", LINK].calls

    with meter._lock, trace.totals._lock:
        assert in_fork(work) == 2
    assert meter.totals()["put", LINK].calls == 1


def test_totals_handed_out_are_a_copy() -> None:
    meter = Meter()
    meter.add("put", LINK, 1, 0.0)
    meter.totals().clear()

    assert len(meter.totals()) == 1


def test_here_is_this_host() -> None:
    assert here() == os.uname().nodename == here()
