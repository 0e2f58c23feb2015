"""Background tasks: results, errors, deadlines, forks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from functools import partial

import pytest

from proxyfab import background
from proxyfab.errors import ResolveTimeout
from proxyfab.testing.interrupts import Interrupt
from proxyfab.testing.processes import at_once, until


def test_results_and_errors_reach_whoever_asks():
    """As often as they ask."""
    task = background.start(lambda: 7, "seven")
    assert task.result(5) == task.result() == 7
    task = background.start(lambda: 1 / 0, "division")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            task.result(5)


def test_more_tasks_than_threads():
    """Eight at once, the rest wait their turn."""
    gate = threading.Event()
    tasks = [background.start(lambda n=n: gate.wait(10) and n, "waiting") for n in range(20)]
    gate.set()
    assert [task.result(10) for task in tasks] == list(range(20))


def test_deadline_names_what_hangs():
    """And the call goes on; a hanging one holds up no other."""
    gate = threading.Event()
    with pytest.raises(ResolveTimeout, match="the moon"):
        background.aside(gate.wait, "the moon").result(0.01)
    assert background.aside(lambda: 3, "three").result(5) == 3
    assert background.aside(threading.get_ident, "where").result(5) != threading.get_ident()
    gate.set()


def test_an_interrupt_of_who_waits_holds_up_nobody_else():
    """At whichever instruction: the work ends, and the others hear of it."""

    def wait(task):
        with contextlib.suppress(ResolveTimeout):
            task.result(0.001)

    number, came = 1, True
    while came:
        gate = threading.Event()
        task = background.start(lambda gate=gate: gate.wait(10), "waiting")
        interrupt = Interrupt(number)
        interrupt.run(lambda task=task: wait(task))
        gate.set()
        assert task.result(5) is True, interrupt.where
        number, came = number + 1, interrupt.came
    assert number > 10


def test_works_in_a_forked_child():
    """The parent's threads do not exist there."""
    background.start(lambda: 1, "one").result(5)
    child = os.fork()
    if child == 0:
        os._exit(0 if background.start(lambda: 2, "two").result(5) == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_was_under_way_at_a_fork_begins_again_in_the_child():
    """Asked for by several threads at once; the parent's own goes on."""
    gate = threading.Event()
    parent = os.getpid()
    task = background.start(lambda: gate.wait(10) if os.getpid() == parent else 3, "slow")
    child = os.fork()
    if child == 0:
        os._exit(0 if at_once([partial(task.result, 5)] * 4) == [3] * 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
    gate.set()
    assert task.result(5) is True


def test_without_threads_tasks_run_where_they_are_started(monkeypatch):
    """At the limit of threads, or at the interpreter's end: late is better than never."""
    pool = background._Pool()
    monkeypatch.setattr(background, "_pool", pool)
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    assert [background.start(lambda n=n: n, "n").result(0) for n in range(20)] == list(range(20))
    assert pool.threads == 0
    assert background.aside(threading.get_ident, "where").result(0) == threading.get_ident()


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_no_thread_keeps_the_interpreter_alive():
    """A task that never ends does not delay exit."""
    script = "import threading; from proxyfab import background; background.start(threading.Event().wait, 'ever')"
    subprocess.run([sys.executable, "-c", script], timeout=20, check=True)


def test_as_many_run_at_once_as_there_are_threads(monkeypatch):
    """Also where one idles, and has taken a task without having said so when the next ones come."""
    monkeypatch.setattr(background, "_pool", pool := background._Pool())
    background.start(lambda: None, "one before").result(20)
    assert until(lambda: pool.idle)
    together = threading.Barrier(background.THREADS)
    with pool.lock:  # who took the first cannot say so yet
        tasks = [background.start(partial(together.wait, 20), "all at once")]
        assert until(lambda: not pool.tasks.qsize())
        tasks += [background.start(partial(together.wait, 20), "all at once") for _ in range(background.THREADS - 1)]
    assert sorted(task.result(20) for task in tasks) == list(range(background.THREADS))


def test_who_leaves_at_his_deadline_leaves_what_was_begun_to_the_next_one() -> None:
    made: list[int] = []
    gate = threading.Event()

    def make() -> None:
        gate.wait(60)
        made.append(len(made))

    beginnings = background.Beginnings(make, "Making")
    assert not beginnings.wait(0.01)
    assert not beginnings.wait(0.01)
    gate.set()
    assert beginnings.wait(60)
    assert made == [0], "it was begun once"
    assert beginnings.wait(60)
    assert made == [0, 1]


def test_what_failed_when_nobody_waited_for_it_is_begun_anew() -> None:
    gate, ended = threading.Event(), threading.Event()
    outcomes: list[Exception | None] = [ConnectionError("refused"), None, ConnectionError("refused again")]

    def make() -> None:
        gate.wait(60)
        ended.set()
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    beginnings = background.Beginnings(make, "Making")
    assert not beginnings.wait(0.01)
    gate.set()
    assert ended.wait(60)
    assert until(lambda: beginnings._left[0].over)
    assert beginnings.wait(60)
    with pytest.raises(ConnectionError, match="again"):
        beginnings.wait(60)
