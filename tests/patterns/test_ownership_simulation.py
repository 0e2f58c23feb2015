"""Schedules of owning, borrowing, sending, killing, stopping, retrying, doubling and losing, by the thousand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from proxyfab.patterns.ownership.book import Book, Session
from proxyfab.wire import owning
from proxyfab.wire.owned import Record, Seat
from tests.patterns.world import World

STEPS = 300


def run(seed: int, *, calm: bool = False) -> World:
    world = World(seed, calm=calm)
    try:
        world.run(STEPS)
    except Exception as error:
        story = "\n".join(world.story[-60:])
        raise AssertionError(f"seed {seed}{', calm' if calm else ''}: {error}\n{story}") from error
    return world


def run_all(seeds: Iterable[int], *, calm: bool = False) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts.update(run(seed, calm=calm).counts)
    return counts


@pytest.mark.parametrize("part", range(4))
def test_no_double_owner_no_use_after_release_no_leak(part: int) -> None:
    counts = run_all(range(part, 1000, 4))

    for what in (
        "own True",
        "adopt True",
        "borrow True",
        "borrow_mut True",
        "update True",
        "send True",
        "reclaim True",
        "read True",
    ):
        assert counts[what] > 100, "the schedules do not try what they should"
    for what in (
        "adopt owned",
        "adopt overtaken",
        "adopt expired",
        "read taken",
        "read moved",
        "read lapsed",
        "update failed",
        "borrow changing",
        "borrow orphan",
    ):
        assert counts[what] > 0, "the schedules do not meet what they should"


@pytest.mark.parametrize("part", range(2))
def test_where_nothing_goes_wrong_nobody_loses_anything(part: int) -> None:
    assert run_all(range(part, 100, 2), calm=True)["read True"] > 100


@pytest.mark.parametrize("seed", [5994, 7215, 7956, 9493, 10127, 10805])
def test_what_went_wrong_once(seed: int) -> None:
    """A borrow from what had lapsed; an update of which nobody was told whether it took effect; an eviction on its way
    behind a release, which met what was adopted meanwhile.
    """
    run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(25))
def test_ten_thousand_more(part: int) -> None:
    run_all(range(1000 + part, 11_000, 25))


def anybody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(claim: Any, ticket: str, role: str) -> Any:
        def rule(record: Record | None, dead: frozenset[str]) -> Any:
            if record is None or ticket not in getattr(record, role)[1:]:
                return owning.Refused(owning.MOVED)
            return owning._seated(record, dead, role, Seat(claim, "", ticket), epoch=1)

        return rule

    monkeypatch.setattr(owning, "take", take)


def owners_forget_who_borrows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owning, "_borrowed", lambda _record, _dead: None)


def one_epoch_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seated = owning._seated
    monkeypatch.setattr(owning, "_seated", lambda *where, epoch=0: seated(*where, epoch=0 * epoch))


def sessions_are_believed_in_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "valid", lambda self, now: not self.lost and now < self.until + 0.5 * self.lease)


def what_comes_late_is_not_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> Iterator[Any]:
        yield from ()

    monkeypatch.setattr(Book, "_catch_up", nothing)


def what_is_sent_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = Book.let_go
    monkeypatch.setattr(
        Book, "let_go", lambda self, account, claim, ticket="": let_go(self, account, claim, ticket * 0)
    )


@pytest.mark.parametrize(
    "mistake",
    [
        anybody_takes,
        owners_forget_who_borrows,
        one_epoch_for_all,
        sessions_are_believed_in_too_long,
        what_comes_late_is_not_caught_up,
        what_is_sent_is_not_kept,
    ],
)
def test_mistakes_in_the_protocol_are_noticed(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        run_all(range(100), calm=True)
        run_all(range(400))
