"""Changes of one object's record as this process makes them: with what it knows already, and what it then holds.

Promises: what fails on the way is settled later: a claim of which nobody knows whether it was made is given back.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from proxyfab.errors import ConnectorError
from proxyfab.exit import Hold
from proxyfab.members import Members
from proxyfab.patterns.ownership.book import Account, Session
from proxyfab.patterns.ownership.desk import Desk
from proxyfab.patterns.ownership.protocol import Steps
from proxyfab.patterns.ownership.refusals import refusal
from proxyfab.patterns.ownership.settling import End, settle
from proxyfab.wire import owning
from proxyfab.wire.owned import Claim, Record
from proxyfab.wire.owning import Rule

PATIENCE = 1.0
"""Seconds that somebody else's claim may stand in the way by default: what was let go is given back a moment later."""
_FLUSH = 0.25
_WAITS = frozenset({owning.LENT, owning.CHANGING})


def apply(verb: str, account: Account, rule: Rule, *, began: float | None = None, **options: Any) -> Record | None:
    """Change the record; what is there afterwards.

    Args:
        verb: Names the operation in an error.
        account: Of the object.
        rule: What to do with it.
        began: When new data were put, for a rule that puts them in place of the old.
        options: Of `_drive`.

    Raises:
        BorrowError: The rules refuse it.
        ConnectorError: The place did not answer.
    """
    return _drive(verb, account, partial(account.keeper.book.alter, account, rule, began=began), **options)


def claimed(
    verb: str,
    account: Account,
    rule: Rule,
    claim: Claim,
    *,
    arrives: bool = False,
    began: float | None = None,
    borrows: bool = False,
    **options: Any,
) -> Record:
    """Change the record so that `claim` is in it, and keep what it stands for.

    Args:
        verb: As in `apply`, and so are the next two.
        account: Of the object.
        rule: What to do with it.
        claim: Under which this process will hold it.
        arrives: As in `Book.enter`.
        began: As there.
        borrows: Whether a claim of which nobody knows is to be given back: it would stand in the owner's way.
        options: Of `_drive`.
    """
    enter = partial(account.keeper.book.enter, account, rule, claim, arrives=arrives, began=began)
    try:
        record = _drive(verb, account, enter, **options)
    except ConnectorError:
        if borrows:
            account.keeper.drain.add([End(account, claim, owner=False)])
        raise
    account.keeper.work_on()
    assert record is not None
    return record


def _drive(
    verb: str,
    account: Account,
    steps: Callable[..., Steps],
    *,
    patience: float = 0.0,
    waits: Collection[str] = _WAITS,
    believed: bool | None = None,
) -> Record | None:
    store = account.keeper.store
    believed = account.raw is not None if believed is None else believed
    outcome = Desk(store).run(steps(believed=believed, waits=waits))
    if outcome.refused is not None and outcome.refused.reason in waits:
        # What this process let go, and is about to give back, may be all that is in the way.
        account.keeper.drain.flush(min(max(patience, _FLUSH), PATIENCE))
        outcome = Desk(store, patience).run(steps(believed=False, waits=waits))
    if outcome.refused is not None:
        raise refusal(verb, account, outcome.refused)
    return outcome.record


def owe(handle: object, account: Account, claim: Claim, *, owner: bool) -> Hold[Any]:
    """Give the claim back when `handle` is collected, or the process ends."""
    return account.keeper.drain.hold(handle, End(account, claim, owner))  # type: ignore[no-any-return]  # a Keeper's


def settle_now(end: End) -> None:
    """Do what is owed in this thread; where the place does not answer, in the background as soon as it does."""
    try:
        settle([end])
    except ConnectorError:
        end.keeper.drain.add([end])
        raise


class Lent:
    """A shared claim, which all borrows of one version in this process share; given back when the last of them ends."""

    __slots__ = ("__weakref__", "_handles", "_hold", "_open", "account", "claim", "data", "session", "version")

    def __init__(self, account: Account, claim: Claim, session: Session, record: Record) -> None:
        self.account = account
        self.claim = claim
        self.session = session
        self.data = record.data
        self.version = record.version
        self._handles: Members[object] = Members()
        self._open = True
        self._hold = owe(self, account, claim, owner=False)

    @property
    def live(self) -> bool:
        """Whether it is this process's, and not lost."""
        return self.session.pid == os.getpid() and self._hold.held and self.claim.number in self.account.claims

    def usable(self, session: Session, version: int | None) -> bool:
        """Whether a borrow of this version may share it."""
        return self.live and self.session is session and version in (None, self.version)

    def join(self, handle: object) -> bool:
        """Share it; False when it has just ended."""
        with _joining:
            if self._open and self._hold.held:
                self._handles.add(handle)
                return True
        return False

    def leave(self, handle: object, *, later: bool) -> None:
        """Share it no longer; the last one gives it back, now or `later`."""
        with _joining:
            self._handles.discard(handle)
            if self._handles:
                return
            self._open = False  # it is owed from now on, though the drain may still have to find it
            if later:
                self._hold.drop()
                return
            mine = self._hold.cancel()
        if mine:
            settle_now(End(self.account, self.claim, owner=False))


def _unlock() -> None:
    global _joining
    _joining = threading.RLock()


_joining = threading.RLock()
os.register_at_fork(after_in_child=_unlock)


def lend(account: Account, handle: object, base: Claim | None, version: int | None, patience: float) -> Lent:
    """A shared claim for a borrow's handle: the one this process has, or a new one.

    Args:
        account: Of the object.
        handle: Of the borrow.
        base: What it is borrowed from; None for a borrow that arrived in a message.
        version: That the message was about.
        patience: Seconds to wait for a mutable borrow to end.
    """
    session = account.keeper.session(account.lease)
    lent: Lent | None = None if account.lent is None else account.lent()
    if lent is not None and lent.usable(session, version) and lent.join(handle):
        return lent
    claim = account.keeper.claim(session)
    rule = owning.borrow(claim, base=base, version=version)
    record = claimed("A borrow", account, rule, claim, arrives=base is None, borrows=True, patience=patience)
    lent = Lent(account, claim, session, record)
    lent.join(handle)
    account.lent = weakref.ref(lent)
    return lent
