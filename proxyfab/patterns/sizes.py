"""About how many bytes an object would be when serialized, told in microseconds and without serializing it.

Rules:
1. Nothing is fetched, serialized, hashed or copied: a proxy weighs nothing, since it travels as a reference anyway.
2. The work is bounded: weighing ends as soon as `enough` is reached, and of what lies in a container's containers a
   few samples stand for all.
3. What is alive (functions, classes, modules, futures, stores, lazy collections) weighs nothing: it is no bulk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sized
from itertools import chain, islice
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

DEPTH = 4
_SAMPLES = (1, 2, 4, 8)
"""How many parts of a container stand for all, by how many levels are left below it; at the top all are looked at."""
_SLOT = 8
"""Bytes that an element takes at least, also where it is a small number."""
_TENSOR = 200
"""Bytes of a small tensor's metadata."""
_NUMBERS: frozenset[type] = frozenset((int, float, complex, bool, type(None)))
_ALIVE = ("add_done_callback", "__await__", "read", "acquire")
"""Who has one of these does something, instead of being something."""

Weigher = Callable[[Any, int, int], int]


def weigh(obj: object, enough: int, depth: int = DEPTH) -> int:
    """About how many bytes `obj` would be; anything from `enough` on where it is at least that.

    Args:
        obj: Anything.
        enough: Where to stop.
        depth: How many levels of containers and attributes to look into.
    """
    kind = type(obj)
    weigher = _weighers.get(kind)
    return (weigher or _learn(kind))(obj, enough, depth)


def _fixed(_obj: Any, _enough: int, _depth: int) -> int:
    return _SLOT


def _nothing(_obj: Any, _enough: int, _depth: int) -> int:
    return 0


def _length(obj: Sized, _enough: int, _depth: int) -> int:
    return len(obj)


def _integer(obj: int, _enough: int, _depth: int) -> int:
    return max(obj.bit_length() >> 3, _SLOT)


def _nbytes(obj: Any, enough: int, depth: int) -> int:
    try:
        return int(obj.nbytes)
    except (TypeError, ValueError):  # a class of that name for something else
        return _attributes(obj, enough, depth)


def _lazy(obj: Any, enough: int, depth: int) -> int:
    return _nbytes(obj, enough, depth) if obj.__dask_graph__() is None else 0


def _frame(obj: Any, _enough: int, _depth: int) -> int:
    rows, columns = obj.shape
    return int(rows * columns * _SLOT)


def _sized(obj: Any, _enough: int, _depth: int) -> int:
    return int(sys.getsizeof(obj, 0))


def _module(obj: Any, enough: int, _depth: int) -> int:
    """torch's: its parameters, however deep its modules are nested; each takes a good hundred bytes besides."""
    total = 0
    for tensor in chain(obj.parameters(), obj.buffers()):
        total += tensor.nbytes + _TENSOR
        if total >= enough:
            break
    return total


def _items(items: Any, enough: int, depth: int) -> int:
    return _sum(items, len(items), enough, depth)


def _mapping(items: dict[Any, Any], enough: int, depth: int) -> int:
    total = _sum(items, len(items), enough, depth)
    return total if total >= enough else total + _sum(items.values(), len(items), enough - total, depth)


def _sum(items: Any, count: int, enough: int, depth: int) -> int:
    total = _SLOT * count
    if total >= enough or depth <= 0 or _NUMBERS.issuperset(map(type, items)):
        return total
    if depth >= DEPTH or count <= _SAMPLES[depth]:
        return total + _weighed(items, enough - total, depth)
    some = _SAMPLES[depth]
    sample = items[:: -(-count // some)] if type(items) in (list, tuple) else [*islice(items, some)]
    return total + _weighed(sample, (enough - total) * len(sample) // count + 1, depth) * count // len(sample)


def _weighed(items: Iterable[Any], enough: int, depth: int) -> int:
    total = 0
    for item in items:
        if type(item) not in _NUMBERS:
            total += weigh(item, enough - total, depth - 1)
            if total >= enough:
                break
    return total


def _attributes(obj: Any, enough: int, depth: int) -> int:
    """An instance of somebody's class: what it carries in its dictionary and its slots."""
    if depth <= 0:
        return _SLOT
    held = [*vars(obj).values()] if hasattr(obj, "__dict__") else []
    held += [getattr(obj, name) for name in _slots(type(obj)) if hasattr(obj, name)]
    return _sum(held, len(held), enough, depth)


def _slots(kind: type) -> Iterable[str]:
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                yield name if not name.startswith("__") else f"_{base.__name__.lstrip('_')}{name}"


_weighers: dict[type, Weigher] = {
    **dict.fromkeys(_NUMBERS, _fixed),
    int: _integer,
    **dict.fromkeys((str, bytes, bytearray), _length),
    **dict.fromkeys((list, tuple, set, frozenset), _items),
    dict: _mapping,
}
_REMEMBERED = 4096


def _learn(kind: type) -> Weigher:
    """How instances of a type are weighed, remembered."""
    if len(_weighers) >= _REMEMBERED:
        for old in [known for known in _weighers if known.__flags__ & _MADE_AT_RUN_TIME]:
            del _weighers[old]
    weigher = _weighers[kind] = _weigher_of(kind)
    return weigher


_MADE_AT_RUN_TIME = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def _weigher_of(kind: type) -> Weigher:
    if is_alive(kind):
        return _nothing
    if hasattr(kind, "__dask_graph__"):  # xarray's are lazy, or not; Dask's own always
        return _nothing if kind.__module__.startswith("dask") else _lazy
    if hasattr(kind, "nbytes"):  # arrays of NumPy, torch, Arrow, xarray; memoryview; Series of pandas
        return _nbytes
    for base, weigher in ((str, _length), (bytes, _length), (bytearray, _length), (dict, _mapping)):
        if issubclass(kind, base):
            return weigher
    if issubclass(kind, (list, tuple, set, frozenset)):
        return _items
    if kind.__name__ in ("DataFrame", "LazyFrame") and hasattr(kind, "shape"):
        return _frame
    if any(f"{base.__module__}.{base.__name__}" == "torch.nn.modules.module.Module" for base in kind.__mro__):
        return _module
    if kind.__dictoffset__ or any(_slots(kind)):
        return _attributes
    return _sized  # of C, such as array.array


def is_alive(kind: type) -> bool:
    """Whether instances of a type do something instead of being data: they travel as they are."""
    if issubclass(kind, (type, ModuleType, BaseException)) or kind in _FUNCTIONS:
        return True
    return kind.__module__.partition(".")[0] == "proxyfab" or any(hasattr(kind, name) for name in _ALIVE)


_FUNCTIONS = frozenset((BuiltinFunctionType, FunctionType, MethodType))
