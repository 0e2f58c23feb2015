"""NumPy's and torch's own protocols: calls that list proxies among their arguments are made again with the targets.

Neither library is imported here: whoever calls these functions has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from proxyfab.proxy.layout import traits
from proxyfab.proxy.waking import resolve


def bare(value: Any) -> Any:
    """`value` with every proxy replaced by its target, also inside plain tuples, lists and dicts."""
    cls = type(value)
    if cls in traits:
        return resolve(value)
    if cls is tuple or cls is list:
        items = [bare(item) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else cls(items)
    if cls is dict:
        return {key: bare(item) for key, item in value.items()}
    return value


def array_ufunc(_: Any, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """`__array_ufunc__` (NEP 13)."""
    targets = [resolve(x) if type(x) in traits else x for x in inputs]
    call = ufunc if method == "__call__" else getattr(ufunc, method)
    return call(*targets, **{name: bare(value) for name, value in options.items()}) if options else call(*targets)


def array_function(
    _: Any, function: Callable[..., Any], _types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`__array_function__` (NEP 18)."""
    return function(*bare(args), **bare(kwargs))


def torch_function(
    _: Any,
    function: Callable[..., Any],
    _types: Any,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> Any:
    """`__torch_function__`."""
    return function(*bare(args), **bare(kwargs or {}))


def array(proxy: Any, dtype: Any = None, copy: bool | None = None) -> Any:
    """`__array__` for targets without one (numbers, text): else NumPy would see an object or a sequence."""
    numpy: Any = sys.modules["numpy"]  # it is NumPy that asks
    found = numpy.asarray(resolve(proxy), dtype=dtype)
    return found.copy() if copy else found
