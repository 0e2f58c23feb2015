"""The table: how each operator of a resolved proxy reaches its target. Plain functions, one line each.

Each line spells the operation rather than the method, so that Python's own rules (reflection, subclasses, fallbacks)
decide on the target exactly as they would without a proxy. A class gets only the lines that its target's type has;
`kind.OPERATORS` names the bits, and says which operators are left out.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable
from typing import Any

from proxyfab.proxy.kind import Kind, kind_of_type
from proxyfab.proxy.layout import target_of
from proxyfab.proxy.waking import resolve

Operator = Callable[..., Any]
in_place: Any = operator  # typeshed leaves iadd and its like untyped


def _kept(proxy: Any, target: Any, result: Any) -> Any:
    """An in-place operation keeps the proxy when it kept the target."""
    return proxy if result is target else result


def _special(target: Any, name: str) -> Any:
    """A method as the interpreter looks it up: on the type, and a TypeError where that has none."""
    cls = type(target)
    found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    if found is None:
        raise TypeError(f"{cls.__name__!r} object has no method {name}")
    bind = getattr(type(found), "__get__", None)
    return found if bind is None else bind(found, target, cls)


def _in_math(proxy: Any, name: str) -> Any:
    import math  # loading it takes half a millisecond, and whoever asks has done that

    return getattr(math, name)(target_of(proxy))


def iter_of(proxy: Any) -> Any:
    """`iter(p)` where the target walks over other iterators: it may find this proxy among them, and itself behind it.

    Then only the proxy knows how deep this goes; nothing of the target's own counts that.
    """
    target = target_of(proxy)
    found = iter(target)
    cls: Any = type(target)
    return proxy if found is target and walks_iterators(kind_of_type(cls)) else found


def walks_iterators(kind: Kind) -> bool:
    """Whether these are iterators of C over other iterators."""
    return kind.name in _WALKERS or kind.name.startswith("itertools:")


_WALKERS = frozenset(("builtins:map", "builtins:filter", "builtins:zip", "builtins:enumerate"))

TABLE: dict[str, Operator] = {
    "__hash__": lambda p: hash(target_of(p)),
    "__bool__": lambda p: not not target_of(p),  # noqa: SIM208  # a call less than bool()
    "__call__": lambda p, /, *args, **kwargs: target_of(p)(*args, **kwargs),
    "__len__": lambda p: len(target_of(p)),
    "__length_hint__": lambda p: operator.length_hint(target_of(p)),
    "__getitem__": lambda p, i: target_of(p)[i],
    "__setitem__": lambda p, i, value: operator.setitem(target_of(p), i, value),
    "__delitem__": lambda p, i: operator.delitem(target_of(p), i),
    "__contains__": lambda p, x: x in target_of(p),
    "__iter__": lambda p: iter(target_of(p)),
    "__next__": lambda p: next(target_of(p)),
    "__reversed__": lambda p: reversed(target_of(p)),
    "__add__": lambda p, x: target_of(p) + x,
    "__radd__": lambda p, x: x + target_of(p),
    "__iadd__": lambda p, x: _kept(p, t := target_of(p), in_place.iadd(t, resolve(x))),
    "__sub__": lambda p, x: target_of(p) - x,
    "__rsub__": lambda p, x: x - target_of(p),
    "__isub__": lambda p, x: _kept(p, t := target_of(p), in_place.isub(t, resolve(x))),
    "__mul__": lambda p, x: target_of(p) * x,
    "__rmul__": lambda p, x: x * target_of(p),
    "__imul__": lambda p, x: _kept(p, t := target_of(p), in_place.imul(t, resolve(x))),
    "__matmul__": lambda p, x: target_of(p) @ x,
    "__rmatmul__": lambda p, x: x @ target_of(p),
    "__imatmul__": lambda p, x: _kept(p, t := target_of(p), in_place.imatmul(t, resolve(x))),
    "__truediv__": lambda p, x: target_of(p) / x,
    "__rtruediv__": lambda p, x: x / target_of(p),
    "__itruediv__": lambda p, x: _kept(p, t := target_of(p), in_place.itruediv(t, resolve(x))),
    "__floordiv__": lambda p, x: target_of(p) // x,
    "__rfloordiv__": lambda p, x: x // target_of(p),
    "__ifloordiv__": lambda p, x: _kept(p, t := target_of(p), in_place.ifloordiv(t, resolve(x))),
    "__mod__": lambda p, x: target_of(p) % x,
    "__rmod__": lambda p, x: x % target_of(p),
    "__imod__": lambda p, x: _kept(p, t := target_of(p), in_place.imod(t, resolve(x))),
    "__divmod__": lambda p, x: divmod(target_of(p), x),
    "__rdivmod__": lambda p, x: divmod(x, target_of(p)),
    "__pow__": lambda p, x, mod=None: target_of(p) ** x if mod is None else pow(target_of(p), x, mod),
    "__rpow__": lambda p, x, mod=None: x ** target_of(p) if mod is None else pow(x, target_of(p), mod),
    "__ipow__": lambda p, x: _kept(p, t := target_of(p), in_place.ipow(t, resolve(x))),
    "__lshift__": lambda p, x: target_of(p) << x,
    "__rlshift__": lambda p, x: x << target_of(p),
    "__ilshift__": lambda p, x: _kept(p, t := target_of(p), in_place.ilshift(t, resolve(x))),
    "__rshift__": lambda p, x: target_of(p) >> x,
    "__rrshift__": lambda p, x: x >> target_of(p),
    "__irshift__": lambda p, x: _kept(p, t := target_of(p), in_place.irshift(t, resolve(x))),
    "__and__": lambda p, x: target_of(p) & x,
    "__rand__": lambda p, x: x & target_of(p),
    "__iand__": lambda p, x: _kept(p, t := target_of(p), in_place.iand(t, resolve(x))),
    "__or__": lambda p, x: target_of(p) | x,
    "__ror__": lambda p, x: x | target_of(p),
    "__ior__": lambda p, x: _kept(p, t := target_of(p), in_place.ior(t, resolve(x))),
    "__xor__": lambda p, x: target_of(p) ^ x,
    "__rxor__": lambda p, x: x ^ target_of(p),
    "__ixor__": lambda p, x: _kept(p, t := target_of(p), in_place.ixor(t, resolve(x))),
    "__neg__": lambda p: -target_of(p),
    "__pos__": lambda p: +target_of(p),
    "__abs__": lambda p: abs(target_of(p)),
    "__invert__": lambda p: ~target_of(p),
    "__int__": lambda p: int(target_of(p)),
    "__float__": lambda p: float(target_of(p)),
    "__complex__": lambda p: complex(target_of(p)),
    "__index__": lambda p: operator.index(target_of(p)),
    "__round__": lambda p, *digits: round(target_of(p), *digits),
    "__trunc__": lambda p: _in_math(p, "trunc"),
    "__floor__": lambda p: _in_math(p, "floor"),
    "__ceil__": lambda p: _in_math(p, "ceil"),
    "__bytes__": lambda p: bytes(target_of(p)),
    "__fspath__": lambda p: os.fspath(target_of(p)),
    "__enter__": lambda p: _special(target_of(p), "__enter__")(),
    "__exit__": lambda p, *error: _special(target_of(p), "__exit__")(*error),
    "__await__": lambda p: _special(target_of(p), "__await__")(),
    "__aiter__": lambda p: aiter(target_of(p)),
    "__anext__": lambda p: _special(target_of(p), "__anext__")(),
    "__aenter__": lambda p: _special(target_of(p), "__aenter__")(),
    "__aexit__": lambda p, *error: _special(target_of(p), "__aexit__")(*error),
    "__get__": lambda p, obj, cls=None: _special(target_of(p), "__get__")(obj, cls),
    "__set__": lambda p, obj, value: _special(target_of(p), "__set__")(obj, value),
    "__delete__": lambda p, obj: _special(target_of(p), "__delete__")(obj),
    "__instancecheck__": lambda p, x: isinstance(x, target_of(p)),
    "__subclasscheck__": lambda p, x: issubclass(x, target_of(p)),
    "__buffer__": lambda p, _: memoryview(target_of(p)),
}
"""Operators that a type may have."""

ALWAYS: dict[str, Operator] = {
    "__eq__": lambda p, x: target_of(p) == x,
    "__ne__": lambda p, x: target_of(p) != x,
    "__lt__": lambda p, x: target_of(p) < x,
    "__le__": lambda p, x: target_of(p) <= x,
    "__gt__": lambda p, x: target_of(p) > x,
    "__ge__": lambda p, x: target_of(p) >= x,
    "__str__": lambda p: str(target_of(p)),
    "__repr__": lambda p: repr(target_of(p)),
    "__format__": lambda p, spec: format(target_of(p), spec),
    "__dir__": lambda p: dir(target_of(p)),
    "__sizeof__": lambda p: sys.getsizeof(target_of(p)),
    "__setattr__": lambda p, name, value: setattr(target_of(p), name, value),
    "__delattr__": lambda p, name: delattr(target_of(p), name),
}
"""Operators that every object has."""

for _name, _function in (*TABLE.items(), *ALWAYS.items()):
    _function.__name__ = _function.__qualname__ = _name  # for tracebacks
