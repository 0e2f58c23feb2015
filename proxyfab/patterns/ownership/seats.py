"""Owners and mutable borrows: what there is one of, and what moves when it is sent."""

from __future__ import annotations

import copy
import os
import time
from hashlib import blake2b
from typing import Any, ClassVar, NoReturn

from proxyfab.errors import BorrowError, KeyNotFound, ProxyfabError
from proxyfab.exit import Hold
from proxyfab.keys import MAX_ID, Key
from proxyfab.patterns.ownership.accounts import PATIENCE, apply, claimed, owe, settle_now
from proxyfab.patterns.ownership.book import Account, Session
from proxyfab.patterns.ownership.borrows import Shared, shared_of
from proxyfab.patterns.ownership.handles import ARRIVED, HELD, OVER, SENT, Handle
from proxyfab.patterns.ownership.keeper import keeper_of
from proxyfab.patterns.ownership.refusals import ended
from proxyfab.patterns.ownership.settling import End
from proxyfab.proxy import Kind, unwrap
from proxyfab.wire import owning
from proxyfab.wire.owned import ADOPTED, Claim, Record, keep, silence


class Seated(Handle):
    """An owner or a mutable borrow: what there is one of, and what moves when it is sent."""

    __slots__ = ("_hold", "_reader", "claim", "session", "ticket")
    role: ClassVar[str] = ""

    def __init__(self, *state: Any, ticket: str = "") -> None:
        super().__init__(*state)
        self.ticket = ticket
        self.claim: Claim | None = None
        self.session: Session | None = None
        self._hold: Hold[Any] | None = None
        self._reader: Shared | None = None

    def sit(self, claim: Claim, session: Session) -> None:
        """It is held by this process now, under this claim."""
        self.claim, self.session, self.state = claim, session, HELD
        if self._hold is not None:
            self._hold.cancel()
        self._hold = owe(self, self.account, claim, owner=self.role == "owner")

    def here(self, verb: str) -> Claim:
        """The claim, once it is certain that this process holds it; what has arrived is taken.

        Raises:
            BorrowError: It does not.
        """
        if self.forked:
            raise ended(verb, self.account, f"the {self.what} belongs to process {self._pid}, which forked this one")
        if self.state == ARRIVED:
            self.account.keeper.taking.do(self, self._take, None, verb)
        if self.state != HELD:
            self.refuse(verb)
        claim, session, account = self.claim, self.session, self.account
        assert claim is not None
        assert session is not None
        if not account.keeper.alive(session) or claim.number not in account.claims:
            self.forget()
            raise ended(
                verb,
                account,
                f"this process was silent for longer than the lease of {self.lease:g} s, and its claim lapsed",
            )
        return claim

    def _take(self, verb: str) -> None:
        if self.state != ARRIVED:
            return  # another thread has just taken it
        account = self.account
        session = account.keeper.session(self.lease)
        if self.claim is None or self.claim.session != session.text:
            self.claim = account.keeper.claim(session)  # once: what was asked for and not answered is asked for again
        rule = owning.take(self.claim, self.ticket, self.role)
        patience = silence(self.lease) + 1
        record = claimed(verb, account, rule, self.claim, arrives=True, waits={owning.TAKEN}, patience=patience)
        self.took(record)
        self.sit(self.claim, session)

    def took(self, record: Record) -> None:
        """What has arrived was found so."""

    def reduce_proxy(self, kind: Kind, _resolved: bool, _target: Any) -> tuple[Any, ...]:
        """Into a message: the first to use it takes the place of this one."""
        if self.state != ARRIVED or self.forked:
            self._send(kind)
        return arrive, (self.role, self.url, self.key, self.lease, self.ticket, *kind)

    def _send(self, kind: Kind) -> None:
        verb = f"Sending the {self.what}"
        if self.state == SENT and not self.forked:
            return  # once more: the same message
        claim = self.here(verb)
        ticket = os.urandom(8).hex()
        apply(verb, self.account, owning.send(claim, ticket, self.role), patience=PATIENCE)
        self.ticket, self.state, self.kind = ticket, SENT, kind
        if self._hold is not None:
            self._hold.cancel()
        self.account.keeper.book.let_go(self.account, claim, ticket)
        self.forget()

    def reclaim(self) -> None:
        """Take back what was sent."""
        verb = f"Reclaiming the {self.what}"
        if self.forked or self.state in (ARRIVED, OVER):
            self.here(verb)
            return
        account = self.account
        session = account.keeper.session(self.lease)
        claim = self.claim
        if claim is None or claim.session != session.text:  # which ended, as all that was held under it was sent
            claim = account.keeper.claim(session)
        claimed(verb, account, owning.reclaim(claim, self.ticket, self.role), claim, arrives=True)
        account.keeper.book.stays(account, account.ticket)
        self.ticket = ""
        self.sit(claim, session)

    def release(self, verb: str) -> None:
        """Give back the claim now."""
        claim = self.here(verb)
        hold, self._hold = self._hold, None
        self.state = OVER
        self.forget()
        if hold is None or hold.cancel():
            settle_now(End(self.account, claim, self.role == "owner"))

    def release_later(self) -> None:
        """Give back the claim soon, in the background; does nothing for what is not held here."""
        if self.state == HELD and not self.forked and self._hold is not None:
            self.state = OVER
            self.forget()
            self._hold.drop()

    def publish(self, target: Any) -> None:
        """Put `target` in place of the object."""
        verb = f"An update by the {self.what}"
        claim, account = self.here(verb), self.account
        store = account.keeper.store
        began = time.monotonic()
        data = store.put(target, ttl=keep(self.lease))
        try:
            with account.changing:
                apply(verb, account, owning.update(claim, str(data)), began=began, patience=PATIENCE)
        except BorrowError:
            store.evict(data)
            raise

    def read_forked(self, timeout: float | None) -> Any:
        """In a forked child: read as a borrow of its own."""
        if self._reader is None:
            self._reader = Shared(self.url, self.key, self.lease, self.kind, ARRIVED)
        return self._reader.resolve(timeout)

    def copy_of_data(self, verb: str) -> tuple[Account, str]:
        """Where the data lie that a clone is to have."""
        self.here(verb)
        return self.account, self.account.data


class Owner(Seated):
    """The one owner."""

    __slots__ = ("lends",)
    what = "owner"
    role = "owner"

    def __init__(self, *state: Any, ticket: str = "") -> None:
        super().__init__(*state, ticket=ticket)
        self.lends = bool(ticket)
        """Whether there may be a mutable borrow, so that the record must be asked."""

    def took(self, record: Record) -> None:
        self.lends = record.mutable.holder is not None

    def resolve(self, timeout: float | None = None) -> Any:
        verb = "Reading"
        if self.forked:
            return self.read_forked(timeout)
        claim, account = self.here(verb), self.account
        if not self.lends:
            try:
                return self._data(account.data).resolve(timeout)
            except KeyNotFound:
                pass  # the record knows why
        apply(verb, account, owning.check(claim), patience=PATIENCE, believed=False)
        self.lends = False
        return self._data(account.data).resolve(timeout)

    def release(self, verb: str, timeout: float = PATIENCE) -> None:
        claim = self.here(verb)
        apply(verb, self.account, owning.release(claim, strict=True), patience=timeout)
        if self._hold is not None:
            self._hold.cancel()
        self.state = OVER
        self.account.keeper.book.let_go(self.account, claim)
        self.forget()

    def borrow_mut(self, timeout: float) -> Mutable:
        """The one mutable borrow."""
        verb = "A mutable borrow"
        base, account = self.here(verb), self.account
        session = account.keeper.session(self.lease)
        claim = account.keeper.claim(session)
        self.lends = True
        claimed(verb, account, owning.borrow_mut(claim, base), claim, borrows=True, patience=timeout)
        self.forget()
        mutable = Mutable(self.url, self.key, self.lease, self.kind, HELD, account)
        mutable.sit(claim, session)
        return mutable

    def borrow(self, timeout: float, scoped: bool) -> Shared:
        """One more shared borrow."""
        base = self.here("A borrow")
        return shared_of(self, self.account, base, timeout, scoped)

    def copy_proxy(self) -> Any:
        """A copy of an owner borrows."""
        return self.borrow(PATIENCE, scoped=False).proxy()

    def deepcopy_proxy(self, _: dict[int, Any]) -> Any:
        """A deep copy is another object, with an owner of its own."""
        return clone_of(self)

    def copy_of_data(self, verb: str) -> tuple[Account, str]:
        apply(verb, self.account, owning.check(self.here(verb)), patience=PATIENCE, believed=False)
        return self.account, self.account.data


class Mutable(Seated):
    """The one mutable borrow. Its target is a private copy, which `update` publishes."""

    __slots__ = ()
    what = "mutable borrow"
    role = "mutable"

    def resolve(self, timeout: float | None = None) -> Any:
        if self.forked:
            return self.read_forked(timeout)
        self.here("Reading")
        return unwrap(copy.deepcopy(self._data(self.account.data).resolve(timeout)))

    def copy_proxy(self) -> NoReturn:
        """There is one of it."""
        raise ended("Copying", self.account, "there is one mutable borrow at a time; deepcopy() or clone() it")

    def deepcopy_proxy(self, _: dict[int, Any]) -> Any:
        """A deep copy is another object, with an owner of its own."""
        return clone_of(self)


def found(store: Any, data: Key, lease: float, kind: Kind, began: float) -> Owner:
    """The owner of what nobody owns yet: it was put under its key, or renewed there, when it `began`."""
    keeper = keeper_of(store)
    session = keeper.session(lease)
    claim = keeper.claim(session)
    account = keeper.account(str(store.reserve()), lease)
    account.data = str(data)
    claimed("Owning", account, owning.found(claim, account.data, lease), claim, began=began, believed=True)
    owner = Owner(store.url, account.key, lease, kind, HELD, account)
    owner.sit(claim, session)
    return owner


def adopted(store: Any, data: Key, lease: float, kind: Kind) -> Owner:
    """The owner of what others put under `data`.

    Its record has a name of its own, which all who would adopt it find: so one of them does.
    """
    keeper = keeper_of(store)
    session = keeper.session(lease)
    claim = keeper.claim(session)
    account = keeper.account(str(_record_of(data, store.reserve().where)), lease)
    if not account.data:
        account.data = str(data)
    rule = owning.adopt(claim, str(data), lease)
    claimed("Adopting", account, rule, claim, arrives=True)  # so that it is renewed at once: it may expire soon
    owner = Owner(store.url, account.key, lease, kind, HELD, account)
    owner.sit(claim, session)
    return owner


def _record_of(data: Key, where: str) -> Key:
    id = data.id + ADOPTED
    return Key(id if len(id) <= MAX_ID else f"{blake2b(data.id.encode(), digest_size=16).hexdigest()}{ADOPTED}", where)


def clone_of(handle: Any) -> Any:
    """Another object of the same bytes, and its owner's proxy."""
    account, data = handle.copy_of_data("Cloning")
    store = account.keeper.store
    began = time.monotonic()
    frames = store.connector.get(Key.parse(data))
    if frames is None:
        raise ended("Cloning", account, "its data are not there any more")
    new = store.connector.put(frames, ttl=keep(handle.lease))
    try:
        return found(store, new, handle.lease, handle.kind, began).proxy()
    except ProxyfabError:
        store.evict(new)
        raise


def arrive(role: str, url: str, key: str, lease: float, ticket: str, *kind: Any) -> Any:
    """Unpickle an owner or a mutable borrow: by name in every message, so it must keep its name and arguments."""
    made = (Owner if role == "owner" else Mutable)(url, key, lease, Kind(*kind), ARRIVED, ticket=ticket)
    return made.proxy()


arrive.__module__ = "proxyfab.patterns.ownership"  # shorter in every message, and free to move
