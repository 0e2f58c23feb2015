"""NumPy's and torch's own protocols: calls that list proxies among their arguments are made again with the targets.

Neither library is imported here: whoever calls these functions has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import is_not
from typing import Any

from proxyfab.proxy.layout import traits
from proxyfab.proxy.waking import resolve

_NESTS = frozenset((tuple, list, dict))


def bare(value: Any) -> Any:
    """`value` with every proxy replaced by its target, also inside plain tuples, lists and dicts."""
    cls = type(value)
    if cls in traits:
        return resolve(value)
    if cls is dict:
        return _bare_options(value)
    if cls in _NESTS:
        items = _bare_items(value)
        return cls(items) if any(map(is_not, items, value)) else value
    return value


def _bare_items(values: Any) -> list[Any]:
    return [
        resolve(x) if type(x) in traits else bare(x) if type(x) in _NESTS else x for x in values
    ]  # spelt out: the common case must not pay a call per argument


def _bare_options(options: dict[Any, Any]) -> dict[Any, Any]:
    return {name: bare(value) for name, value in options.items()} if options else options


def array_ufunc(_: Any, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """`__array_ufunc__` (NEP 13)."""
    call = ufunc if method == "__call__" else getattr(ufunc, method)
    return call(*_bare_items(inputs), **_bare_options(options))


def array_function(
    _: Any, function: Callable[..., Any], _types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`__array_function__` (NEP 18)."""
    return function(*_bare_items(args), **_bare_options(kwargs))


def torch_function(
    _: Any,
    function: Callable[..., Any],
    _types: Any,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> Any:
    """`__torch_function__`: torch looks for it on the type, and by that alone knows a proxy from a tensor in C."""
    return function(*_bare_items(args), **_bare_options(kwargs or {}))


def array(proxy: Any, dtype: Any = None, copy: bool | None = None) -> Any:
    """`__array__` for targets without one (numbers, text): else NumPy would see an object or a sequence."""
    numpy: Any = sys.modules["numpy"]  # it is NumPy that asks
    found = numpy.asarray(resolve(proxy), dtype=dtype)
    return found.copy() if copy else found
