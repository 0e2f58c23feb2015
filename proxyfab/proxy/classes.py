"""Proxy, and the classes of each kind: one with the C core; in Python two, for before and after resolving.

Rules:
1. A class has only the operators of its kind, so callable(), hasattr() and collections.abc tell the truth.
2. The classes of a kind follow from the kind alone: no type is imported to make them.
3. A proxy changes its class when it resolves, if need be; what really came decides to which.
"""

from __future__ import annotations

import copyreg
from abc import ABCMeta
from collections import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from proxyfab.proxy import arrays, connecting, copying, probing, waking
from proxyfab.proxy.core import compiled
from proxyfab.proxy.kind import DATACLASS_NAMES, OPERATORS, UNKNOWN, Kind, find_type, kind_of_type
from proxyfab.proxy.layout import (
    Body,
    Seed,
    Traits,
    factory_of,
    getter_slot,
    has_structs,
    lose,
    target_of,
    target_slot,
    traits,
)
from proxyfab.proxy.operators import ALWAYS, TABLE, iter_of, walks_iterators
from proxyfab.proxy.reflection import CAREFUL, CAREFUL_NUMBER

T = TypeVar("T")


class Proxy(Body, Generic[T]):
    """Pretends to be the object that `factory()` returns, and calls it when first used.

    `Proxy(factory)` knows nothing of its target and has every operator until it resolves; `make(factory, kind)` says
    what the target will be. Thread-safe, fork-safe, picklable if the factory is.

    Args:
        factory: Returns the target. Two optional methods: `resolve(timeout=...)`, called instead when there is a
            deadline, and `reduce_proxy(kind, resolved, target)`, which answers pickle with a reduce tuple; and two for
        copies that are not the target's, `copy_proxy()` and `deepcopy_proxy(memo)`.
    """

    __slots__ = ()

    def __new__(cls, factory: Callable[[], T]) -> Proxy[T]:
        if not callable(factory):
            raise TypeError(f"A proxy needs a callable that returns its target, not {factory!r}.")
        return make(factory, UNKNOWN)  # type: ignore[no-any-return]  # make returns what pretends to be a T


def make(factory: Callable[[], Any], kind: Kind | None = None) -> Any:
    """An unresolved proxy of what `factory()` will return, announced as `kind` (None: it may be anything)."""
    pair = _pairs.get(kind)  # type: ignore[arg-type]  # None is not there
    proxy: Any = Seed()
    proxy.factory = factory
    proxy.__class__ = (_pair(kind) if pair is None else pair)[0]
    return proxy


def _pair(kind: Kind | None) -> tuple[type, type]:
    if kind is None or not kind.name:
        kind = UNKNOWN
    return _pairs.get(kind) or _build(kind)


def unsettle(proxy: Any) -> None:
    """Make a resolved proxy an unresolved one: what it had is not its target any more, the factory has another.

    Nobody may be using it at that moment in another thread.
    """
    known = traits[type(proxy)]
    if known.resolved:
        lose(proxy, _pair(known.kind)[0])


def kind_of(obj: object) -> Kind:
    """The kind that a proxy of `obj` announces; of a proxy, what it announces or has. Never fetches."""
    cls: Any = type(obj)
    known = traits.get(cls)
    return kind_of_type(cls) if known is None else known.kind


def reduce(proxy: Any, _protocol: int = 2) -> tuple[Any, ...]:
    """What pickle does with a proxy: factory and kind travel, the target does not, or as the factory decides."""
    known = traits[type(proxy)]
    factory = factory_of(proxy)
    hook = getattr(factory, "reduce_proxy", None)
    if hook is not None:
        return hook(known.kind, known.resolved, target_of(proxy) if known.resolved else None)  # type: ignore[no-any-return]  # the hook's promise
    return _again, (factory, known.text)


def _again(factory: Any, text: str) -> Any:
    """The inverse of `reduce`, by name in every pickled proxy: it must keep its name and arguments."""
    cls = _texts.get(text)
    proxy: Any = Seed()
    proxy.factory = factory
    proxy.__class__ = _pair(Kind.parse(text))[0] if cls is None else cls
    return proxy


def rebuild(factory: Any, name: str = "", mask: int = UNKNOWN.mask) -> Any:
    """What `_again` was before, by name in older pickles."""
    return make(factory, Kind(name, mask))


if not TYPE_CHECKING and compiled is not None:
    make, unsettle, reduce, _of_text = compiled.make, compiled.unsettle, compiled.reduce, compiled.again

    def _again(factory: Any, text: str) -> Any:  # pickle writes a function of Python sooner than one of C
        return _of_text(factory, text)


_again.__module__ = "proxyfab"  # a package's part takes longer to be found, twice for each pickle
rebuild.__module__ = "proxyfab.proxy"
again = _again


def _arrived(target_type: type) -> tuple[type, bool]:
    """The class of a resolved proxy of a type, and whether such a target must be asked if it tells too little."""
    kind = kind_of_type(target_type)
    cls = _pair(kind)[1] if compiled is None else _build_compiled(kind)
    return cls, has_structs(target_type)


waking.arrived.append(_arrived)

_ARRAY_FLAGS = {"ufunc": "ufunc", "function": "array_function"}
_pairs: dict[Kind, tuple[type, type]] = {}
_texts: dict[str, type] = {}
_single: dict[Kind, type] = {}


class _Matched(metaclass=ABCMeta):  # noqa: B024  # there is nothing to implement: it only marks
    """What `match` takes for a sequence and nobody calls one: NumPy's arrays, from its 2.5 on."""

    __abc_tpflags__ = 1 << 5  # Py_TPFLAGS_SEQUENCE, which whoever is registered gets


_COLLECTIONS: dict[str, abc.Callable[[type], object]] = {
    "sequence": abc.Sequence.register,
    "mutable_sequence": abc.MutableSequence.register,
    "mapping": abc.Mapping.register,
    "mutable_mapping": abc.MutableMapping.register,
    "set": abc.Set.register,
    "mutable_set": abc.MutableSet.register,
    "sequence_pattern": _Matched.register,
}


def _build(kind: Kind) -> tuple[type, type]:
    operators = {name: TABLE[name] for name in OPERATORS if kind.has(name)}
    is_number = any(kind.has(name) for name in ("__float__", "__complex__", "__index__")) and not kind.has("__len__")
    reflected = CAREFUL_NUMBER if is_number else CAREFUL
    operators |= {name: reflected[name] for name in operators.keys() & reflected.keys()}
    own = _own_names(kind)
    shared = _shared(kind)
    if kind.has("ufunc"):
        shared["__array_ufunc__"] = arrays.array_ufunc
    if kind.has("array_function"):
        shared["__array_function__"] = arrays.array_function
    lazy = shared | {name: waking.waking(function) for name, function in (ALWAYS | operators).items()}
    lazy |= {
        "__getattribute__": probing.attribute,
        "__setattr__": probing.set_attribute,
        "__repr__": waking.text,
        "__dir__": probing.names,
    }
    if "__call__" in lazy:
        lazy["__call__"] = waking.waking_call
    del lazy["__sizeof__"]  # the size of the proxy itself while there is nothing else
    if lazy.get("__iter__") is not None:
        lazy["__iter__"] = waking.waking(iter_of)
    if walks_iterators(kind):
        operators["__iter__"] = iter_of
    here = shared | ALWAYS | operators | {"__getattribute__": getter_slot, "__getattr__": probing.missing}
    if "__call__" in here:
        here["__call__"] = target_slot
    if kind.has("torch"):
        lazy["__getattribute__"], here["__getattribute__"] = _torch_first(probing.attribute), _torch_first(_of_target)
        lazy["__torch_function__"] = here["__torch_function__"] = classmethod(arrays.torch_function)
    if not kind.has("__hash__"):
        lazy["__hash__"] = here["__hash__"] = None
    # setdefault: when two threads build one pair, both go on with the first.
    pair = _pairs.setdefault(kind, (_class(kind, lazy, own, False), _class(kind, here, own, True)))
    _texts[kind.text] = pair[0]
    return pair


def _class(kind: Kind, namespace: dict[str, Any], own: dict[str, Callable[..., Any]], resolved: bool) -> type:
    cls = type(_title(kind), (Proxy,), {"__slots__": (), "__module__": "proxyfab.proxy", **namespace})
    _introduce(cls, kind, own, resolved)
    return cls


def _title(kind: Kind) -> str:
    return f"Proxy[{kind.name.rpartition(':')[2] or '?'}]"


def _introduce(cls: type, kind: Kind, own: dict[str, Callable[..., Any]], resolved: bool) -> None:
    traits[cls] = Traits(kind, own, resolved)
    copyreg.pickle(cls, reduce)
    copying.dispatch[cls] = copying.deep
    for flag, register in _COLLECTIONS.items():
        if kind.has(flag):
            register(cls)


def _build_compiled(kind: Kind | str) -> type:
    """The one class that the C core has for a kind, or for its text."""
    if isinstance(kind, str):
        kind = Kind.parse(kind)
    if not kind.name:
        kind = UNKNOWN
    known = _single.get(kind)
    if known is not None:
        return known
    operators = {name for name in OPERATORS if kind.has(name)}
    operators |= {f"__array_{name}__" for name in ("ufunc", "function") if kind.has(_ARRAY_FLAGS[name])}
    cls: type = compiled.new_class(Proxy, operators, kind.has("torch"))
    names = _shared(kind) | {"__module__": "proxyfab.proxy", "__name__": _title(kind), "__qualname__": _title(kind)}
    if kind.has("torch"):
        names["__torch_function__"] = classmethod(arrays.torch_function)
    for name, value in names.items():
        setattr(cls, name, staticmethod(value) if name == "__new__" else value)
    own = _own_names(kind)
    _introduce(cls, kind, own, False)
    # When two threads build one class, both go on with the first.
    first: type = compiled.register(kind, cls, own, kind.text)
    return _single.setdefault(kind, first)


def _shared(kind: Kind) -> dict[str, Any]:
    """What both classes of a kind have beside its operators."""
    found: dict[str, Any] = {"__copy__": copying.shallow}
    if kind.name:
        found["__new__"] = _of_its_type(kind)
    if kind.has("dataclass"):
        found |= {name: _OfType(kind, name) for name in DATACLASS_NAMES}
    if kind.has("no_ufunc"):
        found["__array_ufunc__"] = None
    if kind.has("not_iterable"):
        found["__iter__"] = None
    if kind.has("mapping") and not kind.has("__reversed__"):
        found["__reversed__"] = None  # as mappings have it: else reversed() would count their items up
    return found


def _own_names(kind: Kind) -> dict[str, Callable[..., Any]]:
    """Names that a proxy answers itself while unresolved, and afterwards where its target has no such name."""
    own: dict[str, Callable[..., Any]] = {
        "__copy__": copying.shallow,
        "__deepcopy__": copying.deep,
        "__reduce__": reduce,
        "__reduce_ex__": reduce,
        "__dask_tokenize__": copying.dask_token,
    }
    if kind.has("class"):
        own["__mro_entries__"] = copying.mro_entries
    if kind.has("__call__"):
        own["__signature__"] = copying.signature
    if (kind.has("__float__") or kind.has("__complex__")) and not kind.has("array_function"):
        own["__array__"] = arrays.array
    return own


def _of_its_type(kind: Kind) -> Callable[..., Any]:
    """`type(p)(items)`, as in `dataclasses.asdict` or in Dask, makes one of the target's type."""

    def new(_: type, /, *args: Any, **kwargs: Any) -> Any:
        try:
            cls = find_type(kind.name)
        except (ImportError, LookupError) as error:
            raise TypeError(f"No {kind.name.replace(':', '.')} can be made from a proxy's class: {error}") from error
        return cls(*args, **kwargs)

    return new


class _OfType:
    """A class attribute that is read from the target's type when somebody asks."""

    def __init__(self, kind: Kind, name: str) -> None:
        self._kind = kind
        self._name = name

    def __get__(self, proxy: object, cls: type) -> Any:
        try:
            return getattr(find_type(self._kind.name), self._name)
        except (ImportError, LookupError):
            return () if self._name == "__match_args__" else {}


def _torch_first(otherwise: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Torch asks the instance too, where the tensor's own answer would refuse to deal with a proxy.

    And what passes for a tensor by isinstance it takes for the memory of one: torch.tensor(p) would crash.
    """

    def attribute(proxy: Any, name: str) -> Any:
        if name == "__class__":
            return type(proxy)
        return type(proxy).__torch_function__ if name == "__torch_function__" else otherwise(proxy, name)

    return attribute


def _of_target(proxy: Any, name: str) -> Any:
    return getattr(target_of(proxy), name)


if compiled is not None:
    connecting.connect(
        unknown=UNKNOWN,
        build=_build_compiled,
        arrived=_arrived,
        rebuild=_again,
        probed=probing.probed,
        names=probing.names,
    )
