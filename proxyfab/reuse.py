"""Which objects a store has handed out already, so that the same object handed out twice is stored once.

Identity finds the candidate, samples of its bytes refuse most of those that were changed, and a digest of all bytes
decides. Two objects never share a key because the second has got the address of the first: arrays and instances are
watched by weak references; bytes, lists and dicts, which have none, are kept alive up to a megabyte each and 16 in
all. Larger ones of those are told apart by their content alone. Where the stored bytes are mapped they are digested
when the same object comes a second time, elsewhere while it is put. Thread-safe by single dict operations; a lost
race stores twice.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from xxhash import xxh3_64

from proxyfab.cache import ByteLRU
from proxyfab.keys import Key
from proxyfab.transport import Transport
from proxyfab.wire.payload import Payload, digest

REMEMBERED = 512
_KEPT_EACH = 1 << 20
_KEPT = 16 << 20
_SAMPLES = 16
_SAMPLE = 256
_SAMPLED_BUFFERS = 8


class _HandedOut:
    __slots__ = ("content", "key", "kind", "sample", "weak")

    def __init__(self, key: Key, payload: Payload, weak: weakref.ref[Any] | None, content: int | None) -> None:
        self.key = key
        self.kind = payload.codec, payload.type, payload.nbytes
        self.sample = _sample(payload)
        self.weak = weak
        self.content = content


class Reuse:
    """Remembers the last 512 objects, weakly where Python allows it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._seen: OrderedDict[int, _HandedOut] = OrderedDict()
        self._kept: ByteLRU[int, tuple[Any, int]] = ByteLRU(_KEPT, lambda kept: kept[1])

    def find(self, obj: object, payload: Payload) -> Key | None:
        """The key under which this very object, just serialized to `payload`, already lies unchanged."""
        seen = self._seen.get(id(obj))
        if seen is None or seen.kind != (payload.codec, payload.type, payload.nbytes):
            return None
        if not self._is(seen, obj, payload) or seen.sample != _sample(payload):
            return None
        if seen.content is None:
            there = self._transport.peek(seen.key)
            if there is None:
                return None
            seen.content = digest(there)
        elif not self._transport.exists([seen.key])[0]:
            return None
        return seen.key if seen.content == digest(payload) else None

    def remember(self, obj: object, payload: Payload, key: Key) -> None:
        """Note that `obj` was stored under `key`."""
        try:
            weak: weakref.ref[Any] | None = weakref.ref(obj)
        except TypeError:
            weak = None
            if payload.nbytes <= _KEPT_EACH:
                self._kept.put(id(obj), (obj, payload.nbytes))
        content = None if self._transport.connector.local else digest(payload)
        self._seen[id(obj)] = _HandedOut(key, payload, weak, content)
        if len(self._seen) > REMEMBERED:
            oldest, _ = self._seen.popitem(last=False)
            self._kept.pop(oldest)

    def forget(self, keys: Iterable[Key]) -> None:
        """Something was put under these keys: what was handed out under them lies there no more."""
        replaced = {key.id for key in keys}
        for name, seen in list(self._seen.items()):
            if seen.key.id in replaced:
                self._seen.pop(name, None)
                self._kept.pop(name)

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()
        self._kept.clear()

    def _is(self, seen: _HandedOut, obj: object, payload: Payload) -> bool:
        if seen.weak is not None:
            return seen.weak() is obj
        return payload.nbytes > _KEPT_EACH or self._kept.get(id(obj)) is not None


def _sample(payload: Payload) -> int:
    """A digest of some kilobytes from all over the data: differs for most objects that differ, in microseconds."""
    state = xxh3_64()
    for view in payload.buffers[:_SAMPLED_BUFFERS]:
        step = max(view.nbytes // _SAMPLES, _SAMPLE)
        for start in range(0, view.nbytes, step):
            state.update(view[start : start + _SAMPLE])
    return state.intdigest()
