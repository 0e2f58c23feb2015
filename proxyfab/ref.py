"""Ref[T]: names one object, can fetch it, and pickles small. What a Proxy wraps.

Rules:
1. A Ref never changes what it names. An object that was resolved, mutated and sent on goes as a new object.
2. A small object travels inside its Ref (`key` is None then); everything else lies in the store that `url` names.
3. Unpickling opens nothing: the store is found, or opened, at the first touch. A process that lacks the backend, or
   the packages of the object's type, can pass a Ref on.
4. `once` is released when its use is acknowledged, not when it is read: a task that dies and is retried finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from proxyfab import background, policy, registry
from proxyfab.abc import Source
from proxyfab.coroutines import in_thread
from proxyfab.errors import ConfigurationError, ProxyfabError, ResolveTimeout
from proxyfab.keys import Key
from proxyfab.proxy import Kind, factory_of, is_proxy, is_resolved, make
from proxyfab.serialize import dumps, loads
from proxyfab.spec import StoreSpec
from proxyfab.wire.payload import Payload, digest

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_ONCE = 1

openers: list[Callable[[str], Any]] = []
"""Filled by `store`, which stands above: from a store's URL to this process's live store for it."""


class Ref(Generic[T_co]):
    """A reference to one object of type T. Thread-safe; equal to any Ref that names the same object.

    Attributes:
        key: Where the object lies in its store; None when it travels inside this Ref.
        nbytes: Its size in bytes as serialized.
        kind: Its type's name and operators, for a proxy that need not fetch to know them; None when not known.
        once: Released when its first use is acknowledged.
        url: The store's URL.
    """

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_closed",
        "_inline",
        "_sent",
        "_source",
        "key",
        "kind",
        "nbytes",
        "once",
        "url",
    )

    def __init__(
        self,
        url: str,
        key: Key | None,
        *,
        source: Source | None = None,
        inline: Payload | None = None,
        closed: object = None,
        nbytes: int = 0,
        kind: Kind | None = None,
        once: bool = False,
    ) -> None:
        self.url = url
        self.key = key
        self.nbytes = nbytes
        self.kind = kind
        self.once = once
        self._source = source
        self._inline = inline
        self._closed = closed  # what travels inside, before its store has opened it: sealed, or as it must not be
        self._ahead: background.Task[Payload] | None = None
        self._sent: tuple[int, Ref[Any]] | None = None

    @property
    def store(self) -> Any:
        """This process's live Store for `url`, opened now if it was not, or if the one it came from was closed."""
        source = self._source
        if source is None or source.closed:
            source = self._source = openers[0](self.url)
        return source

    def __call__(self) -> T_co:
        payload = self._inline or self._payload(None)  # `resolve()`, spelt out: every use of a proxy comes here
        return loads(payload, mode=mode_of(self.url))  # type: ignore[no-any-return]  # as in resolve

    def resolve(self, timeout: float | None = None) -> T_co:
        """The object, fetched and decoded anew on each call (its bytes may come from a cache or from shared memory).

        Args:
            timeout: Seconds for the fetch; None for the connector's own deadline.

        Raises:
            KeyNotFound: It was evicted, it expired, or its owner ended.
            ResolveTimeout: `timeout` passed.
            IntegrityError: The bytes are not what was written.
            SerializationError: They cannot become an object here.
        """
        return loads(self._payload(timeout), mode=mode_of(self.url))  # type: ignore[no-any-return]

    def payload(self, timeout: float | None = None) -> Payload:
        """The object as it is serialized; for those who build on references. Raises as `resolve` does."""
        return self._payload(timeout)

    def _payload(self, timeout: float | None) -> Payload:
        if self._inline is not None:
            return self._inline
        ahead = self._ahead
        if ahead is not None:
            self._ahead = None
            try:
                return ahead.result(timeout)
            except ResolveTimeout:
                self._ahead = ahead  # still under way: the next call may find it done
                raise
            except ProxyfabError:
                pass  # what failed then may work now, and if not, fails with this call's own story
        if timeout is None:
            return self._fetch()
        return self._in_time(timeout)

    def _in_time(self, timeout: float) -> Payload:
        task = background.aside(self._fetch, f"Fetching {self.key} from {self.url}")
        try:
            return task.result(timeout)
        except ResolveTimeout:
            self._ahead = task  # who asks again waits for this one, instead of one thread more for each attempt
            raise

    def _fetch(self) -> Payload:
        store = self.store  # a Store, behind the floor
        return store.open_inline(self._closed) if self.key is None else store.fetch(self.key)  # type: ignore[no-any-return]

    def prefetch(self) -> None:
        """Move the bytes now, in the background; the next `resolve` decodes them in its own thread."""
        if self._inline is None and self._ahead is None:
            self._ahead = background.start(self._fetch, f"Fetching {self.key} from {self.url}")

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._aresolve().__await__()

    async def _aresolve(self) -> T_co:
        if self._inline is None and not self.store.local:
            await in_thread(self.prefetch_here)
        return self.resolve()

    def prefetch_here(self) -> None:
        """Move the bytes now, in this thread."""
        if self._inline is None and self._ahead is None:
            task = background.Task(self._fetch, f"Fetching {self.key} from {self.url}")
            task.run()
            self._ahead = task

    def exists(self) -> bool:
        """Whether the object can be resolved now (asked of the store, not of a cache)."""
        return True if self.key is None else bool(self.store.exists(self.key))

    def evict(self) -> bool:
        """Delete the object; False when there was nothing to delete."""
        self._ahead = None  # what was prefetched goes with it
        return False if self.key is None else bool(self.store.evict(self.key))

    def ack(self) -> None:
        """Say that the use of a `once` object has succeeded: it is released now. Nothing happens to others."""
        if self.once:
            self.evict()

    def __enter__(self) -> T_co:
        return self.resolve()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.ack()

    def to_token(self, *, seal: object = None) -> str:
        """This reference as URL-safe text without any code in it, for channels that are not to be trusted with pickles.

        Args:
            seal: As a store's: who reads the token then knows who wrote it.
        """
        from proxyfab import token  # base64 and more, for those who use tokens

        return token.write(self._state(), _seal(seal))

    @staticmethod
    def from_token(text: str, *, seal: object = None, unpickle: bool = False) -> Ref[Any]:
        """The reference in a token; opens and imports nothing, and what it refers to is opened as policy allows.

        Args:
            text: What `to_token` made, or anything else.
            seal: Under which the token must be sealed; None takes only tokens that are not.
            unpickle: Unpickle what the token refers to although neither it nor its store is sealed.

        Raises:
            IntegrityError: It is no token, or damaged.
            SealError: It is not sealed as asked for, or is and nobody asked.
            ConfigurationError: It names a store that makes no sense.
        """
        from proxyfab import token  # as above

        return load(*token.read(text, _seal(seal), unpickle))

    def proxy(self) -> T_co:
        """The object in disguise: resolved at first use."""
        return make(self, self.kind)  # type: ignore[no-any-return]  # a proxy of T is typed as T where it is handed out

    def reduce_proxy(self, _kind: Kind | None, resolved: bool, target: Any) -> tuple[Any, ...]:
        """How a proxy of this Ref pickles: as this Ref, or as a new object's if its target was changed meanwhile."""
        return load_proxy, (self.current(target) if resolved else self)._state()

    def current(self, target: Any) -> Ref[Any]:
        """This Ref if `target`, which was resolved from it, is unchanged; else a Ref to it stored anew (rule 1)."""
        if is_frozen(target):
            return self
        changed = dumps(target, mode=mode_of(self.url))
        now = digest(changed)
        payload = self._payload(None) if self.key is None else self.store.peek(self.key)
        then = None if payload is None else digest(payload)
        if now == then:
            return self
        if self._sent is None or self._sent[0] != now or not self._sent[1].exists():
            self._sent = now, self._anew(changed, target)
        return self._sent[1]

    def _anew(self, payload: Payload, target: Any) -> Ref[Any]:
        return self.store.ref_payload(payload, target, once=self.once)  # type: ignore[no-any-return]  # a Store's

    def _state(self) -> tuple[Any, ...]:
        flags = _ONCE * self.once
        name, mask = self.kind or ("", 0)
        key = self.key
        if key is None:
            return (self.url, self._packed(), self.nbytes, name, mask, flags)
        return (self.url, key.id, key.where, self.nbytes, name, mask, flags)

    def _packed(self) -> Any:
        """What travels inside, as it is pickled: just as it came, where it is sealed."""
        return self._closed if self._inline is None else self._inline.pack()

    def __reduce__(self) -> tuple[Any, ...]:
        return load, self._state()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("proxyfab.Ref", *self._state())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        return self is other or self._named() == other._named()

    def __hash__(self) -> int:
        return hash((self.url, self.key))

    def _named(self) -> tuple[Any, ...]:
        """What it names; how large that is and of which type says no more about it."""
        return self.url, self.key, self._packed()

    def __repr__(self) -> str:
        what = self.kind.name.replace(":", ".") if self.kind else "object"
        where = "inline" if self.key is None else f"{self.key} in {self.url}"
        return f"<Ref to {what}, {self.nbytes} bytes, {where}>"


def _seal(seal: object) -> Any:
    return None if seal is None else registry.load("seals", "seal").of(seal)


def mode_of(url: str) -> str:
    """How a store's objects are read; its URL decides, so that no forged Ref has a safe store's object unpickled."""
    if policy.active() and not policy.may_unpickle(url):
        return "safe"
    return "default" if "#" not in url or _spec(url).serializer == "default" else "safe"


def load(url: str, *state: Any) -> Ref[Any]:
    """Unpickle a Ref; opens and imports nothing."""
    *place, nbytes, name, mask, flags = state
    kind = Kind(name, mask) if name else None
    once = bool(flags & _ONCE)
    if len(place) == 1:
        if _seals(url) or isinstance(place[0], bytes) or policy.active():  # its store looks at it first
            return Ref(url, None, closed=place[0], nbytes=nbytes, kind=kind, once=once)
        payload = Payload.unpack(place[0])
        return Ref(url, None, inline=payload, nbytes=nbytes, kind=kind, once=once)
    return Ref(url, Key(*place), nbytes=nbytes, kind=kind, once=once)


_spec = lru_cache(256)(StoreSpec.parse)
"""What a URL says is told by this one reader, however it is quoted: a second one, which saw less, would be a way in."""


def _seals(url: str) -> bool:
    """Whether a store's URL asks for a seal; also where it makes no sense, which opening it tells."""
    try:
        return "#" in url and _spec(url).seal != ""
    except ConfigurationError:
        return True


def load_proxy(*state: Any) -> Any:
    """Unpickle a proxy of a Ref."""
    return load(*state).proxy()


def ref_of(proxy: object) -> Ref[Any]:
    """The Ref behind a proxy.

    Raises:
        ConfigurationError: The object is no proxy, or one that does not come from a store.
    """
    if not is_proxy(proxy):
        raise ConfigurationError(f"An object of type {type(proxy).__qualname__} is no proxy; only proxies have a Ref.")
    factory = factory_of(proxy)
    hook = getattr(factory, "as_ref", None)  # of what has a reference as soon as somebody needs it
    if hook is not None:
        factory = hook()
    if not isinstance(factory, Ref):
        raise ConfigurationError("This proxy was made from a plain callable, not from a store; it has no Ref.")
    return factory


def prefetch(*proxies: object) -> None:
    """Move the bytes of these proxies (or Refs) now, in the background. Their first use then only decodes.

    Proxies that are resolved, and objects that are neither proxy nor Ref, are here already.
    """
    for proxy in proxies:
        if not is_resolved(proxy):
            hook = getattr(factory_of(proxy), "prefetch", None)  # of what else refers to a stored object
            (hook or ref_of(proxy).prefetch)()
        elif isinstance(proxy, Ref):
            proxy.prefetch()


_FROZEN = frozenset({int, float, complex, bool, str, bytes, range, type, type(len), type(lambda: 0), type(None)})


def is_frozen(target: Any) -> bool:
    """Whether the object certainly cannot have been mutated; read-only arrays of plain numbers are."""
    kind = type(target)
    if kind in _FROZEN:
        return True
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        return not target.flags.writeable and not target.dtype.hasobject
    return False
