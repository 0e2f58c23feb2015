"""Shared borrows: any number of them, read only, each under a claim of its process or of its sender."""

from __future__ import annotations

import os
from typing import Any

from proxyfab.errors import KeyNotFound
from proxyfab.patterns.ownership.accounts import PATIENCE, Lent, lend
from proxyfab.patterns.ownership.book import Account
from proxyfab.patterns.ownership.handles import ARRIVED, HELD, OVER, Handle
from proxyfab.patterns.ownership.refusals import ended
from proxyfab.proxy import Kind
from proxyfab.wire.owned import Claim


class Shared(Handle):
    """A shared borrow. A scoped one is covered by its sender's claim wherever it is used."""

    __slots__ = ("_lent", "data", "scoped", "version")
    what = "borrow"

    def __init__(self, *state: Any, data: str = "", version: int | None = None, scoped: bool = False) -> None:
        super().__init__(*state)
        self.data = data
        self.version = version
        self.scoped = scoped
        self._lent: Lent | None = None

    def join(self, lent: Lent) -> None:
        """It is held by this process now, under this claim, which other borrows share."""
        self._lent, self.state = lent, HELD
        self.data, self.version = lent.data, lent.version
        self._pid = os.getpid()

    def here(self, verb: str) -> Lent | None:
        """The claim, once it is certain that it is there; None for a scoped borrow, which its sender's covers."""
        if self.forked or self.state == ARRIVED:
            if self.state == OVER:
                self.refuse(verb)
            if self.scoped:
                return None
            self.join(lend(self.account, self, None, self.version, PATIENCE))
        if self.state != HELD:
            self.refuse(verb)
        lent = self._lent
        assert lent is not None
        if not self.account.keeper.alive(lent.session) or not lent.live:
            raise ended(verb, self.account, f"this process was silent for longer than the lease of {self.lease:g} s")
        return lent

    def resolve(self, timeout: float | None = None) -> Any:
        self.here("Reading")
        try:
            return self._data(self.data).resolve(timeout)
        except KeyNotFound as error:
            why = (
                "what covered this borrow has ended: the task it was made for is done, or its sender let it go or died"
            )
            raise ended("Reading", self.account, why) from error

    def prefetch(self) -> None:
        """Move the bytes now, in the background."""
        if self.scoped or self.state == HELD:
            self._ahead = self._data(self.data)
            self._ahead.prefetch()

    def borrow(self, timeout: float, scoped: bool) -> Shared:
        """One more like it."""
        lent = self.here("A borrow")
        if lent is None:
            return Shared(
                self.url, self.key, self.lease, self.kind, ARRIVED, data=self.data, version=self.version, scoped=True
            )
        return shared_of(self, self.account, lent.claim, timeout, scoped)

    def release(self, _verb: str) -> None:
        """Give back the claim, if no other borrow of this process shares it."""
        self._end(later=False)

    def release_later(self) -> None:
        """The same soon, in the background."""
        self._end(later=True)

    def _end(self, *, later: bool) -> None:
        lent, self._lent = self._lent, None
        mine = self.state == HELD and not self.forked
        self.state = OVER
        self.forget()
        if mine and lent is not None:
            lent.leave(self, later=later)

    def reduce_proxy(self, kind: Kind, _resolved: bool, _target: Any) -> tuple[Any, ...]:
        """Into a message: who uses it borrows for himself, or under its sender's claim if it is scoped."""
        if self.state == OVER:
            self.refuse("Sending the borrow")
        return arrive_shared, (self.url, self.key, self.lease, self.data, self.version, self.scoped, *kind)

    def copy_proxy(self) -> Any:
        """A copy is another borrow."""
        return self.borrow(PATIENCE, self.scoped).proxy()

    def deepcopy_proxy(self, _: dict[int, Any]) -> Any:
        """So is a deep copy: what is borrowed is not changed."""
        return self.copy_proxy()

    def copy_of_data(self, verb: str) -> tuple[Account, str]:
        """Where the data lie that a clone is to have."""
        self.here(verb)
        return self.account, self.data


def shared_of(handle: Handle, account: Account, base: Claim, timeout: float, scoped: bool) -> Shared:
    """A shared borrow of what `handle` holds."""
    shared = Shared(handle.url, handle.key, handle.lease, handle.kind, HELD, account, scoped=scoped)
    shared.join(lend(account, shared, base, None, timeout))
    return shared


def arrive_shared(url: str, key: str, lease: float, data: str, version: int | None, scoped: bool, *kind: Any) -> Any:
    """Unpickle a borrow: by name in every message, so it must keep its name and arguments."""
    return Shared(url, key, lease, Kind(*kind), ARRIVED, data=data, version=version, scoped=scoped).proxy()


arrive_shared.__module__ = "proxyfab.patterns.ownership"  # shorter in every message, and free to move
