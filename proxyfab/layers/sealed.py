"""SealedConnector: what lies below it is signed or encrypted, and nothing that does not verify comes up.

Stands directly around the innermost connector of a store with `seal=`; no URL names it, since a store's URL says which
seal its objects have. Promises: a key is drawn before an object is sealed, as its id is part of what is authenticated;
moving, batching, waiting, expiring and scanning are the child's. What it hands out is not checked by anyone else, so
no checksum is laid over sealed bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from proxyfab.abc import BaseConnector, Stat, Swap, check_batch, check_range, check_swap
from proxyfab.buffers import Frames
from proxyfab.ciphers import warm
from proxyfab.errors import SealError
from proxyfab.keys import Fresh, Key
from proxyfab.layers.base import Layer
from proxyfab.seal import MODES, Seal
from proxyfab.spec import namespace_of
from proxyfab.wire.sealed import content_of


class SealedConnector(Layer):
    """Seals what is put and verifies what is got.

    Args:
        child: Where the sealed bytes lie.
        seal: How, and under which key.
    """

    def __init__(self, child: Any, seal: Seal) -> None:
        super().__init__(child)
        self.checksums = False  # type: ignore[misc]  # a seal is more than a checksum
        self.seal = seal

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return False  # what was opened once is worth keeping

    @property
    def realm(self) -> str:
        """What objects are bound to besides their ids: the store's namespace, wherever it lies."""
        return namespace_of(self.child.spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.plain or type(self), (self.child, self.seal)

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        key = Fresh.of(self.child.reserve()) if key is None else key
        return super().put(self._sealed(frames, key), key=key, ttl=ttl, replace=replace).plain()

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        check_batch(many, keys)
        keys = [Fresh.of(self.child.reserve()) for _ in many] if keys is None else keys
        sealed = [self._sealed(frames, key) for frames, key in zip(many, keys, strict=True)]
        return [key.plain() for key in super().put_many(sealed, keys=keys, ttl=ttl, replace=replace)]

    def get(self, key: Key) -> Frames | None:
        return self._opened(super().get(key), key)

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return [self._opened(frames, key) for frames, key in zip(super().get_many(keys), keys, strict=True)]

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        read = super().get_range
        try:
            return self.seal.open_range(lambda low, count: read(key, low, count), offset, length, self.realm, key.id)
        except SealError:  # perhaps replaced between two reads: then the whole of what lies there now verifies
            whole = self.get(key)
            return None if whole is None else whole.slice(offset, length)

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_swap(old, new)
        sealed = None if new is None else self._sealed(new, key)
        there = None
        if old is not None:
            there = self.child.get(key)
            if there is None or self._opened(there, key) != old:
                return False
        return super().compare_and_set(key, there, sealed, ttl=ttl)  # exactly what was compared must still lie there

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        return BaseConnector.compare_and_set_many(self, swaps)  # one by one: each is looked at as it lies there

    def stat(self, key: Key) -> Stat | None:
        found = super().stat(key)
        return None if found is None else self._as_put(found)

    def scan(self) -> Iterator[Stat]:
        return map(self._as_put, super().scan())

    def _as_put(self, stat: Stat) -> Stat:
        """Sizes are those of what was put; of what was put without a seal, those of what lies there."""
        nbytes = content_of(stat.nbytes, MODES[self.seal.mode][0])
        return stat if nbytes < 0 else stat._replace(nbytes=nbytes)

    def close(self) -> None:
        super().close()
        warm.forget()

    def _sealed(self, frames: Frames, key: Key) -> Frames:
        return self.seal.seal(frames, self.realm, key.id)

    def _opened(self, frames: Frames | None, key: Key) -> Frames | None:
        if frames is None:
            return None
        try:
            return self.seal.open(frames, self.realm, key.id)
        except SealError as error:
            raise SealError(f"{key} in {self.spec} cannot be opened. {error}") from error
