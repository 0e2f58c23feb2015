"""Store: puts objects where a connector keeps bytes, gets them back, and hands out references to them.

Rules:
1. An object is serialized once; then it is decided whether it travels inside its reference or is stored.
2. No lock is held while bytes move (see `transport`) or objects are (de)serialized.
3. Each `get` answers with an object of its own; what is cached are received bytes, never objects.
4. The same unchanged object handed out twice is stored once, which is verified by content and not by identity alone.
5. A Store pickles as its URL and unpickles to this process's live store for that URL, opened on first use.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from proxyfab import policy
from proxyfab.abc import Connector, check_ttl
from proxyfab.coroutines import aside, in_thread
from proxyfab.errors import ConfigurationError, KeyNotFound
from proxyfab.inline import close_inline, open_inline
from proxyfab.keys import Key, as_key
from proxyfab.opening import connector_of, seal_of
from proxyfab.proxy import factory_of, is_proxy, is_resolved, is_singleton, kind_of, unwrap
from proxyfab.pushing import push
from proxyfab.ref import Ref, mode_of, openers
from proxyfab.reuse import Reuse
from proxyfab.serialize import dumps, loads
from proxyfab.spec import CACHE, INLINE_BELOW, StoreSpec, nbytes
from proxyfab.transport import Transport
from proxyfab.wire.payload import Payload

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")
_MODES = ("default", "safe")


class Store:
    """Moves objects. Thread-safe, fork-safe, picklable.

    Args:
        connector: A URL (`shm://`, `file:///scratch/me`, `memory://`) or a Connector. The default needs no server:
            shared memory of this machine.
        name: Objects of a named store stay until they are evicted, expire or are cleared. Those of an unnamed one are
            reclaimed when the process that made it ends, however it ends.
        cache: How many bytes received from a connector are kept for a second `get`, as a number or `"256 MiB"`. Nothing
            is cached where a get costs no more than a cache hit (shared memory, mapped files).
        inline_below: Objects whose serialized form is smaller travel inside their reference. 0 stores everything.
        serializer: `"default"` (pickle 5 and codecs) or `"safe"` (codecs only; nothing is ever unpickled).
        seal: `"encrypt:<key id>"`, `"sign:<key id>"`, `"ed25519:<key id>"` or a Seal: objects are sealed on their way
            out, and nothing is opened that does not verify. References carry the key's id, never the key.

    Raises:
        ConfigurationError: An argument makes no sense.
        MissingDependency: The URL's scheme needs a package that is not installed.
    """

    def __init__(
        self,
        connector: str | Connector = "shm://",
        *,
        name: str | None = None,
        cache: int | str = CACHE,
        inline_below: int | str = INLINE_BELOW,
        serializer: str = "default",
        seal: object = None,
    ) -> None:
        if serializer not in _MODES:
            raise ConfigurationError(f"There is no serializer {serializer!r}; choose one of {', '.join(_MODES)}.")
        self._owns_connector = isinstance(connector, str)
        self._seal = seal_of(seal)
        self.connector: Connector = connector_of(connector, name, self._seal)
        self.name = name
        spec = StoreSpec(self.connector.spec, nbytes(cache), nbytes(inline_below), serializer, str(self._seal or ""))
        self.url = str(spec)
        self._inline_below = spec.inline_below
        self._mode = serializer
        self._reads = mode_of(self.url)
        self._transport = Transport(self.connector, spec.cache)
        self._reuse = Reuse(self._transport)
        _live.setdefault(self.url, self)

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def local(self) -> bool:
        """Whether a get costs no more than a cache hit."""
        return self.connector.local

    @property
    def closed(self) -> bool:
        """Whether `close` was called: this Store object refuses work, and references open another one."""
        return self._transport.closed

    def __repr__(self) -> str:
        return f"Store({self.url!r}{', closed' if self.closed else ''})"

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        return received_store, (self.url,)

    # -- objects by key ------------------------------------------------------------------------------------------

    def put(self, obj: object, *, key: Key | str | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        """Store an object.

        Args:
            obj: Anything that pickles (or, in a safe store, has a codec). Of a proxy its target is stored.
            key: Where to put it; drawn if None.
            ttl: Seconds until it expires; None for never.
            replace: Overwrite what lies under `key`.

        Raises:
            KeyExists: `key` holds an object and `replace` is not set.
            SerializationError: The object cannot become bytes.
            CapacityError: There is no room.
        """
        return self.put_payload(self._dumps(obj), None if key is None else as_key(key), ttl=ttl, replace=replace)

    def put_payload(self, payload: Payload, key: Key | None, *, ttl: float | None = None, replace: bool = False) -> Key:
        """`put` of an object that is already serialized; for those who build on stores."""
        done = self._transport.put(payload, key, ttl, replace)
        if key is not None:
            self._reuse.forget([done])
        return done

    def put_many(
        self,
        objs: Iterable[object],
        *,
        keys: Sequence[Key | str] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        """Store several objects, in one round trip where the connector can."""
        payloads = [self._dumps(obj) for obj in objs]
        wanted = None if keys is None else [as_key(key) for key in keys]
        done = self._transport.put_many(payloads, wanted, ttl, replace)
        if wanted is not None:
            self._reuse.forget(done)
        return done

    def get(self, key: Key | str, default: Any = None) -> Any:
        """The object under `key`, or `default` when there is none. Arrays come back read-only."""
        payload = self._transport.get(key if key.__class__ is Key else as_key(key))
        return default if payload is None else loads(payload, mode=self._reads)

    def get_many(self, keys: Iterable[Key | str], default: Any = None) -> list[Any]:
        """The objects under `keys`, in one round trip where the connector can."""
        wanted = [as_key(key) for key in keys]
        found = self._transport.get_many(wanted)
        return [loads(found[key], mode=self._reads) if key in found else default for key in wanted]

    def exists(self, key: Key | str) -> bool:
        """Whether an object lies under `key`: asked of the connector, never of a cache."""
        return self._transport.exists([as_key(key)])[0]

    def exists_many(self, keys: Iterable[Key | str]) -> list[bool]:
        """`exists` of each."""
        return self._transport.exists([as_key(key) for key in keys])

    def evict(self, key: Key | str) -> bool:
        """Delete the object under `key`; False when there was none. Objects already got stay valid."""
        return self._transport.evict([as_key(key)])[0]

    def evict_many(self, keys: Iterable[Key | str]) -> list[bool]:
        """`evict` of each."""
        return self._transport.evict([as_key(key) for key in keys])

    def reserve(self) -> Key:
        """A key under which nothing lies yet and anybody may put later."""
        return self.connector.reserve()

    # -- references ----------------------------------------------------------------------------------------------

    def ref(self, obj: T, *, once: bool = False, ttl: float | None = None) -> Ref[T]:
        """A reference to `obj`, which is stored now, or carried inside when it is small.

        The same unchanged object handed out twice is stored once (not with `once` or `ttl`, which are each their own).

        Args:
            obj: Of a proxy its own reference is handed out, unless its target was changed: that is stored now.
            once: Release the object when its first use is acknowledged (`Ref.ack`, or leaving `with ref as x:` well).
            ttl: Seconds until it expires; None for never.
        """
        if is_proxy(obj):
            source = factory_of(obj)
            if isinstance(source, Ref):
                return source.current(unwrap(obj)) if is_resolved(obj) else source
            obj = unwrap(obj)
        return self.ref_payload(self._dumps(obj), obj, once=once, ttl=ttl)

    def proxy(self, obj: T, *, once: bool = False, ttl: float | None = None) -> T:
        """A lazy, transparent proxy of `obj`, which is stored now. None, True, False and the like come back bare."""
        if is_singleton(obj) or is_proxy(obj):
            return obj
        ref = self.ref_payload(dumps(obj, mode=self._mode), obj, once=once, ttl=ttl)
        return ref.proxy()  # type: ignore[no-any-return]  # a proxy of T is typed as T where it is handed out

    def proxy_many(self, objs: Iterable[T], *, once: bool = False, ttl: float | None = None) -> list[T]:
        """A proxy of each, stored in one round trip where the connector can."""
        objs = list(objs)
        shared = not once and ttl is None
        names = [id(obj) if shared else place for place, obj in enumerate(objs)]
        plain = {
            name: obj for name, obj in zip(names, objs, strict=True) if not is_singleton(obj) and not is_proxy(obj)
        }
        refs = dict(zip(plain, self._ref_many(list(plain.values()), once, ttl), strict=True))
        return [cast(T, refs[name].proxy()) if name in refs else obj for name, obj in zip(names, objs, strict=True)]

    def ref_from_key(self, key: Key | str) -> Ref[Any]:
        """A reference to what lies, or will lie, under `key`."""
        return Ref(self.url, as_key(key), source=self)

    def proxy_from_key(self, key: Key | str) -> Any:
        """A proxy of what lies, or will lie, under `key`. Its type is known only when it is resolved."""
        return self.ref_from_key(key).proxy()

    def ref_payload(self, payload: Payload, obj: object, *, once: bool = False, ttl: float | None = None) -> Ref[Any]:
        """A reference to an object that is already serialized; for those who build on stores."""
        if payload.nbytes < self._inline_below:
            check_ttl(ttl)
            return self._ref(payload, obj, None, once)
        shared = not once and ttl is None
        key = self._reuse.find(obj, payload) if shared else None
        if key is None:
            key = self._transport.put(payload, None, ttl, False)
            if shared:
                self._reuse.remember(obj, payload, key)
        return self._ref(payload, obj, key, once)

    def fetch(self, key: Key) -> Payload:
        """The serialized object under `key`; for those who build on stores.

        Raises:
            KeyNotFound: There is none.
        """
        payload = self._transport.get(key)
        if payload is None:
            told = f"Nothing lies under {key} in {self.url}: it was evicted, it expired, or its owner's process ended"
            alien = ", or another user put it, whose shared memory is his own" if self.url.startswith("shm:") else ""
            raise KeyNotFound(f"{told}{alien}.")
        return payload

    def open_inline(self, packed: object) -> Payload:
        """The serialized object that came inside a reference to this store; SealError where its seal does not hold."""
        return open_inline(packed, self._seal, self.connector.spec)

    def peek(self, key: Key) -> Payload | None:
        """The serialized object under `key` without verifying its data, None when there is none."""
        return self._transport.peek(key)

    def push(self, *wanted: object, to: str) -> list[bool]:
        """Bring objects (keys, references, proxies) to another site before they are asked for; which are there now."""
        return push(self.connector, wanted, to)

    def resolve(self, key: Key | str, *, timeout: float | None = None) -> Any:
        """The object under `key`; KeyNotFound when there is none."""
        return self.ref_from_key(key).resolve(timeout)

    # -- coroutines ----------------------------------------------------------------------------------------------

    async def aput(
        self, obj: object, *, key: Key | str | None = None, ttl: float | None = None, replace: bool = False
    ) -> Key:
        """`put`, without blocking the event loop."""
        if not self._transport.native:
            return await in_thread(lambda: self.put(obj, key=key, ttl=ttl, replace=replace))
        payload, wanted = await in_thread(lambda: self._dumps(obj)), None if key is None else as_key(key)
        done = await self._transport.aput(payload, wanted, ttl, replace)
        if wanted is not None:
            self._reuse.forget([done])
        return done

    async def aget(self, key: Key | str, default: Any = None) -> Any:
        """`get`, without blocking the event loop."""
        if self.local:  # some tens of microseconds; a thread would cost more than it saves
            return self.get(key, default)
        payload = await self._transport.aget(as_key(key))
        return default if payload is None else await aside(lambda: loads(payload, mode=self._reads), payload.nbytes)

    async def aproxy(self, obj: T, *, once: bool = False, ttl: float | None = None) -> T:
        """`proxy`, without blocking the event loop."""
        return await in_thread(lambda: self.proxy(obj, once=once, ttl=ttl))

    async def aevict(self, key: Key | str) -> bool:
        """`evict`, without blocking the event loop."""
        return await in_thread(lambda: self.evict(key))

    def stats(self) -> dict[str, dict[str, float]]:
        """`count`, `errors` among them, `bytes` and `seconds` per operation of this Store object in this process."""
        return {
            operation: {"count": calls, "errors": failures, "bytes": moved, "seconds": seconds}
            for operation, (calls, failures, moved, seconds) in self._transport.meter.by_operation().items()
        }

    def clear(self) -> int:
        """Delete every object of this store's own namespace; says how many."""
        self._reuse.clear()
        return self._transport.clear()

    def close(self) -> None:
        """Release what this process holds open; deletes nothing. References stay valid: they open the store again."""
        self._transport.close()
        self._reuse.clear()
        with _opening:  # another thread may close it, too, or open the next one
            if _live.get(self.url) is self:
                del _live[self.url]
            if _opened.get(self.url) is self:
                del _opened[self.url]
        if self._owns_connector:
            self.connector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _dumps(self, obj: object) -> Payload:
        return dumps(unwrap(obj) if is_proxy(obj) else obj, mode=self._mode)

    def _ref_many(self, objs: list[Any], once: bool, ttl: float | None) -> list[Ref[Any]]:
        check_ttl(ttl)
        shared = not once and ttl is None
        payloads = [self._dumps(obj) for obj in objs]
        stored = [place for place, payload in enumerate(payloads) if payload.nbytes >= self._inline_below]
        keys = {place: self._reuse.find(objs[place], payloads[place]) for place in stored if shared}
        new = [place for place in stored if keys.get(place) is None]
        put = self._transport.put_many([payloads[place] for place in new], None, ttl, False)
        for place, key in zip(new, put, strict=True):
            keys[place] = key
            if shared:
                self._reuse.remember(objs[place], payloads[place], key)
        return [self._ref(payload, objs[place], keys.get(place), once) for place, payload in enumerate(payloads)]

    def _ref(self, payload: Payload, obj: object, key: Key | None, once: bool) -> Ref[Any]:
        return Ref(
            self.url,
            key,
            source=self,
            inline=payload.detached() if key is None and self._seal is None else None,  # the object may change later
            closed=close_inline(payload, self._seal, self.connector.spec) if key is None and self._seal else None,
            nbytes=payload.nbytes,
            kind=kind_of(obj),
            once=once,
        )


def open_store(spec: str | StoreSpec) -> Store:
    """This process's live store for a store's URL; made now, and opened on first use, if there is none."""
    url = str(spec)
    store = _live.get(url)
    if store is None or store.closed:
        with _opening:
            store = _usable(_live.get(url)) or _usable(_opened.get(url)) or _make(url)
            _opened[url] = store  # held: a task's references come and go, its store should stay
            _live[url] = store
            while len(_opened) > _HELD:
                _opened.popitem(last=False)
    return store


def received_store(url: str) -> Store:
    """`open_store` for a URL that came from elsewhere, as far as this process's policy allows it."""
    policy.check_store(url)
    with policy.received():
        return _usable(_live.get(url)) or open_store(url)


def _usable(store: Store | None) -> Store | None:
    """Not one that was closed: under the URL it was asked for by it may still be known."""
    return None if store is None or store.closed else store


def _make(url: str) -> Store:
    spec = StoreSpec.parse(url)
    return Store(**{**spec._asdict(), "seal": spec.seal or None})


_HELD = 64
_live: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_opened: OrderedDict[str, Store] = OrderedDict()
_opening = threading.RLock()


def _unlock() -> None:
    global _opening
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_unlock)
openers.append(received_store)
