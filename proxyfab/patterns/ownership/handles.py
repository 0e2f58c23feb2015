"""What stands behind the proxies of owners and borrows: handles, which know the object's account and fetch its target.

Rules:
1. A handle is one claim's, of one process. In a forked child, an owner's and a borrow's copy can be read, as a borrow
   that the child takes for itself; nothing else.
2. Nothing is claimed by unpickling, only by use: who passes a message on, or reads it twice, moves nothing.
3. What is sent, lent mutably or released loses its target here: nobody reads on in what he does not have.
4. Changes reach others by `update`, and only by it.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, ClassVar, NoReturn

from proxyfab.keys import Key
from proxyfab.patterns.ownership.book import Account
from proxyfab.patterns.ownership.keeper import keeper_of
from proxyfab.patterns.ownership.refusals import ended
from proxyfab.proxy import Kind, make, unsettle
from proxyfab.ref import Ref, openers

HELD, ARRIVED, SENT, OVER = "held", "arrived", "sent", "over"


class Handle:
    """What all kinds share: an account, a state, and a proxy.

    Attributes:
        url: The store's.
        key: Of the record.
        lease: The object's.
        kind: Its type's, for proxies.
        state: HELD by this process, ARRIVED in a message, SENT on, or OVER.
    """

    __slots__ = (
        "__weakref__",
        "_account",
        "_ahead",
        "_pid",
        "_proxy",
        "_reader",
        "key",
        "kind",
        "lease",
        "state",
        "url",
    )
    what: ClassVar[str] = ""

    def __init__(
        self, url: str, key: str, lease: float, kind: Kind, state: str, account: Account | None = None
    ) -> None:
        self.url = url
        self.key = key
        self.lease = lease
        self.kind = kind
        self.state = state
        self._account = account
        self._pid = os.getpid()
        self._proxy: weakref.ref[Any] | None = None
        self._ahead: Ref[Any] | None = None

    @property
    def account(self) -> Account:
        """This process's account of the object."""
        if self._account is None or self.forked:
            self._account = keeper_of(openers[0](self.url)).account(self.key, self.lease)
        return self._account

    @property
    def forked(self) -> bool:
        """Whether it is the copy of one that belongs to the parent process."""
        return self._pid != os.getpid()

    def proxy(self) -> Any:
        """The proxy in which this handle is handed out."""
        proxy = make(self, self.kind)
        self._proxy = weakref.ref(proxy)
        return proxy

    def forget(self) -> None:
        """Take the target out of the proxy (rule 3)."""
        proxy = None if self._proxy is None else self._proxy()
        self._ahead = None
        if proxy is not None:
            unsettle(proxy)

    def __call__(self) -> Any:
        return self.resolve()

    def resolve(self, timeout: float | None = None) -> Any:
        """The object."""
        raise NotImplementedError

    def _data(self, key: str) -> Ref[Any]:
        ahead = self._ahead
        if ahead is None or str(ahead.key) != key:
            ahead = Ref(self.url, Key.parse(key), source=self.account.keeper.store, kind=self.kind)
        return ahead

    def refuse(self, verb: str) -> NoReturn:
        """Say why a handle that is not HELD can do nothing."""
        raise ended(verb, self.account, _WHY.get(self.state, "it belongs to another process").format(what=self.what))

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise TypeError(f"A {type(self).__name__} handle does not pickle; its proxy does.")

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return ("proxyfab.owned", type(self).__name__, self.key, str(id(self)))

    def __repr__(self) -> str:
        return f"{self.what} of the object {self.key} in {self.url}"


_WHY = {
    SENT: "the {what} was sent in a message, and belongs to who uses that first; reclaim() takes it back if nobody has",
    OVER: "the {what} has ended: it was released",
}
