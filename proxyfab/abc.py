"""Every promise of the data plane in one place: what a Store asks of a connector, and a base for those who write one.

Rules that every connector keeps (the shipped `proxyfab.testing.ConnectorTests` checks them):
1. Objects are written once. `put` under a key that holds a live object raises KeyExists unless `replace=True`.
2. A put that returned can be read whole, by whoever has the key, until it is evicted or expires. A put that did not
   return can never be read in part; it may or may not be readable whole.
3. Missing is `None` (`get`, `stat`) or `False` (`exists`, `evict`), never an error; evicted and expired are missing.
4. `close()` is idempotent and never deletes; `clear()` deletes what its own namespace holds and says how many objects.
5. Construction does no I/O; the first operation opens. After `close()` operations raise ConnectorError.
6. Every method may be called from any thread, and in a child after a fork.
7. Foreign exceptions are translated: nothing but the tree of `proxyfab.errors` comes out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from proxyfab.buffers import Frames
from proxyfab.errors import CapabilityError, ConfigurationError
from proxyfab.keys import Key
from proxyfab.trace import here

Self = TypeVar("Self", bound="BaseConnector")
LARGEST_SWAP = 2**20
"""Bytes of the largest object that `compare_and_set` takes."""
_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02  # of who polls although he says that he is told


class Stat(NamedTuple):
    """What is known of a stored object without reading it."""

    key: Key
    nbytes: int
    """Bytes of the stored frames."""
    created: float
    """Seconds since the epoch."""
    expires: float | None
    """Seconds since the epoch; None without a time to live."""
    namespace: str
    owner: str
    """`pid@host` of the process that an ephemeral namespace lives with, `""` for a named one."""


class Reclaimed(NamedTuple):
    """What `reap` took back, or would take back, and why."""

    what: str
    nbytes: int
    reason: str


class Swap(NamedTuple):
    """What `compare_and_set` takes."""

    key: Key
    old: Frames | None
    new: Frames | None
    ttl: float | None = None


class Finding(NamedTuple):
    """One thing that was looked at, for `proxyfab doctor`."""

    check: str
    state: str
    """`ok`, `warn` or `fail`."""
    detail: str
    """What was seen and, unless it is well, what to do about it."""


class Status(NamedTuple):
    """What a place holds and does now, for `proxyfab top`."""

    what: str
    """The place's URL, without secrets."""
    objects: int
    nbytes: int
    limit: int | None
    """Bytes it may hold; None without a limit."""
    counters: dict[str, float]
    """Named totals since it started (`put`, `put_bytes`, `get`, `get_bytes`, `spilled_bytes`, ...), for rates."""
    peers: tuple[dict[str, str | float], ...] = ()
    """One row for each connected peer: `name`, `address`, and totals."""
    started: float | None = None
    """Seconds since the epoch; None for a place that is not a process."""
    gauges: dict[str, float] = {}  # noqa: RUF012 - nobody writes to it
    """Named levels as they are now (`waiting`, `uploading_bytes`, `fast_bytes`, ...), which rise and fall."""


class Source(Protocol):
    """What a Ref needs of a store: enough to fetch, to let go, and to say where it is."""

    @property
    def url(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def resolve(self, key: Key, *, timeout: float | None = None) -> Any: ...
    def exists(self, key: Key) -> bool: ...
    def evict(self, key: Key) -> bool: ...


class Connector(Protocol):
    """Moves bytes by key. Sync, because an operator on a proxy cannot await."""

    scheme: ClassVar[str]
    checksums: ClassVar[bool]
    """Whether payload bytes leave memory, so that the store adds a checksum over them and readers verify it."""

    @property
    def local(self) -> bool:
        """Whether `get` is as cheap as a cache hit (memory, mapped), so that a store need not cache what it got."""

    @property
    def spec(self) -> str:
        """The URL that opens the same place in another process. Never holds a secret."""

    @property
    def place(self) -> str:
        """Where the bytes lie, for links: a host name, or scheme and address."""

    def put(
        self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False
    ) -> Key: ...
    def get(self, key: Key) -> Frames | None: ...
    def exists(self, key: Key) -> bool: ...
    def evict(self, key: Key) -> bool: ...
    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]: ...
    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]: ...
    def exists_many(self, keys: Sequence[Key]) -> list[bool]: ...
    def evict_many(self, keys: Sequence[Key]) -> list[bool]: ...
    def reserve(self) -> Key:
        """A key made here, under which anybody may put later; nothing is stored."""

    def stat(self, key: Key) -> Stat | None: ...
    def close(self) -> None: ...
    def clear(self) -> int: ...


@runtime_checkable
class SupportsWatch(Protocol):
    """Can wait for objects to appear."""

    @property
    def wait_bound(self) -> float:
        """Seconds that a waiter may sleep past the put at worst; 0 where it is told."""

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        """True as soon as the object is there, False when `timeout` seconds have passed."""

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        """Those of `keys`, as they were given, whose objects are there, as soon as one is.

        Of what is there when it is called all are named; of what appears later at least one. Empty when `timeout`
        seconds (None: no deadline; 0 or less: one look) have passed, and for no keys at once.
        """


@runtime_checkable
class SupportsRange(Protocol):
    """Can read a part of an object without moving the rest."""

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None: ...


@runtime_checkable
class SupportsLease(Protocol):
    """Can move an object's expiry."""

    def renew(self, key: Key, ttl: float | None) -> bool:
        """Expire `ttl` seconds from now (None: never). False when the object is missing."""

    def renew_many(self, keys: Sequence[Key], ttl: float | None) -> list[bool]:
        """`renew` of each, in one round trip where the backend can."""


@runtime_checkable
class SupportsScan(Protocol):
    """Can list what it holds."""

    def scan(self) -> Iterator[Stat]:
        """Every object of this connector's namespace or, if its URL names none, of all namespaces at its place."""


@runtime_checkable
class SupportsReap(Protocol):
    """Can take back what ended processes and passed deadlines left behind."""

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]: ...


@runtime_checkable
class SupportsCompareAndSet(Protocol):
    """Can change a small object only if it is still what the caller believes it is: counts, leases, ownership."""

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        """Atomically put `new` (None: evict) under `key` if exactly the bytes of `old` (None: nothing) lie there.

        Of several callers at once, in any process, one wins; the others are told False and change nothing.

        Raises:
            ConfigurationError: `old` or `new` is larger than 1 MiB.
        """

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        """`compare_and_set` of each, in few round trips where the backend can. After an error any may be done."""


@runtime_checkable
class SupportsDiagnosis(Protocol):
    """Can say what is wrong with its place, step by step, without changing anything there."""

    def diagnose(self) -> Iterator[Finding]:
        """One finding a step (name, port, version, key, clock, permission, memory), until one fails; never raises."""


@runtime_checkable
class SupportsStatus(Protocol):
    """Can say what its place holds and does."""

    def status(self) -> Status: ...


@runtime_checkable
class SupportsAsync(Protocol):
    """Has native coroutines, as quick to return to the event loop as it can; without, a store uses threads."""

    async def aget(self, key: Key) -> Frames | None: ...
    async def aput(
        self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False
    ) -> Key: ...


class BaseConnector:
    """For those who implement: write `put`, `get`, `exists`, `evict`, `stat`, `clear`, `spec` and inherit the rest.

    What is inherited is correct anywhere and slower where the backend knows better: batches loop, `get_range` reads the
    whole object, `wait` and `wait_any` poll every 1 to 20 ms.
    """

    scheme: ClassVar[str]
    checksums: ClassVar[bool] = True
    local: bool = False
    wait_bound: float = 0.02

    @classmethod
    def from_url(cls: type[Self], url: str, *, name: str | None = None) -> Self:
        """The connector that `url` describes; `name` makes its namespace persistent."""
        raise NotImplementedError

    @property
    def spec(self) -> str:
        raise NotImplementedError

    @property
    def place(self) -> str:
        return here()

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        raise NotImplementedError

    def get(self, key: Key) -> Frames | None:
        raise NotImplementedError

    def exists(self, key: Key) -> bool:
        return self.stat(key) is not None

    def evict(self, key: Key) -> bool:
        raise NotImplementedError

    def stat(self, key: Key) -> Stat | None:
        raise NotImplementedError

    def close(self) -> None:
        """Release what this process holds open; deletes nothing."""

    def clear(self) -> int:
        raise NotImplementedError

    def reserve(self) -> Key:
        return Key.draw()

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        check_batch(many, keys)
        pairs = zip(many, keys if keys is not None else [None] * len(many), strict=True)
        return [self.put(frames, key=key, ttl=ttl, replace=replace) for frames, key in pairs]

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return [self.get(key) for key in keys]

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return [self.exists(key) for key in keys]

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        return [self.evict(key) for key in keys]

    def renew_many(self, keys: Sequence[Key], ttl: float | None) -> list[bool]:
        if not isinstance(self, SupportsLease):
            raise CapabilityError(f"Objects in {self.spec} have no expiry that could be moved.")
        return [self.renew(key, ttl) for key in keys]

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        return [self.compare_and_set(*swap[:3], ttl=swap.ttl) for swap in swaps]  # type: ignore[attr-defined]  # if able

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        frames = self.get(key)
        return None if frames is None else frames.slice(offset, length)

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        return bool(self.wait_any([key], timeout))

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        if not keys:
            return []
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        longest = self.wait_bound or _LONGEST_PAUSE
        pause = min(_SHORTEST_PAUSE, longest)
        while True:
            found = [key for key, there in zip(keys, self.exists_many(keys), strict=True) if there]
            if found:
                return found
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                return []
            time.sleep(left)
            pause = min(1.5 * pause, longest)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_url, (self.spec,)


def check_ttl(ttl: float | None, name: str = "ttl") -> None:
    """Refuse a time to live, or another argument of that `name`, that is not a positive number of seconds."""
    if ttl is not None and not (hasattr(ttl, "__float__") and ttl > 0):
        what = "A time to live (ttl=)" if name == "ttl" else f"{name}="
        raise ConfigurationError(f"{what} is a positive number of seconds, not {ttl!r}.")


def check_batch(many: Sequence[Frames], keys: Sequence[Key] | None) -> None:
    """Refuse a batch whose keys and objects are not as many, before any of it is stored."""
    if keys is not None and len(keys) != len(many):
        raise ConfigurationError(f"A batch of {len(many)} objects needs as many keys, not {len(keys)}.")


def check_timeout(timeout: float | None, least: float = float("-inf")) -> None:
    """Refuse what no clock ever reaches, and less than `least`."""
    if timeout is not None and not (hasattr(timeout, "__float__") and timeout >= least):
        some = "0 or more seconds" if least == 0 else "a number of seconds"
        raise ConfigurationError(f"A timeout (timeout=) is {some}, or None for ever, not {timeout!r}.")


def check_range(offset: int, length: int) -> None:
    """Refuse a negative range."""
    if offset < 0 or length < 0:
        raise ConfigurationError(f"A range needs offset >= 0 and length >= 0, not {offset} and {length}.")


def check_swap(old: Frames | None, new: Frames | None) -> None:
    """Refuse to compare or set what is too large for that."""
    for frames in (old, new):
        if frames is not None and frames.nbytes > LARGEST_SWAP:
            raise ConfigurationError(
                f"compare_and_set takes objects up to {LARGEST_SWAP} bytes, not {frames.nbytes}; put the bulk under a "
                "key of its own, and swap that key."
            )
