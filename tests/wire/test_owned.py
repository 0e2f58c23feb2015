"""Records of owned objects as bytes, and the rules one by one."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.errors import IntegrityError
from proxyfab.wire import owning
from proxyfab.wire.owned import MAGIC, Claim, Record, Seat, decode, encode, keep, silence
from proxyfab.wire.owning import NOBODY, Change, Refused, Same

ME, YOU, THEM = (Claim(session, 1, f"1@{session}", 0.5) for session in ("me", "you", "them"))
MINE = Record("d1", 0, 1, 30.0, Seat(ME))

texts = st.text("abc019@", min_size=1, max_size=20).filter(lambda text: not text.startswith("@"))
claims = st.builds(Claim, texts, st.integers(0, 2**40), texts, st.floats(0, 1e10))
seats = st.builds(Seat, st.none() | claims, texts, texts)
records = st.builds(
    Record,
    texts,
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.floats(0.01, 1e6),
    seats,
    seats,
    st.lists(claims, max_size=4).map(tuple),
)


@given(records)
def test_a_record_comes_back(record: Record) -> None:
    assert decode(encode(record)) == record


@given(records, st.integers(0, 400), st.integers(0, 255))
def test_damage_is_noticed_or_means_another_record(record: Record, where: int, byte: int) -> None:
    data = bytearray(encode(record))
    data[where % len(data)] = byte
    try:
        found = decode(bytes(data))
    except IntegrityError:
        return
    assert decode(encode(found)) == found


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["d", 0, 1, 30.0, [None, "", ""], [None, "", ""]],
        ["d", -1, 1, 30.0, [None, "", ""], [None, "", ""], []],
        ["d", 0, 1, 0.0, [None, "", ""], [None, "", ""], []],
        ["d", 0, 1, float("nan"), [None, "", ""], [None, "", ""], []],
        ["", 0, 1, 30.0, [None, "", ""], [None, "", ""], []],
        ["d", 0, 1, 30.0, [["\n", 1, "w", 0.5], "", ""], [None, "", ""], []],
        ["d", True, 1, 30.0, [None, "", ""], [None, "", ""], []],
        ["d", 0, 1, 30.0, [None, "", 1], [None, "", ""], []],
        ["d", 0, 1, 30.0, [["s", 1, "w"], "", ""], [None, "", ""], []],
        ["d", 0, 1, 30.0, [None, "", ""], [None, "", ""], 7],
        "text",
        7,
    ],
)
def test_what_is_no_record(parts: Any) -> None:
    with pytest.raises(IntegrityError):
        decode(MAGIC + msgpack.packb(parts))


def test_bytes_of_something_else() -> None:
    for data in (b"", b"PFO", b"PFO2" + encode(MINE)[4:], MAGIC, MAGIC + b"\xc1", MAGIC + bytes(2**20)):
        with pytest.raises(IntegrityError):
            decode(data)


def test_the_holder_stops_believing_before_others_and_objects_stay_longest() -> None:
    assert 30.0 < silence(30.0) < keep(30.0) == MINE.ttl


def made(verdict: Any) -> Record:
    assert isinstance(verdict, Change)
    assert verdict.record is not None
    return verdict.record


def why(verdict: Any) -> str:
    assert isinstance(verdict, Refused)
    return verdict.reason


LENT = made(owning.borrow(YOU, base=ME)(MINE, NOBODY))
CHANGING = made(owning.borrow_mut(YOU, ME)(MINE, NOBODY))
ON_ITS_WAY = made(owning.send(ME, "t", "owner")(MINE, NOBODY))
TAKEN = made(owning.take(YOU, "t", "owner")(ON_ITS_WAY, NOBODY))
ORPHAN = made(owning.release(ME, strict=False)(LENT, NOBODY))
RULES: dict[str, tuple[owning.Rule, dict[Record | None, str]]] = {
    "borrow": (
        owning.borrow(THEM, base=ME),
        {None: "gone", CHANGING: "changing", ON_ITS_WAY: "sent", TAKEN: "fenced", ORPHAN: "fenced"},
    ),
    "arrive": (owning.borrow(THEM, version=0), {None: "gone", CHANGING: "changing", ORPHAN: "orphan"}),
    "arrive late": (owning.borrow(THEM, version=7), {MINE: "stale"}),
    "borrow_mut": (
        owning.borrow_mut(THEM, ME),
        {None: "gone", LENT: "lent", CHANGING: "changing", ON_ITS_WAY: "sent", TAKEN: "fenced"},
    ),
    "update": (
        owning.update(ME, "d2"),
        {None: "gone", LENT: "lent", CHANGING: "changing", ON_ITS_WAY: "sent", TAKEN: "fenced", ORPHAN: "fenced"},
    ),
    "send": (
        owning.send(ME, "u", "owner"),
        {None: "gone", LENT: "lent", CHANGING: "changing", ON_ITS_WAY: "sent", TAKEN: "fenced"},
    ),
    "take": (owning.take(THEM, "t", "owner"), {None: "gone", MINE: "moved", TAKEN: "taken", ORPHAN: "moved"}),
    "reclaim": (owning.reclaim(ME, "t", "owner"), {None: "gone", TAKEN: "taken", ORPHAN: "moved"}),
    "release": (
        owning.release(ME, strict=True),
        {LENT: "lent", CHANGING: "changing", ON_ITS_WAY: "sent", TAKEN: "fenced"},
    ),
    "check": (owning.check(ME), {None: "gone", CHANGING: "changing", ON_ITS_WAY: "sent", TAKEN: "fenced"}),
    "found": (owning.found(ME, "d1", 30.0), {TAKEN: "fenced"}),
}


@pytest.mark.parametrize("name", RULES)
def test_who_may_not(name: str) -> None:
    rule, refusals = RULES[name]
    for record, reason in refusals.items():
        assert why(rule(record, NOBODY)) == reason


@pytest.mark.parametrize("name", [name for name in RULES if name != "arrive late"])
def test_a_change_asked_for_twice_is_made_once(name: str) -> None:
    rule, _ = RULES[name]
    starts = {"take": ON_ITS_WAY, "reclaim": ON_ITS_WAY, "found": None}
    verdict = rule(starts.get(name, MINE), NOBODY)
    if isinstance(verdict, Change):
        assert rule(verdict.record, NOBODY) == Same()
    else:
        assert verdict == Same()


def test_the_dead_are_not_in_the_way() -> None:
    dead = frozenset({"you"})
    assert made(owning.borrow_mut(THEM, ME)(LENT, dead)).shared == ()
    assert made(owning.borrow_mut(THEM, ME)(CHANGING, dead)).mutable.holder == THEM
    assert made(owning.update(ME, "d2")(CHANGING, dead)).mutable == Seat()
    assert made(owning.check(ME)(CHANGING, dead)).mutable == Seat()
    assert made(owning.borrow(THEM, base=ME)(CHANGING, dead)).shared == (THEM,)
    assert owning.release(ME, strict=True)(LENT, dead) == Change(None)


def test_a_taker_who_is_dead_is_followed() -> None:
    dead = frozenset({"you"})
    again = made(owning.take(THEM, "t", "owner")(TAKEN, dead))
    assert again.owner == Seat(THEM, "", "t")
    assert again.epoch == TAKEN.epoch + 1
    back = made(owning.reclaim(ME, "t", "owner")(TAKEN, dead))
    assert back.owner == Seat(ME)
    assert why(owning.take(THEM, "t", "owner")(back, NOBODY)) == "moved"
    zombie = owning.update(YOU, "d9")
    assert why(zombie(again, NOBODY)) == why(zombie(back, NOBODY)) == "fenced"


def test_who_leaves_last_takes_it_along() -> None:
    assert owning.release(ME, strict=False)(MINE, NOBODY) == Change(None)
    assert ORPHAN.owner == Seat()
    assert owning.give_back(YOU)(ORPHAN, NOBODY) == Change(None)
    assert why(owning.borrow(THEM, base=YOU)(ORPHAN, NOBODY)) == "orphan"
    two = ORPHAN._replace(shared=(YOU, THEM))
    assert made(owning.give_back(YOU)(two, NOBODY)).shared == (THEM,)
    assert owning.give_back(YOU)(two, frozenset({"them"})) == Change(None)
    assert owning.give_back(YOU)(MINE, NOBODY) == Same()


def test_no_record_comes_back() -> None:
    for comes in (owning.borrow(YOU, base=ME), owning.borrow_mut(YOU, ME)):
        again = made(owning.give_back(YOU)(made(comes(MINE, NOBODY)), NOBODY))
        assert encode(again) != encode(MINE)


def test_who_was_sent_nothing_has_nothing_to_take_or_to_reclaim() -> None:
    for record in (MINE, TAKEN):
        assert why(owning.reclaim(THEM, "", "owner")(record, NOBODY)) == "moved"
        assert why(owning.take(THEM, "", "owner")(record, NOBODY)) == "moved"


def test_adopting_waits_for_nobody_and_takes_over_from_the_dead_alone() -> None:
    rule = owning.adopt(YOU, "d1", 60.0)
    dead = frozenset({"me"})

    assert rule(None, NOBODY) == Change(Record("d1", 0, 1, 60.0, Seat(YOU)))
    assert rule(MINE, NOBODY) == Refused(owning.OWNED, (ME,))
    assert owning.adopt(ME, "d1", 30.0)(MINE, NOBODY) == Same()
    updated = MINE._replace(data="d2", version=1, shared=(ME, THEM))
    assert rule(updated, dead) == Change(Record("d2", 1, 2, 60.0, Seat(YOU), shared=(THEM,)))
    assert rule(MINE._replace(owner=Seat(ME, "ticket")), dead) == Refused(owning.SENT)
    assert rule(MINE._replace(owner=Seat(), shared=(THEM,)), dead) == Refused(owning.ORPHAN)
