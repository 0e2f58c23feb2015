"""What a lifetime holds in one process: keys in a store, and who renews them and evicts them at the end.

Promises: the end needs nobody who waits. An owner that is collected, or a process that ends, leaves its keys to
`proxyfab.exit`; one that is killed leaves them to their native expiry, which a daemon thread for each store moves on
while the process lives. No thread keeps the interpreter alive; a forked child holds nothing of its parent's.
"""

from __future__ import annotations

import threading
import time
from _queue import Empty, SimpleQueue  # not from `queue`, whose heaps and conditions take a millisecond to load
from collections.abc import Sequence

from proxyfab import background
from proxyfab.abc import Connector, SupportsLease, SupportsReap
from proxyfab.errors import CapabilityError
from proxyfab.exit import Drain
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.osio.owner import Writer, this_process
from proxyfab.spec import namespace_of
from proxyfab.store import Store, open_store

BATCH = 1000
"""Keys that go to a server in one call."""
GRACE = 0.5
"""What objects outlive a lease that nobody renews any more, in leases."""
_BEATS = 3
_LONGEST = 3600.0
"""Seconds between two looks at what is held; no lease is too long."""
_REAP_EVERY = 30.0


class Holding:
    """Keys that end together.

    Args:
        store: Where they lie.
        lease: Seconds for which their native expiry is moved on again and again; None if it is not.
    """

    def __init__(self, store: Store, lease: float | None) -> None:
        self.given = store
        self.lease = lease
        self.due = 0.0
        """When it is renewed next, in monotonic seconds; its keeper's."""
        self.keys: dict[Key, bool] = {}
        """Whether each lay there when it came. What is not there any more then is forgotten."""

    @property
    def store(self) -> Store:
        """The store, or this process's live one for its URL if that was closed."""
        if self.given.closed:
            self.given = open_store(self.given.url)
        return self.given

    @property
    def ttl(self) -> float | None:
        """The expiry to put with: lease and grace."""
        return None if self.lease is None else self.lease * (1 + GRACE)

    def beat(self) -> None:
        """Move the expiry of all keys on."""
        if self.ttl is not None:
            keys = list(self.keys)
            for key, found in zip(keys, renew(self.store, keys, self.ttl), strict=True):
                if not found and self.keys.get(key):
                    self.keys.pop(key, None)  # somebody else evicted it

    def evict(self) -> int:
        """Evict all keys; says how many objects there were. What fails is still held."""
        count = 0
        while keys := list(self.keys)[:BATCH]:
            count += sum(self.store.evict_many(keys))
            for key in keys:
                self.keys.pop(key, None)
        return count


def renew(store: Store, keys: Sequence[Key], ttl: float | None) -> list[bool]:
    """Whether each key's object is there, and expires in `ttl` seconds now.

    Raises:
        CapabilityError: Objects there have no expiry that could be moved.
    """
    connector = store.connector
    if not isinstance(connector, SupportsLease):
        raise CapabilityError(
            f"Objects in {store.url} have no expiry that could be moved: evict them, or put them with ttl=."
        )
    found: list[bool] = []
    for start in range(0, len(keys), BATCH):
        found += connector.renew_many(keys[start : start + BATCH], ttl)
    return found


def needed(lease: float | None, store: Store) -> float | None:
    """`lease`, or None where objects need none, or can have none."""
    connector = store.connector
    return lease if isinstance(connector, SupportsLease) and not ends_with_us(connector) else None


def ends_with_us(connector: Connector) -> bool:
    """Whether all that lies there is taken back when this process ends, however it ends."""
    names = namespace_of(connector.spec).split(",")
    return all(name.startswith("~") and _is_ours(name[1:]) for name in names)


def _is_ours(name: str) -> bool:
    try:
        return Writer.unpack(name) == this_process().writer
    except ValueError:
        return False


# -- the end -------------------------------------------------------------------------------------------------------


def _evict(holdings: list[Holding]) -> None:
    """Of many holdings in one store, in few calls."""
    store = holdings[0].store
    keys = [key for holding in holdings for key in list(holding.keys)]
    for start in range(0, len(keys), BATCH):
        store.evict_many(keys[start : start + BATCH])
    for holding in holdings:
        holding.keys.clear()
        keeper_of(store.url).drop(holding)


def drain_of(url: str) -> Drain[Holding]:
    """The one who evicts what lies in the store of a URL, in batches, when its holders have ended."""
    drain = _drains.get(url)
    if drain is None:
        drain = _drains.setdefault(url, Drain(_evict, "evicting"))
    return drain


# -- meanwhile -----------------------------------------------------------------------------------------------------


class Keeper:
    """Renews what is held in one store; one daemon thread, which ends when nothing is kept."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child keeps nothing of its parent's."""
        self.kept: dict[int, Holding] = {}
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may come back here
        self._wake: SimpleQueue[None] = SimpleQueue()  # no Event: who is interrupted while he waits may leave it locked
        self._thread: threading.Thread | None = None

    def keep(self, holding: Holding) -> None:
        """Renew what it holds from now on."""
        if holding.lease is None:
            return
        if id(holding) not in self.kept:
            holding.due = time.monotonic() + holding.lease / _BEATS
            self.kept[id(holding)] = holding
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="proxyfab-background-keeper", daemon=True)
                self._thread.start()
        self._wake.put(None)

    def drop(self, holding: Holding) -> None:
        """Renew it no longer."""
        if self.kept.pop(id(holding), None) is not None and not self.kept:
            self._wake.put(None)

    def _work(self) -> None:
        while (pause := self._round()) is not None:  # waiting keeps nothing of what was held: its locals are gone
            self._sleep(pause)

    def _round(self) -> float | None:
        """Seconds until something is due; None when nothing is held any more, and the thread ends."""
        kept = list(self.kept.values())
        for holding in sorted(kept, key=lambda holding: holding.due):
            now = time.monotonic()
            if holding.due <= now:
                holding.due = now + self._beat(holding)
        for holding in kept[:1]:
            reap(holding.given)
        with self._lock:
            if not self.kept:
                self._thread = None
                return None
        return min([holding.due for holding in kept], default=0.0) - time.monotonic()

    def _sleep(self, seconds: float) -> None:
        """Until then, or until there is something else to keep."""
        try:
            self._wake.get(timeout=min(max(seconds, 0.0), _LONGEST))
            while True:
                self._wake.get_nowait()
        except Empty:
            pass

    def _beat(self, holding: Holding) -> float:
        """Seconds until the next one."""
        lease = holding.lease or 0.0
        try:
            holding.beat()
        except Exception:  # noqa: BLE001 - there is nobody to tell, and what else is held must not lapse for it
            return min(lease / (2 * _BEATS), 1.0)
        return lease / _BEATS


def reap(store: Store) -> None:
    """Take back what expired where nobody else does, in memory and files of this machine: every now and then.

    In the background: a file that a stopped process has locked must not keep whoever renews.
    """
    connector, now = store.connector, time.monotonic()
    if store.closed or not connector.local or now - _reaped.setdefault(store.url, now) < _REAP_EVERY:
        return
    _reaped[store.url] = now
    if isinstance(connector, SupportsReap):
        background.start(connector.reap, f"reaping {store.url}")  # `proxyfab gc` says what is wrong there


def keeper_of(url: str) -> Keeper:
    """The one who renews what is held in the store of a URL."""
    keeper = _keepers.get(url)
    if keeper is None:
        keeper = _keepers.setdefault(url, Keeper(url))
    return keeper


_drains: dict[str, Drain[Holding]] = {}
_keepers: dict[str, Keeper] = {}
_reaped: dict[str, float] = {}
