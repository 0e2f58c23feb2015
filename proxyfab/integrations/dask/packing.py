"""The pass over a task's arguments: what is large becomes a node, and what is middling gets a name that costs little.

Rules:
1. Only lists, tuples and dicts of exactly those types are walked. Anything else is a whole, and travels as one.
2. Nothing that Dask must see (a future, a node, a collection) ends up inside a stored object.
3. What is not large comes out as the very object that went in, and so does a container in which nothing is.
4. The same object met twice is one node. Nothing is stored here: a node's reference is filled in afterwards.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, NamedTuple

from dask.tokenize import normalize_token, tokenize

from proxyfab.errors import SerializationError
from proxyfab.integrations.dask.contents import token_of, token_of_payload, token_of_text
from proxyfab.integrations.dask.guesses import FEW, LEAF, LENGTHS, NUMBERS, PLAINLY, each_is_small, together
from proxyfab.integrations.dask.node import Held, Told
from proxyfab.integrations.dask.sizes import NOT_ALONE, size_of, weight_of
from proxyfab.serialize import dumps
from proxyfab.wire.payload import Payload

MIDDLING = LEAF
"""Bytes from which on Dask takes longer to name bytes and arrays than we do."""
_MANY = 64
_ITSELF = normalize_token.dispatch(int)
"""Dask's way with what needs no other name, as numbers, bytes and text: a function of another package's."""


class Large(NamedTuple):
    """What is to be stored before the graph is sent.

    Attributes:
        node: What stands for it.
        obj: The object; held, so that nothing else gets its identity meanwhile.
        payload: The object as bytes, if they are known already.
        token: Of its content.
    """

    node: Held
    obj: Any
    payload: Payload | None
    token: str


class Packing:
    """Of one call.

    Args:
        above: Bytes from which on an object is large.
        lazy: Whether tasks get proxies of large ones.
        told: Whether middling bytes and arrays are given names by content.
        mode: How the store serializes.
    """

    def __init__(self, above: int, *, lazy: bool = False, told: bool = False, mode: str = "default") -> None:
        self.larges: list[Large] = []
        self._above = above
        self._lazy = lazy
        self._told = told
        self._mode = mode
        self._seen: dict[int, Any] = {}

    @property
    def finds(self) -> bool:
        """Whether anything so far is large, or was given a name."""
        return bool(self._seen)

    def many(self, objs: Sequence[Any]) -> list[Any]:
        """Each packed."""
        if self._small(objs) is not None or (len(objs) >= FEW and each_is_small(objs)):
            return list(objs)
        return [self.one(obj) for obj in objs]

    def named(self, objs: Mapping[str, Any]) -> dict[str, Any]:
        """Each packed."""
        if self._small(objs.values()) is not None:
            return dict(objs)
        return {name: self.one(obj) for name, obj in objs.items()}

    def one(self, obj: Any) -> Any:
        """The object, or what stands for it."""
        kind = type(obj)
        if kind in NUMBERS or (kind is str and len(obj) < MIDDLING):
            return obj
        return self._walk(obj)[0]

    def function(self, func: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
        """What to call instead, and arguments to go before others; None if nothing large hangs on a function."""
        if type(func) is partial:
            args, kwargs = self.many(func.args), self.named(func.keywords)
            changed = any(new is not old for new, old in zip(args, func.args, strict=True))
            changed = changed or any(kwargs[name] is not old for name, old in func.keywords.items())
            return (func.func, tuple(args), kwargs) if changed else None
        if not callable(func) or weight_of(func, self._above) < self._above:  # of the first kind Dask says what it is
            return None
        node = self._hold(func)[0]
        return None if node is func else (called_later if iscoroutinefunction(func) else operator.call, (node,), {})

    def _small(self, items: Collection[Any]) -> int | None:
        """Bytes of them all, if none of them is anything that matters here."""
        if len(items) < FEW:
            return None
        total = together(items)
        return total if total is not None and total < self._above // PLAINLY else None

    def _walk(self, obj: Any) -> tuple[Any, int]:
        """What stands for it, and its size; NOT_ALONE if it cannot be part of a stored object."""
        kind = type(obj)
        if kind is list or kind is tuple:
            new, size = self._items(obj)
            if new is not obj:
                new = kind(new)
        elif kind is dict:
            new, size = self._values(obj)
        else:
            return self._leaf(obj)
        if size >= self._above:
            return self._hold(obj)
        return new, size

    def _items(self, items: Any) -> tuple[Any, int]:
        total = _plain_size(items)
        if total is None:
            total = self._small(items)
        if total is not None:
            return items, total
        new, total = [], 0
        changed = alone = False
        for item in items:
            packed, size = self._walk(item)
            changed = changed or packed is not item
            alone = alone or size == NOT_ALONE
            total += size
            new.append(packed)
        return (new if changed else items), NOT_ALONE if alone else total

    def _values(self, mapping: dict[Any, Any]) -> tuple[Any, int]:
        old = list(mapping.values())
        values, size = self._items(old)
        keys = 0
        if size != NOT_ALONE:
            known = _plain_size(mapping)
            keys = 16 * len(mapping) if known is None else known
        if values is not old:
            mapping = dict(zip(mapping, values, strict=True))
        return mapping, size if size == NOT_ALONE else size + keys

    def _leaf(self, obj: Any) -> tuple[Any, int]:
        size = size_of(obj, self._above)
        if size >= self._above:
            return self._hold(obj)
        if self._told and size >= MIDDLING:
            return self._tell(obj, size)
        return obj, size

    def _hold(self, obj: Any) -> tuple[Any, int]:
        seen = self._seen.get(id(obj))
        if seen is not None:
            return seen, NOT_ALONE
        payload = None
        if type(obj) is str and not obj.isascii():  # made into bytes once, for its name and for the store
            payload = dumps(obj, mode=self._mode)
            token: str | None = token_of_text(payload.buffers[0]) if payload.codec == "str" else token_of(obj)
        else:
            token = token_of(obj)
        if token is None:
            try:
                payload = dumps(obj, mode=self._mode)
            except SerializationError:
                return obj, NOT_ALONE  # Dask says what it thinks of it
            token = token_of_payload(payload)
        node = Held(None, None, (_named_by_its_type(obj) if self._told else None) or token, self._lazy)
        self.larges.append(Large(node, obj, payload, token))
        self._seen[id(obj)] = node
        return node, NOT_ALONE

    def _tell(self, obj: Any, size: int) -> tuple[Any, int]:
        seen = self._seen.get(id(obj))
        if seen is None:
            token = token_of(obj)
            if token is None:
                return obj, size
            seen = self._seen[id(obj)] = Told(None, obj, token)
        return seen, size


def _named_by_its_type(obj: Any) -> str | None:
    """By what pure tasks of it are the same, if a type of the user's has a say in that; None for all others."""
    kind = type(obj)
    if not hasattr(kind, "__dask_tokenize__"):
        way = normalize_token.dispatch(kind)
        if way is _ITSELF or way.__module__.startswith("dask."):
            return None
    return str(tokenize(obj))


async def called_later(func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """As `operator.call`, for one that is a coroutine's: Dask asks before it calls."""
    return await func(*args, **kwargs)


def _plain_size(items: Any) -> int | None:
    """Of many numbers and words, at the speed of C; None where something else is among them."""
    if len(items) < _MANY:
        return None
    kinds = set(map(type, items))
    if kinds <= NUMBERS.keys():
        return 9 * len(items)
    if kinds <= LENGTHS:
        lengths = list(map(len, items))
        return sum(lengths) + 3 * len(lengths) if max(lengths) < MIDDLING else None
    return None
