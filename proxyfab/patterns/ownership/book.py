"""What one process holds in one store, its sessions and accounts of objects, and what to renew when. No I/O, no clock.

Rules:
1. A session is renewed last, and only when everything that is held under it was renewed: so while others see it alive,
   what it holds is there.
2. This process stops believing in a session `lease` seconds after the beginning of the last renewal that succeeded;
   others see it for a quarter longer. A process that was stopped asks before it does anything else.
3. A session that was gone is never made again: what was held under it is lost, and says so.
4. What was sent is kept until somebody takes it; from then on it is his.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Generator
from typing import Any

from proxyfab.errors import ConnectorError, IntegrityError
from proxyfab.patterns.ownership.protocol import Evict, Now, Read, ReadMany, Renew, Steps, change
from proxyfab.wire.owned import Claim, Record, decode, keep, silence
from proxyfab.wire.owning import LAPSED, Refused, Rule

_LINGER = 1.0
"""Leases that a session stays when nothing is held under it any more: the next thing is often about to come."""


class Session:
    """That this process lives, as others see it: an object which is there as long as it is renewed.

    Args:
        text: Of the key under which it lies.
        lease: Seconds.
        now: When this process began to make it; seconds on its own clock.
        pid: Of the process.
    """

    __slots__ = ("__weakref__", "_numbers", "doubted", "idle", "lease", "lost", "pid", "text", "until")

    def __init__(self, text: str, lease: float, now: float, pid: int) -> None:
        self.text = text
        self.lease = lease
        self.pid = pid
        self.lost = False
        self._numbers = itertools.count(1)
        self.until = now + lease
        """As long as others certainly see it."""
        self.doubted = -math.inf
        self.idle = now + _LINGER * lease
        """When it ends, if nothing is held under it then."""

    def valid(self, now: float) -> bool:
        """Whether others certainly see it."""
        return not self.lost and now < self.until

    def claim(self, who: str, since: float) -> Claim:
        """A claim that nobody has had."""
        return Claim(self.text, next(self._numbers), who, since)

    def renewed(self, began: float, there: bool) -> None:
        """What came of a renewal that began at `began`."""
        if not there:
            self.lost = True
        elif began >= self.doubted:
            self.until = max(self.until, began + self.lease)

    def doubt(self, now: float) -> None:
        """Believe in it again only after a renewal of everything that begins later."""
        self.until, self.doubted = -math.inf, now


class Account:
    """What this process knows and holds of one object."""

    __slots__ = (
        "__weakref__",
        "changing",
        "claims",
        "data",
        "doubtful",
        "keeper",
        "key",
        "lease",
        "lent",
        "raw",
        "ticket",
        "version",
    )

    def __init__(self, key: str, lease: float, keeper: Any = None) -> None:
        self.keeper = keeper
        self.key = key
        self.lease = lease
        self.raw: bytes | None = None
        """The record as it was seen last."""
        self.data = ""
        """The key of the data, as it was seen last."""
        self.version = -1
        """Of the data."""
        self.doubtful = False
        """Whether the record may name other data by now: nobody answered whether an update took effect."""
        self.claims: dict[int, Session] = {}
        """Numbers of the claims that are held here, and the sessions they are of; 0 for what was sent."""
        self.ticket = ""
        """Of what was sent, and nobody is known to have taken."""
        self.changing = threading.Lock()
        """Held for an update: one whose answer was lost is asked for again, and must not go over a later one."""
        self.lent: weakref.ref[Any] | None = None
        """The shared claim that all borrows of this process share."""

    def saw(self, raw: bytes | None) -> Record | None:
        """The record is, or was a moment ago, this; another thread may have seen a later one."""
        record = None if raw is None else decode(raw)
        if record is None or record.version >= self.version:
            self.raw = raw
        if record is not None and record.version >= self.version:
            self.data, self.version = record.data, record.version
        return record


class Book:
    """Thread-safe: threads of one process hold and let go while one of them tends."""

    def __init__(self) -> None:
        self.sessions: dict[float, Session] = {}
        """By lease."""
        self.kept: dict[str, Account] = {}
        """What is held, by the record's key."""
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may come here again

    def use(self, session: Session, now: float) -> bool:
        """Whether others certainly see it, and go on to: it does not end for being idle from now on."""
        with self._lock:
            session.idle = max(session.idle, now + _LINGER * session.lease)
            return session.valid(now)

    def hold(self, account: Account, claim: Claim) -> bool:
        """Keep what a claim stands for, from now on; False when its session was lost meanwhile."""
        with self._lock:  # under which sessions end, too
            session = next((each for each in list(self.sessions.values()) if each.text == claim.session), None)
            if session is None or session.lost:
                return False
            account.claims[claim.number] = session
            self.kept[account.key] = account
        return True

    def let_go(self, account: Account, claim: Claim, ticket: str = "") -> None:
        """Keep it no longer for this claim; with a ticket, until somebody took that."""
        with self._lock:
            session = account.claims.pop(claim.number, None)
            if ticket and session is not None:
                account.ticket = ticket
                account.claims[0] = session
            self._settle(account)

    def stays(self, account: Account, ticket: str) -> None:
        """What was sent with this ticket was taken back, or by somebody else."""
        with self._lock:
            if account.ticket != ticket:
                return  # it was sent anew meanwhile
            account.ticket = ""
            account.claims.pop(0, None)
            self._settle(account)

    def held(self, session: Session) -> list[Account]:
        """What is held under a session."""
        with self._lock:
            return [account for account in self.kept.values() if session in account.claims.values()]

    def tend(self, session: Session, now: float) -> Generator[Any, Any, None]:
        """Renew a session and all that is held under it, or end it when nothing has been for a while.

        Raises:
            ConnectorError: The place did not answer; what was not renewed is to be renewed soon.
        """
        if not session.lost:
            count = yield from self._renew_held(session)
            if count or now <= session.idle:
                session.renewed(now, (yield Renew((session.text,), silence(session.lease)))[0])
                if not session.lost:
                    return
        if self._close(session, now):
            yield Evict(session.text)

    def revive(self, session: Session, now: float) -> Generator[Any, Any, None]:
        """Ask whether a session that was not renewed in time is still seen, and renew what is held under it if so."""
        yield from self._renew_held(session)
        session.renewed(now, (yield Renew((session.text,), silence(session.lease)))[0])
        if session.lost:
            self._close(session, now)

    def _close(self, session: Session, now: float) -> bool:
        """End a session; whether it is to be taken away, as it still lies there and nothing is held under it."""
        with self._lock:
            held = self.held(session)
            if not session.lost and (held or now <= session.idle):
                return False  # somebody came this very moment
            for account in held:
                account.claims = {number: each for number, each in account.claims.items() if each is not session}
                self._settle(account)
            if self.sessions.get(session.lease) is session:
                del self.sessions[session.lease]
            there, session.lost = not session.lost, True
            return there

    def _settle(self, account: Account) -> None:
        if not account.claims and self.kept.get(account.key) is account:
            del self.kept[account.key]

    def _renew_held(self, session: Session) -> Generator[Any, Any, int]:
        yield from self._look_for_takers([account for account in self.held(session) if account.ticket])
        held = self.held(session)
        if not held:
            return 0
        keys = [text for account in held for text in (account.key, account.data)]
        there = yield Renew(tuple(keys), keep(session.lease))
        pairs = zip(held, there[::2], there[1::2], strict=True)
        yield from self._look_after([account for account, *both in pairs if account.doubtful or not all(both)])
        return len(held)

    def _look_for_takers(self, sent: list[Account]) -> Generator[Any, Any, None]:
        """What was taken is somebody else's to keep now (rule 4)."""
        tickets = [account.ticket for account in sent]
        bodies = (yield ReadMany(tuple(account.key for account in sent))) if sent else []
        for account, ticket, raw in zip(sent, tickets, bodies, strict=True):
            record = _saw(account, raw)
            if record is None or ticket not in (record.owner.ticket, record.mutable.ticket):
                self.stays(account, ticket)

    def _look_after(self, accounts: list[Account]) -> Generator[Any, Any, None]:
        """Something was missing: the data were replaced, or all is gone."""
        bodies = (yield ReadMany(tuple(account.key for account in accounts))) if accounts else []
        for account, raw in zip(accounts, bodies, strict=True):
            if _saw(account, raw) is None or not (yield from self._find_data(account)):
                with self._lock:
                    account.claims.clear()
                    self._settle(account)
            account.doubtful = False

    def _find_data(self, account: Account) -> Generator[Any, Any, bool]:
        """Renew the data that the record names, which may be others by then; False when they are gone."""
        tried = ""
        while account.data != tried:
            tried = account.data
            if (yield Renew((tried,), keep(account.lease)))[0]:
                return True
            if _saw(account, (yield Read(account.key))) is None:
                return False
        return False

    # -- changes ---------------------------------------------------------------------------------------------------

    def enter(
        self, account: Account, rule: Rule, claim: Claim, *, arrives: bool, began: float | None = None, **options: Any
    ) -> Steps:
        """Change a record so that `claim` is in it, and keep what it stands for from then on.

        Args:
            account: Of the object.
            rule: What to do.
            claim: That is in the record when it is done.
            arrives: Whether nothing of the object was kept here before, so that its data may be about to expire.
            began: When its data were last put or renewed; now if that is somebody else's business.
            options: Of `change`.
        """
        own = began is not None
        began = (yield Now()) if began is None else began
        outcome = yield from change(account.key, rule, account.raw, **options)
        account.saw(outcome.raw)
        if outcome.refused is not None:
            return outcome
        arrives |= not own and account.key not in self.kept  # what it was borrowed from was found gone meanwhile
        if not self.hold(account, claim):
            return outcome._replace(refused=Refused(LAPSED))
        yield from self._catch_up(account, arrives, began)
        return outcome if claim.number in account.claims else outcome._replace(refused=Refused(LAPSED))

    def alter(self, account: Account, rule: Rule, *, began: float | None = None, **options: Any) -> Steps:
        """Change a record without another claim; new data that it is to name were put when it `began`."""
        try:
            outcome = yield from change(account.key, rule, account.raw, **options)
        except ConnectorError:
            account.doubtful |= began is not None
            raise
        account.saw(outcome.raw)
        if began is not None and outcome.refused is None:
            yield from self._catch_up(account, False, began)
        return outcome

    def _catch_up(self, account: Account, arrives: bool, began: float) -> Generator[Any, Any, None]:
        """Renew at once what may expire before the next renewal of everything.

        A session may just have been renewed without it, and is believed in for one lease from then; so of the time to
        live, one and a half, no more than a quarter may have gone by. Where the place does not answer, no session is
        believed in before it was renewed, and this with it.
        """
        if not arrives and (yield Now()) - began < account.lease / 4:
            return
        try:
            if not all((yield Renew((account.key, account.data), keep(account.lease)))):
                yield from self._look_after([account])
        except ConnectorError:
            now = yield Now()
            for session in list(account.claims.values()):
                session.doubt(now)


def _saw(account: Account, raw: bytes | None) -> Record | None:
    """What is no record is as good as none: what else is held goes on."""
    try:
        return account.saw(raw)
    except IntegrityError:
        return None
