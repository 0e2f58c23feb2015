"""Parcel: an object that is here, behind a proxy, and is stored when that proxy is sent for the first time.

Rules:
1. In its own process a parcel costs nothing: the proxy is resolved, and no byte is stored.
2. Pickling the proxy stores the object, once, and what travels is a plain reference to it. One that was changed since
   goes as a new object, as every resolved proxy does.
3. It is serialized once, by that put; what turns out small travels inside the reference.
"""

from __future__ import annotations

from typing import Any

from proxyfab.flight import SingleFlight
from proxyfab.proxy import Kind, factory_of, is_proxy, is_singleton, kind_of, make, resolve
from proxyfab.ref import Ref
from proxyfab.store import Store, open_store

_flights: SingleFlight[Ref[Any]] = SingleFlight("storing an object")


class Parcel:
    """What a proxy of a local object is made of. Thread-safe.

    Args:
        target: The object.
        store: Where it goes when it is sent.
        ttl: Seconds until it expires there; None for never.
    """

    __slots__ = ("_ref", "_store", "_target", "_ttl")

    def __init__(self, target: Any, store: Store, ttl: float | None = None) -> None:
        self._target = target
        self._store = store
        self._ttl = ttl
        self._ref: Ref[Any] | None = None

    def __call__(self) -> Any:
        return self._target

    @property
    def sent(self) -> bool:
        """Whether it was stored."""
        return self._ref is not None

    def as_ref(self) -> Ref[Any]:
        """The reference to the object, which is stored now if it was not."""
        ref = self._ref
        if ref is None:
            ref = _flights.do(id(self), self._stored)
        return ref

    def _stored(self) -> Ref[Any]:
        if self._ref is None:
            self._ref = self.put(self._target)
        return self._ref

    def put(self, target: Any) -> Ref[Any]:
        """Store the object."""
        store = self._store if not self._store.closed else open_store(self._store.url)
        return store.ref(target, ttl=self._ttl)

    def reduce_proxy(self, kind: Kind | None, _resolved: bool, target: Any) -> tuple[Any, ...]:
        """How the proxy pickles: as one of the stored object."""
        known = self._ref
        if known is None:
            return self.as_ref().reduce_proxy(kind, False, None)
        return known.reduce_proxy(kind, True, target)

    def __dask_tokenize__(self) -> Any:
        from dask.tokenize import normalize_token  # it is Dask that asks

        return normalize_token(self._target)

    def __repr__(self) -> str:
        return f"<Parcel for {self._store.url}, {'sent' if self._ref else 'not sent'}>"


def wrapped(parcel: Parcel) -> Any:
    """The resolved proxy of a parcel's object."""
    target = parcel()
    proxy = make(parcel, kind_of(target))
    resolve(proxy)
    return proxy


def unsent(proxy: Any) -> Parcel | None:
    """The plain parcel behind a proxy, if it was not sent yet: nobody else knows of it."""
    parcel = factory_of(proxy)
    return parcel if type(parcel) is Parcel and not parcel.sent else None


def can_be_proxied(obj: object) -> bool:
    """Whether a proxy of `obj` makes sense."""
    return not (is_singleton(obj) or is_proxy(obj))
