"""What one process holds in one store, and the thread that keeps it: sessions and accounts, renewed in batches.

Rules:
1. A session is renewed last, and only when everything that is held under it was renewed: so while others see it alive,
   what it holds is there.
2. This process stops believing in a session `lease` seconds after the beginning of the last renewal that succeeded;
   others see it for a quarter longer. A process that was stopped asks before it does anything else.
3. A session that was gone is never made again: what was held under it is lost, and says so.
4. The thread is a daemon, there is one for each store while something is held there, and none holds up another.
5. No lock is held while bytes move.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from _queue import Empty, SimpleQueue  # not from `queue`, whose heaps and conditions take a millisecond to load
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import BorrowError, ProxyfabError
from proxyfab.flight import SingleFlight
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.osio.owner import this_process
from proxyfab.patterns.ownership.desk import presence
from proxyfab.ref import openers
from proxyfab.store import Store
from proxyfab.wire.owned import Claim, decode, keep, silence

_LINGER = 1.0
"""Leases that a session stays when nothing is held under it any more: the next thing is often about to come."""


class Session:
    """That this process lives, as others see it: an object which is there as long as it is renewed."""

    __slots__ = ("__weakref__", "_numbers", "idle", "key", "lease", "lost", "pid", "text", "until")

    def __init__(self, store: Store, lease: float) -> None:
        self.lease = lease
        self.pid = os.getpid()
        self.lost = False
        self._numbers = itertools.count(1)
        self.until = self.idle = time.monotonic() + lease
        self.key = store.connector.put(Frames([presence()]), key=store.reserve(), ttl=silence(lease))
        self.text = str(self.key)

    @property
    def valid(self) -> bool:
        """Whether others certainly see it."""
        return not self.lost and time.monotonic() < self.until

    def claim(self) -> Claim:
        """A claim that nobody has had."""
        return Claim(self.text, next(self._numbers), str(this_process()), time.time())

    def renewed(self, began: float, there: bool) -> None:
        """What came of a renewal that began at `began`."""
        if there:
            self.until = max(self.until, began + self.lease)
        else:
            self.lost = True


class Account:
    """What this process knows and holds of one object."""

    __slots__ = ("__weakref__", "claims", "data", "keeper", "key", "lease", "lent", "lost", "raw", "ticket")

    def __init__(self, keeper: Keeper, key: str, lease: float) -> None:
        self.keeper = keeper
        self.key = key
        self.lease = lease
        self.raw: bytes | None = None
        """The record as it was seen last."""
        self.data = ""
        """The key of the data, as it was seen last."""
        self.claims: dict[int, Session] = {}
        """Numbers of the claims that are held here, and the sessions they are of."""
        self.ticket = ""
        """Of what was sent, and is kept alive until somebody took it."""
        self.lost = False
        """Whether the record was found missing while something was held."""
        self.lent: Any = None
        """A weak reference to the shared claim that all borrows of this process share."""

    def saw(self, raw: bytes | None) -> None:
        """The record is this now."""
        self.raw = raw
        if raw is not None:
            self.data = decode(raw).data

    def places(self) -> tuple[Key, Key]:
        """Of record and data."""
        return Key.parse(self.key), Key.parse(self.data)


class Keeper:
    """Renews all that this process holds in one store. Thread-safe; a forked child begins anew.

    Args:
        store: Where it lies.
    """

    def __init__(self, store: Store) -> None:
        self.url = store.url
        self._store: Store | None = store
        self.accounts: weakref.WeakValueDictionary[str, Account] = weakref.WeakValueDictionary()
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child holds nothing."""
        self.sessions: dict[float, Session] = {}
        self.kept: dict[str, Account] = {}
        self._flights: SingleFlight[Session] = SingleFlight("a session")
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may come here again
        self._thread: threading.Thread | None = None
        self.accounts.clear()

    @property
    def store(self) -> Store:
        """This process's live store, opened again if it was closed."""
        store = self._store
        if store is None or store.closed:
            store = self._store = openers[0](self.url)
        return store

    def account(self, key: str, lease: float) -> Account:
        """Of the record under `key`; the same one for all in this process who have to do with it."""
        return self.accounts.setdefault(key, Account(self, key, lease))

    # -- sessions ------------------------------------------------------------------------------------------------

    def session(self, lease: float) -> Session:
        """A session that others certainly see."""
        session = self.sessions.get(lease)
        if session is not None and session.valid:
            session.idle = time.monotonic() + _LINGER * lease
            return session
        return self._flights.do(lease, self._session, None, lease)

    def _session(self, lease: float) -> Session:
        session = self.sessions.get(lease)
        if session is not None and self.alive(session):
            return session
        session = self.sessions[lease] = Session(self.store, lease)
        self._work_on()
        return session

    def alive(self, session: Session) -> bool:
        """Whether others see the session; asked for, where this process has not renewed it in time."""
        if session.valid:
            return True
        if not session.lost:
            began = time.monotonic()
            self._renew_all(session)
            session.renewed(began, self._renew([session.key], silence(session.lease))[0])
        return session.valid

    # -- accounts ------------------------------------------------------------------------------------------------

    def hold(self, account: Account, claim: Claim) -> None:
        """Keep what a claim stands for, from now on."""
        session = next((each for each in self.sessions.values() if each.text == claim.session), None)
        if session is None:
            raise BorrowError(f"The claim on {account.key} in {self.url} lapsed while it was made; try again.")
        with self._lock:
            account.claims[claim.number] = session
            account.lost = False
            self.kept[account.key] = account
        self._work_on()

    def let_go(self, account: Account, claim: Claim, ticket: str = "") -> None:
        """Keep it no longer for this claim; with a ticket, until somebody took that."""
        with self._lock:
            session = account.claims.pop(claim.number, None)
            account.ticket = ticket or account.ticket
            if ticket and session is not None:
                account.claims[0] = session
            elif not account.claims and self.kept.get(account.key) is account:
                del self.kept[account.key]

    # -- the thread ----------------------------------------------------------------------------------------------

    def _work_on(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._calls.put(None)
            return
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._work, name="proxyfab-background-keeper", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread can be had: every operation asks for itself, as after a pause
                self._thread = None

    def _work(self) -> None:
        due: dict[float, float] = {}
        while not self._may_end():
            now = time.monotonic()
            for lease, session in list(self.sessions.items()):
                if due.setdefault(lease, now + lease / 3) <= now:
                    due[lease] = now + (lease / 3 if self.tend(session) else min(1.0, lease / 10))
            next_due = min((due[lease] for lease in list(self.sessions) if lease in due), default=now)
            try:
                self._calls.get(timeout=max(next_due - time.monotonic(), 0.001))
            except Empty:
                pass

    def tend(self, session: Session) -> bool:
        """Renew a session and all that is held under it, or end it if nothing has been for a while; whether it went."""
        began = time.monotonic()
        try:
            if session.lost or (self._renew_all(session) == 0 and began > session.idle):
                self._end(session)
                return True
            session.renewed(began, self._renew([session.key], silence(session.lease))[0])
        except ProxyfabError:
            return False
        return True

    def _end(self, session: Session) -> None:
        with self._lock:
            held = [account for account in self.kept.values() if session in account.claims.values()]
            for account in held:
                if session.lost:
                    account.claims = {number: each for number, each in account.claims.items() if each is not session}
                if not account.claims:
                    del self.kept[account.key]
            if (not held or session.lost) and self.sessions.get(session.lease) is session:
                del self.sessions[session.lease]
        if not held and not session.lost:
            self.store.evict(session.key)

    def _renew_all(self, session: Session) -> int:
        """Renew what is held under a session; how much that is."""
        with self._lock:
            held = [account for account in self.kept.values() if session in account.claims.values()]
        held = self._not_taken(held)
        if not held:
            return 0
        keys = [key for account in held for key in account.places()]
        there = self._renew(keys, keep(session.lease))
        self._look_after(
            [a for a, record, data in zip(held, there[::2], there[1::2], strict=True) if not record or not data]
        )
        return len(held)

    def _look_after(self, accounts: list[Account]) -> None:
        """The data were replaced, or all is lost."""
        for account, frames in zip(accounts, self._records(accounts), strict=True):
            if frames is None:
                with self._lock:
                    account.lost = True
                    account.claims.clear()
                    self.kept.pop(account.key, None)
            else:
                account.saw(frames.tobytes())
                self._renew([account.places()[1]], keep(account.lease))

    def _not_taken(self, accounts: list[Account]) -> list[Account]:
        """Without what was sent from here and taken by somebody: that is his to keep now."""
        sent = [account for account in accounts if account.ticket]
        for account, frames in zip(sent, self._records(sent), strict=True):
            record = None if frames is None else decode(frames.tobytes())
            if record is None or account.ticket not in (record.owner.ticket, record.mutable.ticket):
                with self._lock:
                    account.ticket = ""
                    account.claims.pop(0, None)
                    if not account.claims:
                        self.kept.pop(account.key, None)
        return [account for account in accounts if account.claims]

    def _records(self, accounts: list[Account]) -> list[Frames | None]:
        return self.store.connector.get_many([Key.parse(account.key) for account in accounts]) if accounts else []

    def _renew(self, keys: list[Key], ttl: float) -> list[bool]:
        connector: Any = self.store.connector  # which has leases, or there would be nothing to keep
        return connector.renew_many(keys, ttl)  # type: ignore[no-any-return]

    def _may_end(self) -> bool:
        with self._lock:
            if self.sessions or self.kept:
                return False
            self._thread = None
            return True


def keeper_of(store: Store) -> Keeper:
    """This process's keeper for a store."""
    keeper = _keepers.get(store.url)
    return _keepers.setdefault(store.url, Keeper(store)) if keeper is None else keeper


_keepers: dict[str, Keeper] = {}
