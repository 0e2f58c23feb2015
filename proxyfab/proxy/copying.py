"""How a proxy becomes something else: its target, a copy of it, a JSON value, a name, a signature, a base class.

Rule: copies are real. They have the target's type and share with it only what a copy of the target shares with it.
"""

from __future__ import annotations

import copy
import sys
from typing import Any, TypeVar

from proxyfab.proxy.layout import factory_of, traits
from proxyfab.proxy.waking import resolve

T = TypeVar("T")


def unwrap(proxy: T, writable: bool = False) -> T:
    """The target itself, fetched if need be; anything that is no proxy as it is.

    Args:
        proxy: A proxy or any object.
        writable: Return a private deep copy. Its arrays can be written to (those of a mapped store cannot) and keep
            their memory order; a memoryview becomes one of fresh memory.

    Raises:
        ProxyfabError: The target could not be fetched.
    """
    target = resolve(proxy)
    return _writable(target) if writable else target  # type: ignore[no-any-return]  # a proxy of T is typed as T


def _writable(target: Any) -> Any:
    if type(target) is memoryview:
        return memoryview(bytearray(target)).cast("B").cast(target.format, target.shape)  # type: ignore[call-overload]
    return copy.deepcopy(target)


def json_default(obj: Any) -> Any:
    """For `json.dumps(..., default=json_default)`: a proxy is written as its target.

    Raises:
        TypeError: `obj` is no proxy: JSON has no form for it.
    """
    if type(obj) in traits:
        return resolve(obj)
    raise TypeError(f"Object of type {type(obj).__name__} is not JSON serializable")


def shallow(proxy: Any) -> Any:
    """`copy.copy`."""
    hook = getattr(factory_of(proxy), "copy_proxy", None)
    return copy.copy(resolve(proxy)) if hook is None else hook()


def deep(proxy: Any, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy`."""
    hook = getattr(factory_of(proxy), "deepcopy_proxy", None)
    return copy.deepcopy(resolve(proxy), memo) if hook is None else hook(memo)


dispatch: dict[type, Any] = copy._deepcopy_dispatch  # type: ignore[attr-defined]  # no public table
"""Looked into before `__deepcopy__`, which a resolved proxy would answer with its target's."""


def dask_token(proxy: Any) -> tuple[str, Any]:
    """`__dask_tokenize__`: a proxy is named by where its target comes from, so that naming it never fetches."""
    dask: Any = sys.modules["dask.base"]  # it is Dask that asks
    return "proxyfab.Proxy", dask.normalize_token(factory_of(proxy))


def signature(proxy: Any) -> Any:
    """`__signature__`: `inspect` would otherwise look at the proxy's class."""
    import inspect  # costs 10 ms; whoever asks has imported it

    try:
        return inspect.signature(resolve(proxy))
    except ValueError as error:
        raise AttributeError("__signature__") from error


def mro_entries(proxy: Any, _bases: tuple[Any, ...]) -> tuple[type]:
    """`class Sub(proxy_of_a_class)`."""
    return (resolve(proxy),)
