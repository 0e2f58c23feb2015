"""What is asked for waits, is worked on, refused or given up: by numbers alone, and by a link that answers late."""

from __future__ import annotations

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError
from proxyfab.link.desk import Desk
from proxyfab.link.intake import Intake
from proxyfab.link.session import Session, Want
from proxyfab.waiting import Condition

LARGE = Frames([bytes(100_000)])


def wants(first: int, many: int) -> list[Want]:
    return [Want(number, "key") for number in range(first, first + many)]


def test_little_is_worked_on_at_once_and_what_takes_long_does_not_count() -> None:
    intake = Intake()
    assert not intake.add(wants(0, 2000), 20_000)
    first = intake.next()
    assert len(first) == 500
    assert not intake.next()
    for want in first[:249]:
        assert intake.forget(want.transfer)
    assert not intake.next()  # some together
    intake.defer(first[300].transfer)
    assert len(intake.next()) == 250
    assert intake.forget(first[300].transfer)  # it is still to be answered
    assert not intake.forget(first[300].transfer)


def test_what_waits_is_bounded_and_what_was_given_up_is_not_worked_on() -> None:
    intake = Intake()
    assert len(intake.add(wants(0, 100_003), 100_003)) == 3
    assert len(intake.add([Want(10**6, "x")], 1)) == 1
    for want in wants(0, 99_999):
        intake.forget(want.transfer)
    assert [want.transfer for want in intake.next()] == [99_999]
    assert not intake.waits
    assert len(Intake().add(wants(0, 100), 40 << 20)) == 21  # of 32 MiB
    with pytest.raises(IntegrityError, match="asks twice by the number 99999"):
        intake.add([Want(99_999, "x")], 1)


def test_an_answer_that_comes_too_late_is_not_sent_and_not_kept() -> None:
    session, begun = Session(), list[Want]()
    desk = Desk("far", session, Condition(), begun.extend, lambda: None)
    desk.asked(wants(0, 3), 100)
    desk.dropped([1])
    desk.give_many([(want, LARGE) for want in begun])
    assert [desk.leaving(number) is None for number in range(3)] == [False, True, False]
    assert session.sender.waiting == 2 * LARGE.nbytes


def test_who_does_not_take_what_he_asked_for_gets_no_more_until_he_does() -> None:
    """A thousand objects leave at most, and what waits goes on when they have."""
    session, begun = Session(), list[Want]()
    desk = Desk("far", session, Condition(), begun.extend, lambda: None)
    desk.asked(wants(0, 5000), 5000)
    done = 0
    while done < len(begun):
        some, done = begun[done:], len(begun)
        desk.give_many([(want, LARGE) for want in some])
    assert 1024 <= len(begun) <= 1024 + 500
    desk.dropped([want.transfer for want in begun])
    assert len(begun) > 1524
