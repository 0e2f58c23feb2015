"""What every proxy is made of: three slots and a weak reference, read only through descriptors captured here.

With the C core the same names lead to its own layout (`_core.h`), and Body and the descriptors are not used.

Rules:
1. `target` and `getter` are unset while the target is not here; `factory` is always set.
2. They are set together, target first, and the class changes last: whoever sees the resolved class sees both.
3. Nothing but these descriptors touches a slot: names looked up on a proxy belong to its target. A proxy is born as a
   Seed, whose names are its own, because an assignment to it is the quickest way to its slot.

Why so: a slot descriptor is a C function. `__getattribute__ = getter slot` lets the interpreter fetch the slot's value,
a bound `getattr`, and call it without a Python frame; `__call__ = target slot` lets it call the target itself.
`benchmarks/bench_proxy.py` has the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxyfab.proxy.core import compiled
from proxyfab.proxy.kind import Kind


class Body:
    """The layout that all proxy classes share, so that an object may change from one to another."""

    __slots__ = ("__weakref__", "factory", "getter", "target")


target_slot = Body.__dict__["target"]
getter_slot = Body.__dict__["getter"]
factory_slot = Body.__dict__["factory"]
for _name in ("target", "getter", "factory"):
    delattr(Body, _name)

target_of: Callable[[Any], Any] = target_slot.__get__
"""The target of a resolved proxy; AttributeError on an unresolved one."""
factory_of: Callable[[Any], Callable[[], Any]] = factory_slot.__get__
set_target: Callable[[Any, Any], None] = target_slot.__set__
set_getter: Callable[[Any, Callable[..., Any]], None] = getter_slot.__set__
set_class: Callable[[Any, type], None] = object.__dict__["__class__"].__set__


class Seed(Body):
    """A proxy until it has its factory and its class."""

    __slots__ = ()

    factory: Any = factory_slot


class Traits:
    """What is known of a proxy class: the kind it stands for, and the names it answers where its target does not."""

    __slots__ = ("kind", "own", "resolved", "text")

    def __init__(self, kind: Kind, own: dict[str, Callable[..., Any]], resolved: bool) -> None:
        self.kind = kind
        self.own = own
        self.resolved = resolved
        self.text = kind.text


traits: dict[type, Traits] = {}
"""Every proxy class there is. `type(x) in traits` asks, without touching `x`, whether it is a proxy."""


def lookup_in(target: Any) -> Callable[..., Any]:
    """What looks a name up on a target whose type `has_structs`."""
    return _without_structs if says_too_little(target) else getattr


def lose(proxy: Any, lazy_class: type) -> None:
    """Take the target out of its proxy: the class first, so that whoever looks fetches."""
    set_class(proxy, lazy_class)
    getter_slot.__delete__(proxy)
    target_slot.__delete__(proxy)


STRUCTS = frozenset(("__array_struct__", "__array_interface__"))
_TOLD = frozenset("biufcSUO")


def says_too_little(target: Any) -> bool:
    """Whether a NumPy object's STRUCTS do not tell its type: the unit of dates and the fields of records are lost.

    NumPy asks strangers for them first and for `__array__`, which tells everything, last.
    """
    kind = getattr(getattr(target, "dtype", None), "kind", None)
    return kind is not None and kind not in _TOLD


def has_structs(cls: type) -> bool:
    """Whether instances of a class have STRUCTS. Remember the answer: a missing name takes long to be found missing."""
    return any("__array_struct__" in vars(base) for base in cls.__mro__)  # a metaclass may raise what it likes


def _without_structs(target: Any, name: str) -> Any:
    if name in STRUCTS:
        raise AttributeError(name)
    return getattr(target, name)


def is_proxy(obj: object) -> bool:
    """Whether `obj` is a proxy, resolved or not. Never fetches."""
    return type(obj) in traits


def is_resolved(proxy: object) -> bool:
    """Whether the target is here; True for anything that is no proxy. Never fetches."""
    known = traits.get(type(proxy))
    return known is None or known.resolved


if not TYPE_CHECKING and compiled is not None:
    Body, target_of, factory_of = compiled.Body, compiled.target_of, compiled.factory_of
    is_proxy, is_resolved = compiled.is_proxy, compiled.is_resolved
