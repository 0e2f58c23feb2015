"""How an object gets into an event: as it is, serialized inside, or stored with its reference inside.

Rules:
1. When this returns nobody needs the object any more: it may be changed at once. So it is serialized, and stored, in
   the thread of whoever sends it; several threads do so side by side.
2. Each object is stored for its event alone (never shared with another reference to it), as the topic evicts it.
3. What came as a proxy or a Ref goes as its reference, marked as somebody else's: the topic never evicts that.
4. Where the store seals, nothing of an object travels in the clear.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from proxyfab.errors import ConfigurationError, SerializationError
from proxyfab.inline import close_inline
from proxyfab.keys import Key
from proxyfab.opening import seal_of
from proxyfab.patterns.stream.references import NOWHERE, packed_kind, state_of
from proxyfab.patterns.stream.strays import draw
from proxyfab.proxy import Kind, is_proxy, is_resolved, kind_of, unwrap
from proxyfab.ref import Ref, ref_of
from proxyfab.serialize import dumps
from proxyfab.spec import StoreSpec
from proxyfab.store import Store, open_store
from proxyfab.wire.events import OBJECT, VALUE, is_plain
from proxyfab.wire.payload import Payload

_WIDEST = 4


class Load(NamedTuple):
    """What an event holds.

    Attributes:
        kind: VALUE or OBJECT.
        data: The value, or a reference whose first field the frame fills in.
        url: The store that it names; None for a value.
        kept: What was stored for it.
        foreign: Whether the object is somebody else's.
    """

    kind: int
    data: Any
    url: str | None = None
    kept: tuple[Store, Key] | None = None
    foreign: bool = False


def store_given(store: Store | str | None) -> Store | None:
    """What is given as `store=`.

    Raises:
        ConfigurationError: It is neither a store nor the URL of one.
    """
    if store is not None and not isinstance(store, Store | str):
        raise ConfigurationError(f"store= is a Store or the URL of one, not {store!r}.")
    return open_store(store) if isinstance(store, str) else store


class Loader:
    """Puts objects into events. Thread-safe.

    Args:
        store: Where large ones go; None: nowhere.
        above: Bytes from which on an object is large.
    """

    def __init__(self, store: Store | None, above: int) -> None:
        self.store = store
        self.above = above
        spec = StoreSpec.parse(NOWHERE if store is None else store.url)
        self._mode = spec.serializer
        self._connector = spec.connector
        self._seal = seal_of(spec.seal or None)
        self._url = NOWHERE if store is None else store.url
        self.plain = 0 if self._seal is not None else above
        """Bytes below which plain values stand in events as they are."""
        self.ttl: float | None = None
        """Seconds that objects are stored for, as the topic says (`releasing.ttl_of`); None for as long as needed."""
        self.mark = ""
        """How the ids of stored objects begin (`strays`)."""

    def load(self, obj: object) -> Load:
        """What stands in an event for an object.

        Raises:
            SerializationError: It cannot become bytes, or is large and there is no store.
            ConnectorError: The store cannot be reached.
        """
        if is_proxy(obj) or isinstance(obj, Ref):
            ref = _reference(obj)
            if ref is not None:
                return Load(OBJECT, state_of(ref, 0), ref.url, foreign=ref.key is not None)
            return self._loaded(dumps(obj), None)
        if is_plain(obj) and self._fits(obj):
            return Load(VALUE, obj)
        return self._loaded(dumps(obj, mode=self._mode), kind_of(obj))

    def _fits(self, obj: Any) -> bool:
        if obj is None:
            return True
        if obj.__class__ is str:
            return len(obj) * _WIDEST < self.plain or len(obj.encode()) < self.plain
        return self.plain > 0 and (obj.__class__ is not bytes or len(obj) < self.plain)

    def _loaded(self, payload: Payload, of: Kind | None) -> Load:
        kind = packed_kind(of)
        if payload.nbytes < self.above:
            sealed = self._seal
            packed: Any = payload.pack() if sealed is None else close_inline(payload, sealed, self._connector)
            return Load(OBJECT, [0, packed, payload.nbytes, *kind, 0], self._url)
        if self.store is None:
            raise SerializationError(
                f"A {payload.type} of {payload.nbytes} bytes is too large for an event, which holds less than "
                f"{self.above}: give the producer a store."
            )
        key = self.put(payload)
        return Load(OBJECT, [0, key.id, key.where, payload.nbytes, *kind, 0], self._url, (self.store, key))

    def put(self, payload: Payload) -> Key:
        """Store an object."""
        assert self.store is not None
        if not self.mark:
            return self.store.put_payload(payload, None, ttl=self.ttl)
        return self.store.put_payload(payload, draw(self.mark), ttl=self.ttl).plain()


def _reference(obj: object) -> Ref[Any] | None:
    """The reference that an object is, or stands for; None where that is more than a Ref, and is pickled as it is."""
    if not is_proxy(obj):  # asked first: what a proxy is an instance of, only its target knows
        return obj if type(obj) is Ref else None
    try:
        ref = ref_of(obj)
    except ConfigurationError:
        return None
    if type(ref) is not Ref:
        return None
    return ref.current(unwrap(obj)) if is_resolved(obj) else ref
