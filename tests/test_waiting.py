"""Conditions and flags: what threading's do, and an interrupt at any instruction leaves none taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxyfab.testing import until
from proxyfab.testing.interrupts import Interrupt
from proxyfab.waiting import Condition, Flag


def elsewhere(call: Callable[[], object]) -> object:
    """What another thread gets, which must not wait for long."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result(10)


def taken_elsewhere(condition: Condition) -> bool:
    def take() -> bool:
        taken: bool = condition.acquire(timeout=5)
        if taken:
            condition.release()
        return taken

    return bool(elsewhere(take))


def test_who_waits_is_woken_and_holds_the_lock_again_as_often_as_before() -> None:
    condition, ready = Condition(), False

    def change() -> None:
        nonlocal ready
        with condition:
            ready = True
            condition.notify_all()

    with condition, condition:
        thread = threading.Thread(target=change)
        thread.start()
        assert condition.wait_for(lambda: ready, 10)
        assert not elsewhere(lambda: condition.acquire(blocking=False))
    thread.join()
    assert taken_elsewhere(condition)


def test_a_wait_that_is_too_long_says_so() -> None:
    condition, flag = Condition(), Flag()
    with condition:
        assert not condition.wait(0.001)
        assert not condition.wait(0)
        assert not condition.wait_for(lambda: False, 0.001)
    assert not flag.wait(0.001)
    assert not flag.wait(-1)


def test_without_the_lock_nobody_waits_or_notifies() -> None:
    condition = Condition()
    with pytest.raises(RuntimeError, match="holds"):
        condition.wait(1)
    with pytest.raises(RuntimeError, match="holds"):
        condition.notify_all()


def test_a_flag_wakes_all_who_wait_and_holds_up_nobody_later() -> None:
    flag = Flag()
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(flag.wait, 10) for _ in range(3)]
        until(lambda: len(flag._gates) == 3, 10)
        flag.set()
        assert [each.result(10) for each in waiting] == [True] * 3
    assert flag.wait()
    assert flag.is_set()
    flag.clear()
    assert not flag.is_set()
    assert not flag.wait(0)


def _waits(condition: Condition, flag: Flag) -> None:
    with condition:
        condition.wait(0.0001)
        condition.notify_all()
    flag.wait(0.0001)
    flag.set()


def test_an_interrupt_anywhere_leaves_no_lock_taken() -> None:
    number = 0
    while True:
        condition, flag = Condition(), Flag()
        interrupt = Interrupt(number := number + 1)
        came_out = interrupt.run(lambda: _waits(condition, flag))  # noqa: B023
        assert came_out == interrupt.came, interrupt.where  # nothing else was raised in its place
        assert taken_elsewhere(condition), interrupt.where
        elsewhere(flag.set)
        assert elsewhere(flag.wait)
        if not interrupt.came:
            break
    assert number > 20
