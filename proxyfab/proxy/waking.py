"""Resolving: how an unresolved proxy fetches its target, and what it answers without fetching.

Rules:
1. Threads that touch one proxy share one fetch; no lock is held meanwhile; a failure is forgotten at once.
2. The announced type decides about names with two underscores at both ends: what the type does not have is an
   AttributeError without a fetch; what is an operator or a method of it is bound and fetches when it is called.
3. Every other name fetches.
4. An error of the fetch never looks like an answer: AttributeError, IndexError and the ends of iterations, which Python
   takes for "no such name" and "no more", come out as ProxyfabError.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from types import MethodType, ModuleType
from typing import Any

from proxyfab.errors import ProxyfabError
from proxyfab.flight import SingleFlight
from proxyfab.proxy.kind import OPERATORS, find_type
from proxyfab.proxy.layout import STRUCTS, factory_of, says_too_little, settle, target_of, traits

_flights: SingleFlight[Any] = SingleFlight("the target of this proxy")
_once = _flights.do
_MISLEADING = (AttributeError, IndexError, StopIteration, StopAsyncIteration)
# Names that an instance can carry though its type does not.
_INSTANCE_NAMES = frozenset(("__wrapped__", "__name__", "__qualname__"))
_MISSING = object()

class_for: list[Callable[[type], type]] = []
"""Filled by `classes`, which stands above: the class of a resolved proxy of a type."""


def resolve(proxy: Any, timeout: float | None = None) -> Any:
    """The target of a proxy, fetched if it is not here; anything else as it is.

    Thread-safe: threads that resolve one proxy at once share one fetch.

    Args:
        proxy: A proxy or any object.
        timeout: Seconds to wait. It bounds the wait for another thread's fetch, and the fetch itself where the factory
            has a method `resolve(timeout=...)`.

    Raises:
        ResolveTimeout: The target did not come in time.
        ProxyfabError: It could not be fetched. The next use tries again.
    """
    known = traits.get(type(proxy))
    if known is None:
        return proxy
    if known.resolved:
        return target_of(proxy)
    return _once(id(proxy), _fetch, timeout, proxy, None if timeout is None else monotonic() + timeout)


def _fetch(proxy: Any, deadline: float | None) -> Any:
    if traits[type(proxy)].resolved:  # by a flight that landed while this thread took off
        return target_of(proxy)
    factory = factory_of(proxy)
    try:
        target = factory() if deadline is None else _timed(factory)(timeout=_left(deadline))
        if type(target) in traits:
            target = resolve(target, None if deadline is None else _left(deadline))
    except _MISLEADING as error:
        raise ProxyfabError(f"Resolving {text(proxy)} failed: {type(error).__name__}: {error}") from error
    settle(proxy, target, class_for[0](type(target)))
    return target


def _left(deadline: float) -> float:
    return max(deadline - monotonic(), 0.0)


def _timed(factory: Callable[[], Any]) -> Callable[..., Any]:
    hook: Callable[..., Any] | None = getattr(factory, "resolve", None)
    return hook if hook is not None else lambda **_: factory()


def text(proxy: Any) -> str:
    """`repr` of an unresolved proxy."""
    name = traits[type(proxy)].kind.name.removeprefix("builtins:").replace(":", ".")
    return f"<Proxy[{name or '?'}] of {factory_of(proxy)!r}, not resolved>"


def waking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The operator of an unresolved proxy: resolve, then do as the resolved one does."""

    def wake(proxy: Any, /, *args: Any) -> Any:
        _once(id(proxy), _fetch, None, proxy, None)  # what `resolve` does with an unresolved one
        return function(proxy, *args)

    wake.__name__ = wake.__qualname__ = function.__name__
    return wake


def waking_call(proxy: Any, /, *args: Any, **kwargs: Any) -> Any:
    """`p(...)` on an unresolved proxy."""
    return resolve(proxy)(*args, **kwargs)


def set_attribute(proxy: Any, name: str, value: Any) -> None:
    """`p.name = value` on an unresolved proxy."""
    if name == "__orig_class__":  # typing sets it on what Proxy[int](factory) returns, and takes this for a no
        raise AttributeError(name)
    setattr(resolve(proxy), name, value)


def names(proxy: Any) -> list[str]:
    """`dir(p)` of an unresolved proxy: its type's names, without a fetch."""
    return dir(_announced(proxy) or object)


def attribute(proxy: Any, name: str) -> Any:
    """`p.name` on an unresolved proxy."""
    if name[:2] == "__" == name[-2:]:
        return _probed(proxy, name)
    return _fetched(proxy, name)


def _fetched(proxy: Any, name: str) -> Any:
    resolve(proxy)
    return getattr(proxy, name)


def missing(proxy: Any, name: str) -> Any:
    """`p.name` on a resolved proxy whose target has no such name."""
    own = traits[type(proxy)].own.get(name)
    if own is not None:
        return MethodType(own, proxy) if name != "__signature__" else own(proxy)
    if name in STRUCTS and says_too_little(target_of(proxy)):
        raise AttributeError(name)
    return getattr(target_of(proxy), name)  # asked again: it raises the target's own error


def _announced(proxy: Any) -> type | None:
    try:
        return find_type(traits[type(proxy)].kind.name)
    except (ImportError, LookupError):
        return None


def _probed(proxy: Any, name: str) -> Any:
    """Answers for names like `__len__` and `__dask_graph__`, if possible without a fetch."""
    known = traits[type(proxy)]
    if known.resolved:
        return getattr(proxy, name)
    if name == "__signature__" and name in known.own:
        return _fetched(proxy, name)
    if name in known.own:
        return MethodType(known.own[name], proxy)
    try:
        cls = find_type(known.kind.name)
    except ImportError:
        return _unimportable(proxy, name)
    except LookupError:
        return _unfindable(proxy, name)
    if name == "__class__":
        return cls
    return _by_type(proxy, name, cls)


def _unimportable(proxy: Any, name: str) -> Any:
    if name == "__class__":
        return type(proxy)
    if name in _INSTANCE_NAMES:
        return _fetched(proxy, name)
    if name in type(proxy).__dict__:
        return _bound(proxy, name)
    if callable(vars(object).get(name)):
        return partial(_invoke, proxy, name)
    raise _absent(proxy, name)


def _unfindable(proxy: Any, name: str) -> Any:
    if name.startswith("__dask_"):
        raise _absent(proxy, name)
    if name in OPERATORS and name in type(proxy).__dict__:
        return _bound(proxy, name)
    return _fetched(proxy, name)


def _bound(proxy: Any, name: str) -> Any:
    found = type(proxy).__dict__[name]
    return MethodType(found, proxy) if callable(found) else found


def _by_type(proxy: Any, name: str, cls: type) -> Any:
    raw = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), _MISSING)
    if raw is _MISSING:
        if name.startswith("__dask_"):
            raise _absent(proxy, name)
        if issubclass(cls, (type, ModuleType)) or (name in _INSTANCE_NAMES and cls.__dictoffset__):
            return _fetched(proxy, name)
        raise _absent(proxy, name)
    if raw is None or name == "__new__" or isinstance(raw, (classmethod, staticmethod)):
        return getattr(cls, name)
    if callable(raw) and hasattr(type(raw), "__get__"):
        return partial(_invoke, proxy, name)
    if hasattr(type(raw), "__get__") or "__call__" in type(proxy).__dict__:
        return _fetched(proxy, name)  # computed, or what functools.wraps may have copied to the instance
    return raw


def _invoke(proxy: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    return _fetched(proxy, name)(*args, **kwargs)


def _absent(proxy: Any, name: str) -> AttributeError:
    kind = traits[type(proxy)].kind.name.partition(":")[2]
    return AttributeError(f"{kind!r} object has no attribute {name!r}")
