"""Who may do what with an owned object: pure functions from its record to the next one. No clock, no chance, no I/O.

Rules:
1. One owner. One mutable borrow, or any number of shared ones.
2. Every rule can be applied twice: what it asks for is named by numbers and tickets that were drawn before, and where
   it is done already the answer is Same. So a change whose answer was lost is simply asked for again.
3. Who does not hold what he says he holds changes nothing: it was taken over, and he is fenced.
4. An owner, or a mutable borrow, in a message is a ticket. The first to use it takes its place, under the next epoch;
   another delivery is refused while the taker lives, and takes over when the taker's session is dead.
5. What is found dead is written down: a zombie finds nothing of his when he wakes.
6. Who leaves last takes the record along; the data that no record names any more go with it.
7. No record comes back: who comes is counted. So a request that the network held back for long changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from proxyfab.wire.owned import Claim, Record, Seat, is_vacant


class Change(NamedTuple):
    """It may be done, and then this is the record; None: nothing is left."""

    record: Record | None


class Same(NamedTuple):
    """It is so already."""


class Refused(NamedTuple):
    """It must not be done."""

    reason: str
    """One of the words below."""
    holders: tuple[Claim, ...] = ()
    """Whose claims stand in the way: if all their sessions are dead the answer is another one."""


GONE = "gone"
"""There is no record: the object was released, or lapsed."""
ORPHAN = "orphan"
"""Its owner has let it go; it lives for those who borrowed it before."""
OWNED = "owned"
"""Somebody else owns it."""
FENCED = "fenced"
"""The caller's claim is not there any more."""
SENT = "sent"
"""The caller has sent it on."""
TAKEN = "taken"
"""Another process has taken the ticket."""
MOVED = "moved"
"""The ticket is not valid any more: what it stood for was reclaimed, released or sent on."""
STALE = "stale"
"""The object was updated since."""
LENT = "lent"
"""It is borrowed."""
CHANGING = "changing"
"""It is mutably borrowed."""
LAPSED = "lapsed"
"""The caller's session was gone before it was done; no rule says so, but who keeps the session."""
FULL = "full"
"""The record has no room for another claim; no rule says so, but who writes it."""

NOBODY: frozenset[str] = frozenset()
Verdict: TypeAlias = Change | Same | Refused
Rule: TypeAlias = Callable[[Record | None, frozenset[str]], Verdict]
"""A rule with its arguments: what the record, and the dead sessions, make of it."""


def _alive(claim: Claim | None, dead: frozenset[str]) -> bool:
    return claim is not None and claim.session not in dead


def _readers(record: Record, dead: frozenset[str]) -> tuple[Claim, ...]:
    return tuple(claim for claim in record.shared if claim.session not in dead)


def _borrowed(record: Record, dead: frozenset[str]) -> Refused | None:
    """Why the owner cannot do as he likes."""
    if _alive(record.mutable.holder, dead):
        return Refused(CHANGING, _who(record.mutable))
    readers = _readers(record, dead)
    return Refused(LENT, readers) if readers else None


def _who(seat: Seat) -> tuple[Claim, ...]:
    return () if seat.holder is None else (seat.holder,)


def _sits(seat: Seat, claim: Claim) -> Refused | None:
    """Why this claim cannot act from this seat."""
    if not claim.same(seat.holder):
        return Refused(FENCED, _who(seat))
    return Refused(SENT) if seat.ticket else None


# -- owning --------------------------------------------------------------------------------------------------------


def found(claim: Claim, data: str, lease: float) -> Rule:
    """The first record of an object."""

    def rule(record: Record | None, _: frozenset[str]) -> Verdict:
        if record is None:
            return Change(Record(data, 0, 1, lease, Seat(claim)))
        return Same() if claim.same(record.owner.holder) else Refused(FENCED, _who(record.owner))

    return rule


def adopt(claim: Claim, data: str, lease: float) -> Rule:
    """The first record of an object that somebody else put; or the next, if who made the first one is dead."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Change(Record(data, 0, 1, lease, Seat(claim)))
        seat = record.owner
        if claim.same(seat.holder):
            return Same()
        if seat.holder is None:
            return Refused(GONE if is_vacant(record) else ORPHAN)
        if _alive(seat.holder, dead):
            return Refused(OWNED, _who(seat))
        return (
            Refused(SENT) if seat.ticket else _seated(record._replace(lease=lease), dead, "owner", Seat(claim), epoch=1)
        )

    return rule


def release(claim: Claim, *, strict: bool) -> Rule:
    """The owner goes, and the object with it; where it is borrowed he must not (`strict`) or leaves it to those."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None or is_vacant(record):
            return Same()
        denied = _sits(record.owner, claim)
        if denied is not None:
            return denied if strict else Same()
        denied = _borrowed(record, dead)
        if denied is None:
            return Change(None)
        return denied if strict else Change(_pruned(record, dead)._replace(owner=Seat()))

    return rule


def check(claim: Claim) -> Rule:
    """The owner looks: it is his, and nobody changes it."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Refused(GONE)
        denied = _sits(record.owner, claim)
        if denied is not None:
            return denied
        if record.mutable.holder is None:
            return Same()
        if _alive(record.mutable.holder, dead):
            return Refused(CHANGING, _who(record.mutable))
        return Change(_pruned(record, dead))  # or a zombie could still change what the owner now reads

    return rule


def update(claim: Claim, data: str) -> Rule:
    """The mutable borrower, or an owner whom nobody borrows from, puts new data in place of the old."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Refused(GONE)
        if record.data == data:
            return Same()
        if claim.same(record.mutable.holder):
            denied = _sits(record.mutable, claim)
        else:
            denied = _sits(record.owner, claim) or _borrowed(record, dead)
        return denied or Change(_pruned(record, dead)._replace(data=data, version=record.version + 1))

    return rule


# -- borrowing -----------------------------------------------------------------------------------------------------


def borrow(claim: Claim, *, base: Claim | None = None, version: int | None = None) -> Rule:
    """One more shared borrow.

    Args:
        claim: The new one.
        base: What the caller holds and borrows from; None for one that arrived in a message.
        version: What it was borrowed as; a later one is not what was lent.
    """

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Refused(GONE)
        if any(claim.same(other) for other in record.shared):
            return Same()
        denied = _may_borrow(record, base)
        if denied is not None:
            return denied
        if version is not None and version != record.version:
            return Refused(STALE)
        if _alive(record.mutable.holder, dead):
            return Refused(CHANGING, _who(record.mutable))
        epoch, shared = record.epoch + 1, (*_readers(record, dead), claim)
        return Change(record._replace(epoch=epoch, mutable=Seat(), shared=shared))

    return rule


def _may_borrow(record: Record, base: Claim | None) -> Refused | None:
    if base is not None and base.same(record.owner.holder):
        return Refused(SENT) if record.owner.ticket else None
    if base is not None and not any(base.same(other) for other in record.shared):
        return Refused(FENCED, _who(record.owner))
    return Refused(ORPHAN) if record.owner.holder is None else None


def borrow_mut(claim: Claim, base: Claim) -> Rule:
    """The one mutable borrow, from the owner."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Refused(GONE)
        if claim.same(record.mutable.holder):
            return Same()
        denied = _sits(record.owner, base) or _borrowed(record, dead)
        if denied is not None:
            return denied
        return Change(record._replace(epoch=record.epoch + 1, mutable=Seat(claim), shared=()))

    return rule


def give_back(claim: Claim) -> Rule:
    """A borrow of either kind ends; who leaves last, after the owner, takes the object along."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Same()
        shared = tuple(other for other in record.shared if not claim.same(other))
        mutable = Seat() if claim.same(record.mutable.holder) else record.mutable
        if mutable == record.mutable and len(shared) == len(record.shared):
            return Same()
        left = record._replace(shared=shared, mutable=mutable)
        nobody = left.owner.holder is None and not _alive(mutable.holder, dead) and not _readers(left, dead)
        return Change(None if nobody else left)

    return rule


# -- sending -------------------------------------------------------------------------------------------------------


def send(claim: Claim, ticket: str, role: str) -> Rule:
    """What the claim holds, as `owner` or as `mutable` borrower, goes into a message."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Refused(GONE)
        seat: Seat = getattr(record, role)
        if ticket in (seat.ticket, seat.taken):
            return Same()
        denied = _sits(seat, claim)
        if denied is None and role == "owner":
            denied = _borrowed(record, dead)
        return denied or _seated(record, dead, role, seat._replace(ticket=ticket))

    return rule


def take(claim: Claim, ticket: str, role: str) -> Rule:
    """The first to use a message takes what it brought; another one only if that one is dead."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Refused(GONE)
        seat: Seat = getattr(record, role)
        if claim.same(seat.holder):
            return Same()
        return _void(seat, ticket, dead) or _seated(record, dead, role, Seat(claim, "", ticket), epoch=1)

    return rule


def reclaim(claim: Claim, ticket: str, role: str) -> Rule:
    """The sender takes back what nobody took, or what was taken by a process that is dead."""

    def rule(record: Record | None, dead: frozenset[str]) -> Verdict:
        if record is None:
            return Refused(GONE)
        seat: Seat = getattr(record, role)
        if claim.same(seat.holder):
            return _seated(record, dead, role, seat._replace(ticket=""), epoch=1) if seat.ticket else Same()
        return _void(seat, ticket, dead) or _seated(record, dead, role, Seat(claim), epoch=1)

    return rule


def _void(seat: Seat, ticket: str, dead: frozenset[str]) -> Refused | None:
    """Why the message with this ticket brings the seat to nobody, if it does not."""
    if seat.holder is None or not ticket or ticket not in (seat.ticket, seat.taken):
        return Refused(MOVED, _who(seat))
    if ticket == seat.taken and _alive(seat.holder, dead):
        return Refused(TAKEN, _who(seat))
    return None


def _seated(record: Record, dead: frozenset[str], role: str, seat: Seat, *, epoch: int = 0) -> Change:
    """Somebody's seat changes; what the dead held goes first, as this seat may have been one of theirs."""
    record = _pruned(record, dead)._replace(epoch=record.epoch + epoch)
    return Change(record._replace(owner=seat) if role == "owner" else record._replace(mutable=seat))


def _pruned(record: Record, dead: frozenset[str]) -> Record:
    """Without the borrows of the dead: a zombie among them finds nothing of his when he wakes."""
    mutable = record.mutable if _alive(record.mutable.holder, dead) else Seat()
    return record._replace(mutable=mutable, shared=_readers(record, dead))
