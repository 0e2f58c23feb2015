"""The thread that keeps what this process holds in one store: every third of a lease it does what the book says.

Promises: it is a daemon, there is one for each store while something is held there, and none holds up another; without
it (no thread can be had) every operation asks for itself, as after a pause. No lock is held while bytes move.
"""

from __future__ import annotations

import os
import threading
import time
from _queue import Empty, SimpleQueue  # not from `queue`, whose heaps and conditions take a millisecond to load
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from proxyfab.buffers import Frames
from proxyfab.exit import Drain, Hold
from proxyfab.flight import SingleFlight
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.members import Known
from proxyfab.opening import connector_of, seal_of
from proxyfab.osio.owner import this_process
from proxyfab.patterns.holding import reap
from proxyfab.patterns.ownership.book import Account, Book, Session
from proxyfab.patterns.ownership.desk import Desk, presence
from proxyfab.patterns.ownership.settling import End, Farewell, settle
from proxyfab.ref import openers
from proxyfab.spec import StoreSpec
from proxyfab.store import Store
from proxyfab.wire.owned import Claim, silence


class Visit:
    """As much of a store as is needed to settle what is owed there, for as long as that takes."""

    def __init__(self, url: str) -> None:
        spec = StoreSpec.parse(url)
        self.connector = connector_of(spec.connector, None, seal_of(spec.seal or None))

    def evict(self, key: Key) -> bool:
        """Delete the object under `key`."""
        return self.connector.evict(key)

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        """`evict` of each."""
        return self.connector.evict_many(keys)


class Keeper:
    """Keeps what this process holds in one store. Thread-safe; a forked child begins anew.

    Args:
        store: Where it lies.
    """

    def __init__(self, store: Store) -> None:
        self.url = store.url
        self._store: Store | None = store
        self._accounts: Known[str, Account] = Known()
        self.drain: Drain[End | Farewell] = Drain(settle, "ownership")
        """What ended handles leave to do."""
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child holds nothing."""
        self.book = Book()
        self._flights: SingleFlight[Session] = SingleFlight("a session")
        self.taking: SingleFlight[None] = SingleFlight("what a message brought")
        """Threads that use what has arrived at once take it once."""
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._farewells: dict[Session, Hold[End | Farewell]] = {}
        self._accounts.clear()

    @contextmanager
    def visit(self) -> Iterator[Store | Visit]:
        """The store, for work in the background: one that was closed is not opened again for good."""
        store = self._store
        if store is not None and not store.closed:
            yield store
            return
        visit = Visit(self.url)
        try:
            yield visit
        finally:
            visit.connector.close()

    @property
    def store(self) -> Store:
        """This process's live store, opened again if it was closed."""
        store = self._store
        if store is None or store.closed:
            store = self._store = openers[0](self.url)
        return store

    def account(self, key: str, lease: float) -> Account:
        """Of the record under `key`; the same one for all in this process who have to do with it."""
        return self._accounts.setdefault(key, Account(key, lease, self))

    def session(self, lease: float) -> Session:
        """A session that others certainly see."""
        session = self.book.sessions.get(lease)
        if session is not None and self.book.use(session, time.monotonic()):
            return session
        return self._flights.do(lease, self._session, None, lease)

    def _session(self, lease: float) -> Session:
        session = self.book.sessions.get(lease)
        if session is not None and (self.alive(session) or not session.lost):
            return session  # what is in doubt, and may still be seen, is renewed on; it holds what was claimed under it
        now = time.monotonic()
        key = self.store.connector.put(Frames([presence()]), key=self.store.reserve(), ttl=silence(lease))
        session = self.book.sessions[lease] = Session(str(key), lease, now, os.getpid())
        self._farewells[session] = self.drain.hold(session, Farewell(self, session.text))
        self.work_on()
        return session

    def alive(self, session: Session) -> bool:
        """Whether others see the session; asked for, where this process has not renewed it in time."""
        now = time.monotonic()
        if not session.lost and not session.valid(now):
            Desk(self.store).run(self.book.revive(session, now))
        return session.valid(time.monotonic())

    def claim(self, session: Session) -> Claim:
        """A claim that nobody has had."""
        return session.claim(str(this_process()), time.time())

    def work_on(self) -> None:
        """See that the thread runs, and looks when it has to be back."""
        if self._thread is not None and self._thread.is_alive():
            self._calls.put(None)
            return
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._work, name="proxyfab-background-keeper", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread can be had: the limit is reached, or the interpreter is ending
                self._thread = None

    def _work(self) -> None:
        due: dict[float, float] = {}
        while not self._may_end():
            for lease, session in list(self.book.sessions.items()):
                now = time.monotonic()
                if due.setdefault(lease, now + lease / 3) <= now:
                    due[lease] = now + (lease / 3 if self._tend(session, now) else min(1.0, lease / 10))
            soonest = min((due[lease] for lease in list(self.book.sessions) if lease in due), default=0.0)
            try:
                self._calls.get(timeout=max(soonest - time.monotonic(), 0.001))
            except Empty:
                pass

    def _tend(self, session: Session, now: float) -> bool:
        store = self._store
        if (store is None or store.closed) and not self.book.held(session):
            self.book.sessions.pop(session.lease, None)  # expires; nothing is worth opening the store again
            session.lost = True
        try:
            if not session.lost:
                with self.visit() as place:
                    Desk(place).run(self.book.tend(session, now))
                if store is not None:
                    reap(store)  # of the killed, where what expired is only hidden
        except Exception:  # noqa: BLE001 - there is nobody to tell, and what else is held must not lapse for it
            return False
        if session.lost and session in self._farewells:
            self._farewells.pop(session).cancel()
        return True

    def _may_end(self) -> bool:
        with self._lock:
            if self.book.sessions or self.book.kept:
                return False
            self._thread = None
            return True


def keeper_of(store: Store) -> Keeper:
    """This process's keeper for a store."""
    keeper = _keepers.get(store.url)
    return _keepers.setdefault(store.url, Keeper(store)) if keeper is None else keeper


_keepers: Known[str, Keeper] = Known()
