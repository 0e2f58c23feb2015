"""Work that several threads share."""

from __future__ import annotations

import mmap
import sys
import threading

import pytest

from proxyfab import background
from proxyfab.parallel import WORTH, each, line
from proxyfab.testing.interrupts import Interrupt


@pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="only on Python 3.11 and 3.12: on 3.13 some traced interrupt keeps the pool's lock, not understood yet",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where it strikes in a finalizer
def test_an_interrupt_of_the_caller_costs_no_helper() -> None:
    """At whichever instruction: afterwards all background threads are there for others."""
    number, came = 1, True
    while came:
        interrupt = Interrupt(number)
        interrupt.run(lambda: each(lambda _: sum(range(2000)), 6, WORTH))
        number, came = number + 1, interrupt.came
    assert_all_threads_are_there()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="only on Python 3.11 and 3.12: as above")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.slow  # now and then an interrupt meets a thread that has just begun, which the interpreter then waits for
def test_an_interrupt_in_a_line_costs_no_helper() -> None:
    """Nor does what it made reach memory that is not the line's."""

    def work() -> None:
        for piece in line(lambda _, room: room, 6, WORTH, memory):
            sum(range(len(piece) // WORTH * 1000))

    number, came = 1, True
    while came:
        interrupt = Interrupt(number)
        interrupt.run(work)
        number, came = number + 1, interrupt.came
    assert_all_threads_are_there()


def assert_all_threads_are_there() -> None:
    """Those that have something to do end it first, which is asked for with patience: helpers wait ten seconds."""
    together = threading.Barrier(background.THREADS)
    tasks = [background.start(lambda: together.wait(40), "all at once") for _ in range(background.THREADS)]
    assert sorted(task.result(50) for task in tasks) == list(range(background.THREADS))


def memory(nbytes: int) -> memoryview:
    """Of as many bytes; never touched, so never there."""
    return memoryview(mmap.mmap(-1, nbytes))


@pytest.mark.parametrize(("times", "nbytes"), [(0, 8), (1, 8), (5, 8), (1, WORTH), (2, WORTH), (40, WORTH)])
def test_a_line_hands_over_every_piece_once(times: int, nbytes: int) -> None:
    """And no room is filled again before what is in it was looked at."""

    def make(number: int, room: memoryview) -> memoryview:
        room[:4] = number.to_bytes(4, "big")
        return room

    found = []
    for piece in line(make, times, nbytes, memory):
        assert len(piece) == nbytes
        found.append(int.from_bytes(piece[:4], "big"))
    assert sorted(found) == list(range(times))


def test_what_goes_wrong_in_a_line_reaches_who_stores() -> None:
    """Once, and whoever made it."""

    def make(number: int, room: memoryview) -> int:
        if number >= 3:
            raise ValueError(f"piece {number}")
        return number

    found = []
    with pytest.raises(ValueError, match="piece"):
        found.extend(line(make, 20, WORTH, memory))
    assert_all_threads_are_there()


def test_who_leaves_a_line_early_has_nobody_reading_his_content() -> None:
    """Helpers have ended what they were at when the iterator is closed."""
    reading = [0]
    lock = threading.Lock()

    def make(number: int, room: memoryview) -> int:
        with lock:
            reading[0] += 1
        sum(range(100_000))
        with lock:
            reading[0] -= 1
        return number

    for _ in range(20):
        pieces = line(make, 30, WORTH, memory)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]  # it is a generator
        assert reading == [0]
