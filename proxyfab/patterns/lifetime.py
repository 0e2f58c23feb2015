"""Lifetime and Lease: objects of one store that end together, with a block, with the process, or at a moment.

    with Lifetime(store) as life:            # until the block ends, however it does, or the process
        p = life.proxy(x)
    Lifetime.process(store).put(y)           # until this process ends, also if it is killed
    lease = Lease(store, seconds=30)         # until 30 s from now, whoever lives then
    q = lease.proxy(z)
    lease.extend(30)

Rules:
1. What was put into a lifetime is gone when it is over, without anybody's help: in order it is evicted; of a process
   that is killed it expires, or goes with the process's unnamed store. Nothing keeps the interpreter alive.
2. An object in a lifetime is its own: it is never the one that `store.proxy` stored once for several.
3. What ends a lifetime may fail; then its keys are still held, and `close` may be called again.
4. Intervals are told by the monotonic clock: nothing ends early because somebody sets the time.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from proxyfab.errors import ConfigurationError, LifetimeEnded, ProxyfabError, SerializationError
from proxyfab.exit import Hold
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.patterns.holding import Holding, drain_of, keeper_of, needed, renew
from proxyfab.proxy import is_proxy
from proxyfab.ref import Ref, ref_of
from proxyfab.store import Store

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")
LEASE = 60.0
"""Seconds that a process may be silent before what it holds lapses (after half as much grace)."""


class _Together(ABC):
    """Objects of one store that end together. Thread-safe; belongs to the process that made it."""

    def __init__(self, store: Store, lease: float | None) -> None:
        if not isinstance(store, Store):
            raise ConfigurationError(f"A {type(self).__name__} needs a Store, not {store!r}: make one of a URL.")
        self._lease = lease
        self._holding = Holding(store, needed(lease, store))
        self._lock = threading.Lock()
        self._over = False
        on_fork(self)

    def after_fork(self) -> None:
        """A child's copy holds nothing of its parent's, and may hold things of its own."""
        self._lock = threading.Lock()
        store = self._holding.given
        self._holding = Holding(store, needed(self._lease, store))

    @property
    def store(self) -> Store:
        """Where its objects lie."""
        return self._holding.store

    @property
    def closed(self) -> bool:
        """Whether it is over: nothing can be put into it."""
        return self._over

    @property
    def keys(self) -> list[Key]:
        """The keys that end with it."""
        return list(self._holding.keys)

    # -- what it takes -------------------------------------------------------------------------------------------

    def put(self, obj: object) -> Key:
        """Store an object until this ends.

        Raises:
            LifetimeEnded: It has ended.
            Exception: As `Store.put`.
        """
        return self._taken(lambda ttl: [self.store.put(obj, ttl=ttl)])[0]

    def put_many(self, objs: Iterable[object]) -> list[Key]:
        """`put` of each, in one round trip where the connector can."""
        objs = list(objs)
        return self._taken(lambda ttl: self.store.put_many(objs, ttl=ttl))

    def ref(self, obj: T) -> Ref[T]:
        """A reference to `obj`, which is stored until this ends; a small one travels inside, and has no end."""
        if is_proxy(obj):
            return self.store.ref(obj)
        refs = list[Ref[T]]()

        def make(ttl: float | None) -> list[Key]:
            refs.append(_alone(self.store.ref(obj, once=True, ttl=ttl)))
            return _keys(refs)

        self._taken(make)
        return refs[0]

    def proxy(self, obj: T) -> T:
        """A lazy, transparent proxy of `obj`, which is stored until this ends."""
        return self.proxy_many([obj])[0]

    def proxy_many(self, objs: Iterable[T]) -> list[T]:
        """A proxy of each, stored in one round trip where the connector can. Of what is one already it is that one."""
        objs, proxies = list(objs), list[T]()

        def make(ttl: float | None) -> list[Key]:
            proxies.extend(self.store.proxy_many(objs, once=True, ttl=ttl))
            new = [proxy for proxy, obj in zip(proxies, objs, strict=True) if proxy is not obj]
            return _keys([_alone(ref_of(proxy)) for proxy in new])

        self._taken(make)
        return proxies

    def add(self, *things: object) -> None:
        """Take over what lies in the store already, or will: keys, references or proxies. It ends with this, then.

        Raises:
            LifetimeEnded: This has ended.
            ConfigurationError: It lies in another store.
            CapabilityError: This ends by a native expiry, which the store's connector cannot move.
        """
        self._check()
        keys = self._keys(things)
        if self._ttl() is not None:
            renew(self.store, keys, self._ttl())
        self._taken(lambda _: keys, there=False)

    def forget(self, *things: object) -> None:
        """Let keys, references or proxies go on without this: they stay until somebody evicts them."""
        keys = [key for key in self._keys(things) if self._holding.keys.pop(key, None) is not None]
        if keys and self._ttl() is not None:
            renew(self.store, keys, None)

    def _keys(self, things: Iterable[object]) -> list[Key]:
        """Of what is not inside its reference."""
        refs = [_ref(self.store, thing) for thing in things]
        strange = [ref for ref in refs if ref.url != self.store.url]
        if strange:
            raise ConfigurationError(f"{strange[0]!r} does not lie in {self.store.url}: a lifetime is one store's.")
        return _keys(refs)

    def _taken(self, make: Callable[[float | None], list[Key]], *, there: bool = True) -> list[Key]:
        """The keys that `make(ttl)` answers with, from now on held."""
        self._check()
        before = self._ttl()
        keys = make(before)
        for key in keys:
            self._holding.keys[key] = there
        self._begin()
        if self._over:  # meanwhile, in another thread
            self._holding.evict()
            self._check()
        if self._moved(before):
            renew(self.store, keys, self._ttl())
        return keys

    def _check(self) -> None:
        if self._over:
            raise LifetimeEnded(f"This {type(self).__name__} in {self.store.url} is over; make another one.")

    @abstractmethod
    def _ttl(self) -> float | None:
        """The native expiry for what is put now."""

    def _begin(self) -> None:  # noqa: B027 - for those who must be told
        """There is something to hold."""

    def _moved(self, before: float | None) -> bool:  # noqa: ARG002 - for those whose end moves
        """Whether what was put with this expiry needs another one already."""
        return False

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self) -> int:
        """End it now: evict what it holds, and say how much that was. What fails can be tried again.

        Raises:
            ConnectorError: The store cannot be reached.
        """
        self._over = True
        return self._holding.evict()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ProxyfabError:
            if error is None:
                raise
            self._leave()  # what the block raised is the story

    def _leave(self) -> None:  # noqa: B027 - for those who know a way
        """It was not possible now: as well as may be, later."""

    def __repr__(self) -> str:
        state = "over" if self._over else f"{len(self._holding.keys)} keys"
        return f"<{type(self).__name__} in {self._holding.store.url}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"A {type(self).__name__} belongs to the process that made it; send the store, or what lies in it, and "
            "make another one there."
        )


class Lifetime(_Together):
    """Objects that live as long as a block, or as this object, or as this process, whichever ends first.

    Args:
        store: Where they lie.
        lease: Seconds that this process may be silent before they lapse. None: they have no native expiry, and stay
            behind when the process is killed. Needed only where the store outlives the process, and not used elsewhere.

    Raises:
        ConfigurationError: An argument makes no sense.
    """

    def __init__(self, store: Store, *, lease: float | None = LEASE) -> None:
        if lease is not None and not (hasattr(lease, "__float__") and lease > 0):
            raise ConfigurationError(f"lease= is a positive number of seconds, or None, not {lease!r}.")
        super().__init__(store, lease)
        self._hold: Hold[Holding] | None = None

    @classmethod
    def process(cls, store: Store, *, lease: float | None = LEASE) -> Lifetime:
        """The lifetime of this process in a store: one for all who ask. It ends with the process, however that ends.

        Args:
            store: Where its objects lie.
            lease: As of a Lifetime; the first to ask says it.
        """
        life = _processes.get(store.url)
        if life is None or life.closed:
            with _making:
                life = _processes.get(store.url)
                if life is None or life.closed:
                    life = _processes[store.url] = cls(store, lease=lease)
        return life

    def after_fork(self) -> None:
        super().after_fork()
        self._hold = None

    def _ttl(self) -> float | None:
        return self._holding.ttl

    def _begin(self) -> None:
        if self._hold is None:
            with self._lock:
                if self._hold is None:
                    self._hold = drain_of(self.store.url).hold(self, self._holding)
                    keeper_of(self.store.url).keep(self._holding)

    def close(self) -> int:
        count = super().close()
        if self._hold is not None:
            keeper_of(self._holding.given.url).drop(self._holding)  # first: what is still held is dropped by the drain
            self._hold.cancel()
        return count

    def _leave(self) -> None:
        if self._hold is not None:
            self._hold.drop()


class Lease(_Together):
    """Objects that live until a moment, whichever processes live then; the moment can be moved while it lies ahead.

    Args:
        store: Where they lie. Its connector must be able to expire objects; to move the moment, to renew them.
        seconds: From now to the end.

    Raises:
        ConfigurationError: An argument makes no sense.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        if not (hasattr(seconds, "__float__") and seconds > 0):
            raise ConfigurationError(f"seconds= is how long a lease lasts, a positive number, not {seconds!r}.")
        super().__init__(store, None)
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds until the end; 0 behind it."""
        return 0.0 if self._over else max(self._end - time.monotonic(), 0.0)

    @property
    def closed(self) -> bool:
        return self._over or self.remaining == 0

    def extend(self, seconds: float) -> float:
        """Move the end, and that of all it holds, by `seconds`; says how many remain then.

        Raises:
            LifetimeEnded: It is over; what it held is gone.
            CapabilityError: The connector cannot move an expiry.
            ConnectorError: The store cannot be reached: the end is where it was, for some objects perhaps later.
        """
        if not (hasattr(seconds, "__float__") and seconds > 0):
            raise ConfigurationError(
                f"seconds= is by how much a lease is extended, a positive number, not {seconds!r}."
            )
        with self._lock:
            self._check()
            self._end += seconds
        try:
            keys = self.keys
            for key, found in zip(keys, renew(self.store, keys, self.remaining), strict=True):
                if not found and self._holding.keys.get(key):
                    self._holding.keys.pop(key, None)
        except BaseException:
            with self._lock:
                self._end -= seconds
            raise
        return self.remaining

    def _check(self) -> None:
        super()._check()
        late = time.monotonic() - self._end
        if late >= 0:
            raise LifetimeEnded(
                f"This Lease in {self.store.url} ended {late:.1f} s ago, and what it held is gone; make another one, "
                "and extend it before it ends."
            )

    def _ttl(self) -> float:
        return max(self._end - time.monotonic(), 0.001)

    def _moved(self, before: float | None) -> bool:
        return before is not None and self.remaining > before

    def __repr__(self) -> str:
        return f"<Lease in {self._holding.store.url}, {len(self._holding.keys)} keys, {self.remaining:.1f} s remain>"


def _alone(ref: Ref[T]) -> Ref[T]:
    """A reference made with `once`, so that its object is no other's (rule 2), without what else that means."""
    ref.once = False
    return ref


def _ref(store: Store, thing: object) -> Ref[Any]:
    if is_proxy(thing) or not isinstance(thing, Ref | Key | str):
        return ref_of(thing)
    return thing if isinstance(thing, Ref) else store.ref_from_key(thing)


def _keys(refs: Sequence[Ref[Any]]) -> list[Key]:
    return [ref.key for ref in refs if ref.key is not None]


_processes: dict[str, Lifetime] = {}
_making = threading.RLock()


def _in_child() -> None:
    global _making
    _making = threading.RLock()
    _processes.clear()


os.register_at_fork(after_in_child=_in_child)
