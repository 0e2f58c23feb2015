"""SingleFlight: one fetches, all get it; failures are forgotten; nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.flight import SingleFlight
from proxyfab.testing.processes import at_once, in_fork, until
from tests.proxy.interrupted import at_each_instruction


class Slow:
    """A fetch that waits for its gate and counts."""

    def __init__(self, answer: object = "answer") -> None:
        self.calls = 0
        self.gate = threading.Event()
        self.answer = answer

    def __call__(self) -> object:
        self.calls += 1
        assert self.gate.wait(30)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def together(flights: SingleFlight, fetch: Slow, count: int) -> list:
    """What `count` threads get that all ask while the first one is fetching."""
    asked = threading.Semaphore(0)

    def ask() -> object:
        asked.release()
        return flights.do("key", fetch)

    def open_gate() -> None:
        for _ in range(count):
            assert asked.acquire(timeout=30)
        fetch.gate.set()

    return at_once([*[ask] * count, open_gate])[:-1]


def test_one_fetches_and_all_get_it() -> None:
    flights: SingleFlight = SingleFlight()
    fetch = Slow()
    results = together(flights, fetch, 8)

    assert results == ["answer"] * 8
    assert all(result is fetch.answer for result in results)
    assert fetch.calls <= 8  # a thread that came after landing fetches again; see below for the strict count


def test_while_one_flies_nobody_else_starts() -> None:
    flights: SingleFlight = SingleFlight()
    fetch = Slow()
    pilot = threading.Thread(target=flights.do, args=("key", fetch))
    pilot.start()
    assert until(lambda: fetch.calls == 1)
    joined = [
        threading.Thread(target=flights.do, args=("key", lambda: pytest.fail("a second flight"))) for _ in range(4)
    ]
    for thread in joined:
        thread.start()
    fetch.gate.set()
    for thread in (pilot, *joined):
        thread.join(30)

    assert fetch.calls == 1


def test_a_failure_reaches_all_and_is_forgotten() -> None:
    flights: SingleFlight = SingleFlight()
    results = together(flights, Slow(KeyError("gone")), 4)

    assert [type(result) for result in results] == [KeyError] * 4
    assert flights.do("key", lambda: "now it works") == "now it works"


@pytest.mark.parametrize("stop", [ResolveTimeout("too slow for me"), KeyboardInterrupt()])
def test_what_stops_the_pilot_alone_stops_nobody_else(stop: BaseException) -> None:
    """Its own deadline, or an interrupt: of those who wait one fetches, and all get that."""
    flights: SingleFlight = SingleFlight()
    first, second = Slow(stop), Slow()
    second.gate.set()
    stopped: list[BaseException] = []

    def pilot() -> None:
        try:
            flights.do("key", first, 30)
        except BaseException as error:  # which one it is, is the question
            stopped.append(error)

    thread = threading.Thread(target=pilot)
    thread.start()
    assert until(lambda: first.calls == 1)
    waiting = until_waiting(flights, 4)
    results = at_once([*[partial(flights.do, "key", second, 30)] * 4, lambda: waiting() and first.gate.set()])[:-1]
    thread.join(30)

    assert stopped == [stop]
    assert results == ["answer"] * 4
    assert first.calls == 1


def until_waiting(flights: SingleFlight, count: int) -> Callable[[], bool]:
    """Returns when `count` threads wait for the flight of "key"."""
    return lambda: until(lambda: len(flights._flying["key"]) > count + 1)


def test_a_connectors_own_deadline_reaches_all() -> None:
    """Nobody asked for a deadline: eight who wait must not go through it one after the other."""
    flights: SingleFlight = SingleFlight()
    fetch = Slow(ResolveTimeout("the far side"))
    results = together(flights, fetch, 4)

    assert [type(result) for result in results] == [ResolveTimeout] * 4


def test_different_keys_do_not_wait_for_one_another() -> None:
    flights: SingleFlight = SingleFlight()
    barrier = threading.Barrier(4)  # passes only if all four are inside their fetch at once

    assert sorted(at_once([partial(flights.do, key, lambda: barrier.wait(20)) for key in range(4)])) == [0, 1, 2, 3]


def test_a_wait_has_a_deadline() -> None:
    flights: SingleFlight = SingleFlight()
    fetch = Slow()
    pilot = threading.Thread(target=flights.do, args=("key", fetch))
    pilot.start()
    assert until(lambda: fetch.calls == 1)
    started = time.monotonic()
    for timeout in (0.05, 0, -1):
        with pytest.raises(ResolveTimeout, match="key"):
            flights.do("key", fetch, timeout=timeout)
    assert time.monotonic() - started < 10
    fetch.gate.set()
    pilot.join(30)

    assert fetch.calls == 1


def test_asking_for_what_one_is_fetching_is_an_error_not_a_deadlock() -> None:
    flights: SingleFlight = SingleFlight()
    with pytest.raises(ProxyfabError, match="itself"):
        flights.do("key", lambda: flights.do("key", lambda: 1))

    assert flights.do("key", lambda: 2) == 2


def test_a_fetch_may_fetch_something_else() -> None:
    flights: SingleFlight = SingleFlight()

    assert flights.do("a", lambda: (flights.do("b", lambda: 1), 2)) == (1, 2)


@pytest.mark.parametrize("count", [2, 5])
def test_threads_that_wait_for_one_another_are_told(count: int) -> None:
    """In a circle, each needs what the next one is fetching, also among flights of two kinds: no answer is possible."""
    kinds: list[SingleFlight] = [SingleFlight(), SingleFlight("the thing")]
    barrier = threading.Barrier(count)

    def fetch(i: int) -> object:
        following = (i + 1) % count

        def need_the_next_one() -> object:
            barrier.wait(20)
            return kinds[following % 2].do(following, lambda: "never")

        return kinds[i % 2].do(i, need_the_next_one)

    results = at_once([partial(fetch, i) for i in range(count)])

    assert all(isinstance(result, ProxyfabError) and "one another" in str(result) for result in results)
    assert [kinds[i % 2].do(i, lambda: "later") for i in range(count)] == ["later"] * count


def test_an_interrupt_lands_the_flight() -> None:
    flights: SingleFlight = SingleFlight()

    def interrupted() -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flights.do("key", interrupted)
    assert flights.do("key", lambda: 1, timeout=1) == 1
    assert at_each_instruction(lambda fetch: lambda: flights.do("key", fetch)) > 10


def test_a_fork_does_not_wait_for_its_parents_flight() -> None:
    flights: SingleFlight = SingleFlight()
    fetch = Slow()
    pilot = threading.Thread(target=flights.do, args=("key", fetch))
    pilot.start()
    assert until(lambda: fetch.calls == 1)

    assert in_fork(lambda: flights.do("key", lambda: "the child's own"), timeout=20) == "the child's own"
    fetch.gate.set()
    pilot.join(30)


def test_a_result_of_none_is_a_result() -> None:
    flights: SingleFlight = SingleFlight()
    fetch = Slow(None)

    assert together(flights, fetch, 3) == [None] * 3
