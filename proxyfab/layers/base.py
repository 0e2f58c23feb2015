"""Layer: a connector around a connector, which forwards everything. A layer overrides what it does differently.

    class Shouting(Layer):
        name = "shout"

        def evict(self, key):
            print(f"{key} goes!")
            return super().evict(key)

Promises: an instance claims just its child's abilities (`isinstance(layer, SupportsLease)` is what it is for the
child); it opens and holds nothing; closing it closes the child. The child's coroutines are not forwarded: a store runs
the sync form of a layer in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from proxyfab.abc import BaseConnector, Finding, Reclaimed, Stat, Status, Swap
from proxyfab.abilities import claiming, shared
from proxyfab.buffers import Frames
from proxyfab.keys import Key
from proxyfab.opening import open_connector

Self = TypeVar("Self", bound="Layer")


class Layer(BaseConnector):
    """Passes everything on to `child`. Thread-safe and fork-safe as the child is.

    Args:
        child: Where the bytes lie; this connector closes it.
    """

    name: ClassVar[str] = ""
    """What stands before the scheme of the child's URL; `""` for a layer that no URL tells of."""

    plain: ClassVar[type[Any] | None] = None
    """In a class that was made for a child with fewer abilities: the class as it was written."""

    def __new__(cls: type[Self], child: Any, *_: Any, **__: Any) -> Self:
        """An instance of a class that claims what the child has."""
        return super().__new__(claiming(cls.plain or cls, shared([child])))

    def __init__(self, child: Any) -> None:
        self.child = child
        self.scheme = child.scheme  # type: ignore[misc]  # a layer's scheme is its child's
        self.checksums = child.checksums  # type: ignore[misc]  # and so is this

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Any:
        return open_connector(url, name=name)

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return bool(self.child.local)

    @property
    def wait_bound(self) -> float:  # type: ignore[override]  # as above
        return float(self.child.wait_bound)

    @property
    def spec(self) -> str:
        return f"{self.name}+{self.child.spec}" if self.name else str(self.child.spec)

    @property
    def place(self) -> str:
        return str(self.child.place)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.plain or type(self), (self.child,)

    # -- one object ----------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        return self.child.put(frames, key=key, ttl=ttl, replace=replace)  # type: ignore[no-any-return]

    def get(self, key: Key) -> Frames | None:
        return self.child.get(key)  # type: ignore[no-any-return]

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        return self.child.get_range(key, offset, length)  # type: ignore[no-any-return]

    def exists(self, key: Key) -> bool:
        return self.child.exists(key)  # type: ignore[no-any-return]

    def evict(self, key: Key) -> bool:
        return self.child.evict(key)  # type: ignore[no-any-return]

    def stat(self, key: Key) -> Stat | None:
        return self.child.stat(key)  # type: ignore[no-any-return]

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        return self.child.wait(key, timeout)  # type: ignore[no-any-return]

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        return self.child.wait_any(keys, timeout)  # type: ignore[no-any-return]

    def reserve(self) -> Key:
        return self.child.reserve()  # type: ignore[no-any-return]

    # -- many ----------------------------------------------------------------------------------------------------

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        return self.child.put_many(many, keys=keys, ttl=ttl, replace=replace)  # type: ignore[no-any-return]

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return self.child.get_many(keys)  # type: ignore[no-any-return]

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return self.child.exists_many(keys)  # type: ignore[no-any-return]

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        return self.child.evict_many(keys)  # type: ignore[no-any-return]

    def clear(self) -> int:
        return self.child.clear()  # type: ignore[no-any-return]

    def close(self) -> None:
        self.child.close()

    # -- what a child may lack: an instance around such a child has None here ------------------------------------

    def renew(self, key: Key, ttl: float | None) -> bool:
        return self.child.renew(key, ttl)  # type: ignore[no-any-return]

    def renew_many(self, keys: Sequence[Key], ttl: float | None) -> list[bool]:
        return self.child.renew_many(keys, ttl)  # type: ignore[no-any-return]

    def scan(self) -> Iterator[Stat]:
        return self.child.scan()  # type: ignore[no-any-return]

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        return self.child.reap(dry_run=dry_run)  # type: ignore[no-any-return]

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        return self.child.compare_and_set(key, old, new, ttl=ttl)  # type: ignore[no-any-return]

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        return self.child.compare_and_set_many(swaps)  # type: ignore[no-any-return]

    def diagnose(self) -> Iterator[Finding]:
        return self.child.diagnose()  # type: ignore[no-any-return]

    def status(self) -> Status:
        return self.child.status()  # type: ignore[no-any-return]
