"""Moves serialized objects between a connector and this process: one cache, one flight per key, one span per step.

Promises: no lock is held while bytes move; several threads that want the same remote bytes share one fetch; what is
kept for a second get are received bytes, and only where a get costs more than a cache hit; data is verified on arrival.
What this process evicted, replaced or put under a key is not answered from what was received, or asked for, before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

from proxyfab.abc import Connector, SupportsAsync
from proxyfab.buffers import Frames
from proxyfab.cache import ByteLRU
from proxyfab.coroutines import aside, in_thread
from proxyfab.errors import ConnectorError, IntegrityError
from proxyfab.flight import SingleFlight
from proxyfab.keys import Key
from proxyfab.trace import Link, Meter, here, span
from proxyfab.wire.payload import Payload, decode, encode


class Transport:
    """Payloads by key over one connector. Thread-safe, fork-safe.

    Args:
        connector: Where bytes lie.
        cache: How many received bytes to keep.
    """

    def __init__(self, connector: Connector, cache: int) -> None:
        self.connector = connector
        self.meter = Meter()
        self.closed = False
        self.native = isinstance(connector, SupportsAsync)
        """Whether the connector has coroutines of its own."""
        self._cache: ByteLRU[str, tuple[Key, Payload]] = ByteLRU(
            cache, _size
        )  # by id: one object, however it is asked for
        self._flights: SingleFlight[Payload | None] = SingleFlight()  # new after each change: see _forget

    @cached_property
    def _out(self) -> Link:
        return Link(here(), self.connector.place, self.connector.scheme)

    @cached_property
    def _in(self) -> Link:
        return Link(self.connector.place, here(), self.connector.scheme)

    def put(self, payload: Payload, key: Key | None, ttl: float | None, replace: bool) -> Key:
        """Encode and store one payload."""
        connector = self._use()
        frames = encode(payload, checksum=connector.checksums)
        try:
            with span("put", self._out, key or "", frames.nbytes, self.meter):
                return connector.put(frames, key=key, ttl=ttl, replace=replace)
        finally:
            if key is not None:  # also without `replace`: it may have expired, or been evicted by others
                self._forget([key])

    def put_many(
        self, payloads: Sequence[Payload], keys: Sequence[Key] | None, ttl: float | None, replace: bool
    ) -> list[Key]:
        """Encode and store several payloads, in one round trip where the connector can."""
        connector = self._use()
        many = [encode(payload, checksum=connector.checksums) for payload in payloads]
        if not many:
            return []
        try:
            with self._span("put_many", self._out, f"{len(many)} keys", sum(frames.nbytes for frames in many)):
                return connector.put_many(many, keys=keys, ttl=ttl, replace=replace)
        finally:
            if keys is not None:
                self._forget(keys)

    def get(self, key: Key) -> Payload | None:
        """The payload under `key`, verified; None when there is none."""
        connector = self._use() if self.closed else self.connector
        if connector.local:
            with span("get", self._in, key, 0, self.meter) as step:  # `_move`, spelt out for the shortest of all gets
                frames = connector.get(key)
                if frames is None:
                    return None
                step.nbytes = frames.nbytes
                try:
                    return decode(frames)
                except IntegrityError:
                    return self._decode(key, frames)  # once more, for its story
        return self._kept(key) or self._flights.do(key, lambda: self._fetch(key))

    async def aput(self, payload: Payload, key: Key | None, ttl: float | None, replace: bool) -> Key:
        """`put`, by the connector's own coroutines (`native`)."""
        connector = self._use()
        frames = await aside(lambda: encode(payload, checksum=connector.checksums), payload.nbytes)
        try:
            with span("put", self._out, key or "", frames.nbytes, self.meter):
                return await cast(SupportsAsync, connector).aput(frames, key=key, ttl=ttl, replace=replace)
        finally:
            if key is not None:
                self._forget([key])

    async def aget(self, key: Key) -> Payload | None:
        """`get`, by the connector's own coroutines, if it has any; then each call fetches for itself, as waiting for
        another's flight would block the loop.
        """
        if not self.native:
            return await in_thread(lambda: self.get(key))
        connector = self._use()
        kept = self._kept(key)
        if kept is not None:
            return kept
        flights = self._flights
        with span("get", self._in, key, 0, self.meter) as step:
            frames = await cast(SupportsAsync, connector).aget(key)
            if frames is None:
                return None
            step.nbytes = frames.nbytes
            payload = await aside(lambda: self._decode(key, frames), frames.nbytes)
        self._keep(key, payload, flights)
        return payload

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Payload]:
        """The payloads under `keys` that exist; one round trip for those not cached."""
        connector = self._use()
        found = {key: payload for key in keys if (payload := self._kept(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if not missing:
            return found
        flights = self._flights
        with self._span("get_many", self._in, f"{len(missing)} keys") as step:
            for key, frames in zip(missing, connector.get_many(missing), strict=True):
                if frames is not None:
                    found[key] = self._decode(key, frames)
                    self._keep(key, found[key], flights)
                    step.nbytes += frames.nbytes
        return found

    def peek(self, key: Key) -> Payload | None:
        """The payload under `key` as it lies there now, unverified and not cached; None when there is none."""
        frames = self._use().get(key)
        return None if frames is None else self._decode(key, frames, verify=False)

    def exists(self, keys: Sequence[Key]) -> list[bool]:
        """Whether objects lie under `keys`: asked of the connector, never of the cache."""
        with self._span("exists", self._out, _name(keys)):
            return self._use().exists_many(keys)

    def evict(self, keys: Sequence[Key]) -> list[bool]:
        """Delete what lies under `keys`."""
        try:
            with self._span("evict", self._out, _name(keys)):
                return self._use().evict_many(keys)
        finally:
            self._forget(keys)

    def clear(self) -> int:
        """Delete everything in the connector's namespace."""
        try:
            with self._span("clear", self._out):
                return self._use().clear()
        finally:
            self._forget(())
            self._cache.clear()

    def close(self) -> None:
        """Refuse further work and forget what was received."""
        self.closed = True
        self._cache.clear()

    def _use(self) -> Connector:
        if self.closed:
            raise ConnectorError(f"The store on {self.connector.spec} was closed; make a new one or use open_store().")
        return self.connector

    def _span(self, operation: str, link: Link, key: object = "", size: int = 0) -> span:
        return span(operation, link, key, size, self.meter)

    def _fetch(self, key: Key) -> Payload | None:
        flights = self._flights
        payload = self._move(key)
        if payload is not None:
            self._keep(key, payload, flights)
        return payload

    def _move(self, key: Key) -> Payload | None:
        with span("get", self._in, key, 0, self.meter) as step:
            frames = self.connector.get(key)
            if frames is None:
                return None
            step.nbytes = frames.nbytes
            return self._decode(key, frames)

    def _decode(self, key: Key, frames: Frames, *, verify: bool = True) -> Payload:
        try:
            return decode(frames, verify=verify)
        except IntegrityError as error:
            raise IntegrityError(f"{key} in {self.connector.spec} cannot be read. {error}") from error

    def _kept(self, key: Key) -> Payload | None:
        kept = self._cache.get(key.id)
        return kept[1] if kept is not None and kept[0] == key else None

    def _keep(self, key: Key, payload: Payload, flights: SingleFlight[Payload | None]) -> None:
        if not self.connector.local:
            self._cache.put(key.id, (key, payload), lambda: self._flights is flights)

    def _forget(self, keys: Sequence[Key]) -> None:
        """After a change: nobody joins a fetch that began before it, and what such a fetch brings is not kept."""
        if self.connector.local:
            return
        self._flights = SingleFlight()
        for key in keys:
            self._cache.pop(key.id)


def _size(kept: tuple[Key, Payload]) -> int:
    return kept[1].nbytes


def _name(keys: Sequence[Key]) -> object:
    return keys[0] if len(keys) == 1 else f"{len(keys)} keys"
