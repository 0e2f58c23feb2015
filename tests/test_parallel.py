"""Work shared by threads: all of it done once, errors told, nobody waited for who has not begun."""

from __future__ import annotations

import threading

import pytest

from proxyfab import background
from proxyfab.parallel import WORTH, each


@pytest.mark.parametrize("times", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("nbytes", [0, WORTH])
def test_each_once(times, nbytes):
    """Whether it is worth a second thread or not."""
    done = []
    each(done.append, times, nbytes)
    assert sorted(done) == list(range(times))


def test_a_second_thread_works_too():
    """Two calls that wait for one another."""
    together = threading.Barrier(2, timeout=30)
    each(lambda number: together.wait() if number < 2 else None, 10, WORTH)


@pytest.mark.parametrize("bad", [0, 5, 99])
def test_an_error_reaches_the_caller(bad):
    """Once all have stopped, and nothing new is begun."""
    done = []

    def work(number):
        if number == bad:
            raise ValueError(f"no {number}")
        done.append(number)

    with pytest.raises(ValueError, match=f"no {bad}"):
        each(work, 100, WORTH)
    assert len(done) < 100


def test_an_error_in_the_other_thread_reaches_the_caller():
    """Which one does which part is chance."""
    caller = threading.get_ident()
    together = threading.Barrier(2, timeout=30)

    def work(number):
        if number < 2:
            together.wait()
        if threading.get_ident() != caller:
            raise ValueError("from afar")

    with pytest.raises(ValueError, match="from afar"):
        each(work, 10, WORTH)


def test_busy_threads_are_not_waited_for():
    """All background threads hang; the caller does everything itself."""
    gate = threading.Event()
    hanging = [background.start(lambda: gate.wait(60), "hanging") for _ in range(background.THREADS)]
    done = []
    each(done.append, 10, WORTH)
    gate.set()
    assert done == list(range(10))
    for task in hanging:
        assert task.result(60)


def test_calls_inside_calls():
    """Work that is itself shared by threads, in background threads."""

    def outer():
        done = []
        each(lambda _: each(done.append, 5, WORTH), 5, WORTH)
        return len(done)

    tasks = [background.start(outer, "outer") for _ in range(2 * background.THREADS)]
    assert [task.result(60) for task in tasks] == [25] * len(tasks)
