"""Threads for calls that may hang: none holds up another, few are kept, a fork begins with none."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from proxyfab.beside import beside
from proxyfab.race import Race
from proxyfab.testing import in_fork, until

mark: ContextVar[str] = ContextVar("mark", default="")


def test_calls_that_hang_hold_up_nobody() -> None:
    gate, done = threading.Event(), []
    for _ in range(50):
        beside(gate.wait)
    beside(lambda: done.append(1))
    assert until(lambda: done == [1], 10)
    gate.set()
    for number in range(20):
        beside(lambda number=number: done.append(number))  # type: ignore[misc]
    assert until(lambda: len(done) == 21, 10)
    assert until(lambda: sum(thread.name.endswith("beside") for thread in threading.enumerate()) <= 33, 10)


def test_a_fork_begins_with_none() -> None:
    done: list[int] = []
    beside(lambda: done.append(1))
    assert until(lambda: done == [1], 10)

    def work() -> bool:
        beside(lambda: done.append(2))
        return until(lambda: done == [1, 2], 10)

    assert in_fork(work) is True


def test_a_call_sees_its_callers_context() -> None:
    seen: list[str] = []
    token = mark.set("mine")
    beside(lambda: seen.append(mark.get()))
    mark.reset(token)
    assert until(lambda: seen == ["mine"], 10)


def test_an_interrupt_of_an_inline_call_is_the_callers() -> None:
    race: Race[int] = Race()

    def stopped() -> int:
        raise KeyboardInterrupt

    try:
        race.ask(0, 0, stopped, beside=False)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was swallowed")
