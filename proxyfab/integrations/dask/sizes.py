"""How large an object is as Dask would send it, by its type where that tells, and otherwise by pickling it.

Promises: microseconds for what a small task has as arguments; a large buffer is never copied to be measured. An object
that would take something of Dask's with it, a future or a collection, is known as such and has no size: Dask must see
it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from math import prod
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from dask._task_spec import GraphNode, TaskRef
from dask.base import is_dask_collection

from proxyfab.integrations.dask.guesses import LENGTHS, NUMBERS, PLAINLY, in_table, is_record, together
from proxyfab.proxy import is_proxy

NOT_ALONE = -1
"""In place of a size: of what must stay where Dask finds it."""

_BY_NAME = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
_TELLING = frozenset(("numpy", "pyarrow", "torch", "xarray"))
"""Packages whose objects know their bytes, all of them."""
_TABLES = ("DataFrame", "Series")
_CELL = 8
_UNSURE = 16
"""A table of text is larger than its cells by at most so much, mostly."""


def size_of(obj: Any, above: int) -> int:
    """Bytes of a leaf: from `above` on almost exact, below that whatever is cheap; or NOT_ALONE.

    Args:
        obj: No list, tuple or dict.
        above: From where on it matters.
    """
    kind = type(obj)
    if kind in NUMBERS:
        return NUMBERS[kind]
    if kind in LENGTHS:
        return len(obj)
    measure = _measures.get(kind)
    if measure is None:
        measure = _measures[kind] = _measure_of(kind, obj)
    return measure(obj, above)


def weight_of(func: Any, above: int) -> int:
    """Bytes that hang on what is to be called: on a method its object, on a function what it took from around it.

    Of a function only bytes, text and arrays are counted: most of them have nothing, and few anything else that counts.
    """
    kind = type(func)
    if kind is FunctionType:
        around = (*[_content(cell) for cell in func.__closure__ or ()], *(func.__defaults__ or ()))
        return sum([size_of(each, above) for each in around if _is_telling(type(each))])
    if kind is MethodType:
        return size_of(func.__self__, above)
    return 0 if issubclass(kind, _BY_NAME) else size_of(func, above)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_telling(kind: type) -> bool:
    return kind in LENGTHS or kind.__module__.partition(".")[0] in ("numpy", "pandas")


_measures: dict[type, Callable[[Any, int], int]] = {}


def _measure_of(kind: type, obj: Any) -> Callable[[Any, int], int]:
    root = kind.__module__.partition(".")[0]
    if is_proxy(obj) or _is_dasks(obj):
        return lambda *_: NOT_ALONE
    if hasattr(kind, "__dask_graph__"):
        return lambda obj, above: NOT_ALONE if is_dask_collection(obj) else _pickled(obj, above)
    if issubclass(kind, _BY_NAME):
        return lambda *_: 0
    if kind.__name__ == "ndarray" and root == "numpy":
        return lambda obj, above: obj.nbytes if not obj.dtype.hasobject else _pickled(obj, above)
    if root == "pandas" and isinstance(getattr(kind, "size", None), property):
        return _table
    if root in _TELLING and isinstance(getattr(obj, "nbytes", None), int):
        return lambda obj, _: int(obj.nbytes)
    return _record if is_record(kind) else _pickled


def _record(obj: Any, above: int) -> int:
    """Of a user's class. Pickling it takes longer than looking at it."""
    least = together((obj,))
    return _pickled(obj, above) if least is None or least >= above // PLAINLY else least


def _table(obj: Any, above: int) -> int:
    """Of pandas. Its cells are counted; pickling even a small one takes 100 us."""
    least: int = prod(obj.shape) * _CELL
    if least < above // _UNSURE:
        return least
    known = in_table(obj) if type(obj).__name__ in _TABLES else None
    return _pickled(obj, above) if known is None else known


def _pickled(obj: Any, above: int) -> int:
    buffers: list[pickle.PickleBuffer] = []
    try:
        stream = pickle.dumps(obj, 5, buffer_callback=buffers.append)
        total = len(stream) + sum([buffer.raw().nbytes for buffer in buffers])
    except Exception:  # noqa: BLE001 - of a local class, or one that cannot be pickled, which Dask says better
        total = _attributes(obj, above)
    return NOT_ALONE if total >= above and hides(obj) else total


def _attributes(obj: Any, above: int) -> int:
    """What can be seen of an object that only cloudpickle takes."""
    return sum([size_of(each, above) for each in getattr(obj, "__dict__", {}).values() if _is_telling(type(each))])


class _FoundError(Exception):
    """Ends a search."""


class _Search(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind not in (FunctionType, type) and size_is_not_alone(obj):
            raise _FoundError
        return NotImplemented


def size_is_not_alone(obj: Any) -> bool:
    """Whether Dask must see this very object."""
    return _is_dasks(obj) or (hasattr(type(obj), "__dask_graph__") and is_dask_collection(obj))


def _is_dasks(obj: Any) -> bool:
    return isinstance(obj, (GraphNode, TaskRef)) or getattr(type(obj), "__dask_future__", False)


def hides(obj: object) -> bool:
    """Whether something of Dask's is anywhere inside."""
    import cloudpickle

    class ByValue(_Search, cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        """Also in functions and classes."""

        def reducer_override(self, obj: Any) -> Any:
            found = _Search.reducer_override(self, obj)
            return cloudpickle.Pickler.reducer_override(self, obj) if found is NotImplemented else found

    for search in (_Search, ByValue):
        try:
            search(io.BytesIO(), 5, buffer_callback=lambda _: False).dump(obj)
        except _FoundError:
            return True
        except Exception:  # noqa: BLE001 - as in `_pickled`
            continue
        return False
    return True
