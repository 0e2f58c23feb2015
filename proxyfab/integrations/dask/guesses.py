"""What many small things weigh together, at the speed of C: looked at by kinds, never one by one.

Promises:
1. An answer is given only for what is plainly small: a few kilobytes for each part, and nothing of Dask's among them.
2. Where it cannot be told there is no answer, and the caller has to look at each.
3. Of many objects of a class their attributes are looked at. Of long lists inside of those only the length and a part
   of the items count: what is large and alone in the midst of such a list may go by plain Dask.
"""

from __future__ import annotations

import copyreg
from collections.abc import Collection, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from proxyfab.proxy.layout import traits

LEAF = 4096
"""Bytes from which on a part is worth a look of its own."""
NUMBERS = {int: 9, float: 9, bool: 1, type(None): 1, complex: 17}
LENGTHS = frozenset((str, bytes, bytearray))
PLAINLY = 4
"""What is guessed at less than this part of the limit is below it."""
FEW = 6
"""Things from which on they are looked at together."""
LISTS = frozenset((list, tuple))
_KEY = 16
_DEPTH = 6
_LONG = 32
"""Items of a list inside of an object, on average, from which on a part of them is looked at."""
_PART = 8
_MANY = 16
_SOME = 32
_WORD = 3
_HEAP = 1 << 9
_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__", "__getattribute__", "__getnewargs_ex__", "__getnewargs__")
_bytes_of = attrgetter("nbytes")
_attributes = attrgetter("__dict__")
_is_record: dict[type, bool] = {}


def together(items: Collection[Any], depth: int = _DEPTH, *, inside: bool = False) -> int | None:
    """Bytes of small things; None if one is not small, or not known.

    Args:
        items: Anything.
        depth: How deep to go.
        inside: Whether they are parts of a user's objects.
    """
    kinds = set(map(type, items))
    if kinds <= NUMBERS.keys():
        return 9 * len(items)
    if len(kinds) == 1:
        return _alike(kinds.pop(), list(items), depth, inside)
    if not depth or len(kinds) > _PART:
        return None
    total = 0
    for kind in kinds:
        nbytes = _alike(kind, [item for item in items if type(item) is kind], depth, inside)
        if nbytes is None:
            return None
        total += nbytes
    return total


def each_is_small(items: Collection[Any]) -> bool:
    """Whether each is small, however many there are; asked of numbers, words and arrays, which have no parts."""
    kinds = set(map(type, items))
    if not all(kind in NUMBERS or kind in LENGTHS or _is_array(kind) for kind in kinds):
        return False
    return together(items) is not None


def _is_array(kind: type) -> bool:
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy"


def _alike(kind: type, items: Sequence[Any], depth: int, inside: bool) -> int | None:
    """Of things of one type."""
    if kind in NUMBERS:
        return NUMBERS[kind] * len(items)
    if kind in LENGTHS:
        lengths = list(map(len, items))
        return sum(lengths) + 3 * len(lengths) if max(lengths) < LEAF else None
    if not depth:
        return None
    if kind in LISTS:
        return _flat(items, depth, inside)
    if kind is dict:
        keys = _flat(items, depth, inside)
        values = None if keys is None else _flat(list(map(dict.values, items)), depth, inside)
        return None if keys is None or values is None else keys + values + _KEY * len(items)
    if _is_array(kind):
        sizes = list(map(_bytes_of, items))
        return sum(sizes) if max(sizes) < LEAF and not any([item.dtype.hasobject for item in items]) else None
    if is_record(kind):
        values = _flat(list(map(dict.values, map(_attributes, items))), depth, inside=True)
        return None if values is None else values + _KEY * len(items)
    return None


def _flat(many: Sequence[Any], depth: int, inside: bool) -> int | None:
    """Of what is in all of them."""
    count = sum(map(len, many))
    if not inside or count <= _LONG * max(len(many), 1):
        return together(list(chain.from_iterable(many)), depth - 1, inside=inside)
    parts: list[Any] = []
    for each in many[:: max(len(many) // _MANY, 1)]:
        items = each if type(each) in LISTS else list(each)
        parts += items[:: max(len(items) // _PART, 1)]
    nbytes = together(parts, depth - 1, inside=True)
    return None if nbytes is None else nbytes * count // max(len(parts), 1)


def in_table(table: Any) -> int | None:
    """Bytes of a frame or column of pandas in which are numbers and words, these by a part of them; None of others.

    Nothing of Dask's is in what has an answer.
    """
    from pandas.api.types import infer_dtype  # it is there already: this is a thing of its

    if table.attrs:
        return None
    columns = [column for _, column in table.items()] if table.ndim == 2 else [table]
    total = 0
    for column in (table.index, *columns):
        kind = column.dtype.kind
        if type(column.dtype).__module__.partition(".")[0] == "pandas" or getattr(column, "nlevels", 1) > 1:
            return None
        if kind != "O":
            total += column.nbytes if column is not table.index or type(column).__name__ != "RangeIndex" else 0
        elif len(column):
            values = column.to_numpy()
            if infer_dtype(values, skipna=False) != "string":
                return None
            some = values[:: max(len(values) // _SOME, 1)]
            total += (sum(map(len, some)) // len(some) + _WORD) * len(values)
    return total


def is_record(kind: type) -> bool:
    """Whether objects of a class are what their attributes are: nothing has a say in how they are pickled."""
    known = _is_record.get(kind)
    if known is None:
        known = _is_record[kind] = _find(kind)
    return known


def _find(kind: type) -> bool:
    if kind in copyreg.dispatch_table or issubclass(kind, type) or not kind.__dictoffset__ or kind in traits:
        return False
    if any(not base.__flags__ & _HEAP or base.__dict__.get("__slots__") for base in kind.__mro__[:-1]):
        return False  # there is more to it than attributes
    if any(hasattr(kind, name) for name in ("__dask_graph__", "__dask_future__")):
        return False
    return all(getattr(kind, way, None) is getattr(object, way, None) for way in _WAYS)
