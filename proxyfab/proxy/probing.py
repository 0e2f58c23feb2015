"""What an unresolved proxy answers, if possible without a fetch, and which names a resolved one has of its own.

Rules:
1. The announced type decides about names with two underscores at both ends: what the type does not have is an
   AttributeError without a fetch; what is an operator or a method of it is bound and fetches when it is called.
2. Every other name fetches.
"""

from __future__ import annotations

from functools import partial
from types import MethodType, ModuleType
from typing import Any

from proxyfab.proxy.kind import OPERATORS, find_type
from proxyfab.proxy.layout import STRUCTS, has_structs, is_resolved, says_too_little, target_of, traits
from proxyfab.proxy.waking import resolve

# Names that an instance can carry though its type does not.
_INSTANCE_NAMES = frozenset(("__wrapped__", "__name__", "__qualname__"))
_MISSING = object()


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
        return probed(proxy, name)
    return _fetched(proxy, name)


def _fetched(proxy: Any, name: str) -> Any:
    resolve(proxy)
    return getattr(proxy, name)


def missing(proxy: Any, name: str) -> Any:
    """`p.name` on a resolved proxy whose target has no such name."""
    own = traits[type(proxy)].own.get(name)
    if own is not None:
        return MethodType(own, proxy) if name != "__signature__" else own(proxy)
    if name in STRUCTS and has_structs(type(target_of(proxy))) and says_too_little(target_of(proxy)):
        raise AttributeError(name)
    return getattr(target_of(proxy), name)  # asked again: it raises the target's own error


def _announced(proxy: Any) -> type | None:
    try:
        return find_type(traits[type(proxy)].kind.name)
    except (ImportError, LookupError):
        return None


def probed(proxy: Any, name: str) -> Any:
    """Answers for names like `__len__` and `__dask_graph__`, if possible without a fetch."""
    known = traits[type(proxy)]
    if is_resolved(proxy):
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
    if name in (slots := type(proxy).__dict__):  # once: another thread may resolve it, and change its class
        return _bound(proxy, name, slots[name])
    if callable(vars(object).get(name)):
        return partial(_invoke, proxy, name)
    raise _absent(proxy, name)


def _unfindable(proxy: Any, name: str) -> Any:
    if name.startswith("__dask_"):
        raise _absent(proxy, name)
    if name in OPERATORS and name in (slots := type(proxy).__dict__):  # as above
        return _bound(proxy, name, slots[name])
    return _fetched(proxy, name)


def _bound(proxy: Any, name: str, found: Any) -> Any:
    return partial(_invoke, proxy, name) if callable(found) else found


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
