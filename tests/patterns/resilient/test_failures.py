"""The policy of failures: pure."""

from __future__ import annotations

import pytest

from proxyfab.errors import CapacityError, ConnectorError, KeyNotFound
from proxyfab.patterns.resilient.failures import Crew, Failure, History, Quarantine, Retries, avoids


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (ValueError("it"), Failure.TASK),
        (ZeroDivisionError(), Failure.TASK),
        (FileNotFoundError("x"), Failure.TASK),
        (KeyNotFound("x"), Failure.TASK),
        (MemoryError(), Failure.AROUND),
        (OSError(28, "No space left on device"), Failure.AROUND),
        (ImportError("no torch here"), Failure.AROUND),
        (ConnectorError("x"), Failure.AROUND),
        (CapacityError("x"), Failure.AROUND),
        (TimeoutError("x"), Failure.AROUND),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whose_fault_it_is(error: BaseException, whose: Failure) -> None:
    assert Retries().failure(error) is whose


def test_users_know_better() -> None:
    retries = Retries(transient=(ValueError,), fatal=(MemoryError,))
    assert retries.failure(ValueError()) is Failure.AROUND
    assert retries.failure(MemoryError()) is Failure.TASK


def test_pauses_grow_and_end() -> None:
    retries = Retries(times=5, pause=1, longest=5)
    assert [retries.delay(attempt) for attempt in range(1, 7)] == [1, 2, 4, 5, 5, None]


def test_a_task_is_sent_elsewhere_where_there_is_an_elsewhere() -> None:
    crew = Crew(frozenset("abc"), frozenset(("x", "y")))
    once = History().failed("a", "x")
    assert avoids(once, crew) == (frozenset("a"), frozenset())
    twice = once.failed("b", "x")
    assert avoids(twice, crew) == (frozenset("ab"), frozenset("x"))
    assert avoids(twice, Crew(frozenset("ab"), frozenset("x"))) == (frozenset(), frozenset()), "rather there than not"


def test_a_node_is_left_alone_for_a_while() -> None:
    quarantine = Quarantine(failures=3, window=10, seconds=60)
    assert quarantine.until([1, 2]) == 0
    assert quarantine.until([1, 2, 3]) == 63
    assert quarantine.until([1, 20, 30]) == 0, "they are too far apart"
    assert quarantine.kept([1, 50, 90], 100) == [50, 90]
