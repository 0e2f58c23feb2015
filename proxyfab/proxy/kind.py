"""Kind: what a proxy says about its target while the target is elsewhere. A type's name and what its instances can do.

Rules:
1. A kind is two plain values, so it travels in a few bytes and is understood where the type cannot be imported.
2. Bits are a wire format: FLAGS and OPERATORS only ever grow at their ends, and unknown bits are ignored.
3. A kind is a promise about behaviour, not about identity: two local classes of one name may share it.
"""

from __future__ import annotations

import sys
import types
from collections import abc
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

FLAGS = (
    "class",
    "sequence",
    "mutable_sequence",
    "mapping",
    "mutable_mapping",
    "set",
    "mutable_set",
    "dataclass",
    "ufunc",
    "no_ufunc",
    "array_function",
    "torch",
    "not_iterable",
    "sequence_pattern",
)
FIRST_OPERATOR = 16
# Order is the wire format: append only. Comparisons, str, repr, format, dir, attribute access, copying and pickling are
# not here because every object has them. Left out because Python or this package gives them another way:
# __new__, __init__, __del__, __init_subclass__, __class_getitem__, __set_name__, __getstate__, __getnewargs_ex__,
# __reduce_ex__, __prepare__, __missing__, __sizeof__.
# fmt: off
OPERATORS = (
    "__hash__", "__bool__", "__call__", "__len__", "__length_hint__", "__getitem__", "__setitem__", "__delitem__",
    "__contains__", "__iter__", "__next__", "__reversed__", "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__",
    "__isub__", "__mul__", "__rmul__", "__imul__", "__matmul__", "__rmatmul__", "__imatmul__", "__truediv__",
    "__rtruediv__", "__itruediv__", "__floordiv__", "__rfloordiv__", "__ifloordiv__", "__mod__", "__rmod__",
    "__imod__", "__divmod__", "__rdivmod__", "__pow__", "__rpow__", "__ipow__", "__lshift__", "__rlshift__",
    "__ilshift__", "__rshift__", "__rrshift__", "__irshift__", "__and__", "__rand__", "__iand__", "__or__", "__ror__",
    "__ior__", "__xor__", "__rxor__", "__ixor__", "__neg__", "__pos__", "__abs__", "__invert__", "__int__",
    "__float__", "__complex__", "__index__", "__round__", "__trunc__", "__floor__", "__ceil__", "__bytes__",
    "__fspath__", "__enter__", "__exit__", "__await__", "__aiter__", "__anext__", "__aenter__", "__aexit__",
    "__get__", "__set__", "__delete__", "__instancecheck__", "__subclasscheck__", "__buffer__",
)
# fmt: on
_BIT = {name: 1 << i for i, name in enumerate(FLAGS)}
_BIT.update({name: 1 << (FIRST_OPERATOR + i) for i, name in enumerate(OPERATORS)})

_SEQUENCE_PATTERN = 1 << 5  # Py_TPFLAGS_SEQUENCE: what `match` asks; str and bytes are sequences without it
_ABSTRACT: tuple[tuple[str, type], ...] = (
    ("mapping", abc.Mapping),
    ("mutable_mapping", abc.MutableMapping),
    ("set", abc.Set),
    ("mutable_set", abc.MutableSet),
)
# Types of C that export their memory; before 3.12 their __buffer__ cannot be seen, and readers may run a newer Python.
_BUFFERS = frozenset(
    ("builtins:bytes", "builtins:bytearray", "builtins:memoryview", "array:array", "mmap:mmap", "numpy:ndarray",
     "pickle:PickleBuffer", "_ctypes:_SimpleCData", "_ctypes:Array", "_ctypes:Structure", "_ctypes:Union",
     "_ctypes:_Pointer", "_ctypes:CFuncPtr")
)  # fmt: skip
# NumPy takes a stranger's memory before anything else it says of itself, and these export theirs as bare bytes.
_UNITLESS = frozenset(("numpy:datetime64", "numpy:timedelta64"))


_REFLECTED = {f"__{name[3:]}": name for name in OPERATORS if name.startswith("__r") and f"__{name[3:]}" in OPERATORS}


class Kind(NamedTuple):
    """The type of a target, as far as a proxy must know it.

    Attributes:
        name: `module:qualname` of the type; `""` when nothing is known.
        mask: One bit for each of FLAGS and OPERATORS that the type has.
    """

    name: str
    mask: int

    def has(self, what: str) -> bool:
        """Whether a flag or an operator is announced."""
        return bool(self.mask & _BIT[what])

    @property
    def text(self) -> str:
        """Both in one, as pickles of proxies have it."""
        return f"{self.name}:{self.mask:x}"

    @classmethod
    def parse(cls, text: str) -> Kind:
        """The inverse of `text`."""
        name, _, mask = text.rpartition(":")
        return cls(name, int(mask, 16))


# A proxy of anything has every operator, but must not look like a descriptor when it is kept in a class.
_EVERYTHING = frozenset(OPERATORS) - {"__get__", "__set__", "__delete__"}
UNKNOWN = Kind("", _BIT["ufunc"] | sum(_BIT[name] for name in _EVERYTHING))
"""The kind of a target of which nothing is known: every operator."""


def is_singleton(obj: object) -> bool:
    """Whether `obj` is one of the objects that are compared with `is`, so that a proxy of it would mislead."""
    return obj is None or obj is True or obj is False or obj is Ellipsis or obj is NotImplemented


def type_name(cls: type) -> str:
    """`module:qualname`."""
    return f"{cls.__module__}:{cls.__qualname__}"


@lru_cache(maxsize=1024)
def kind_of_type(cls: type) -> Kind:
    """The kind of the instances of `cls`."""
    names = _names(cls)
    has = {name for name in OPERATORS if name in names}
    # C types meet a stranger on their right by concatenation, not by NotImplemented: `[1] + p` needs p.__radd__.
    has |= {reflected for name, reflected in _REFLECTED.items() if name in has}
    if _type_dict(cls, "__hash__") is None:
        has.discard("__hash__")
    else:
        has.add("__hash__")
    if issubclass(cls, (str, bytes, bytearray)):
        # Nothing but the real type lets int(), float() and complex() read text, or os.stat() a path.
        has |= {"__int__", "__float__", "__complex__"}
    if issubclass(cls, (str, bytes)):
        has.add("__fspath__")
    if any(type_name(base) in _BUFFERS for base in cls.__mro__):
        has.add("__buffer__")
    if cls is types.UnionType:  # isinstance() knows it without asking
        has |= {"__instancecheck__", "__subclasscheck__"}
    if type_name(cls) in _UNITLESS:
        has.discard("__buffer__")
    if "__buffer__" in has:
        has.add("__bytes__")  # else bytes(p) would walk over the elements
    has |= _flags(cls, names, has)
    return Kind(type_name(cls), sum(_BIT[name] for name in has))


def _names(cls: type) -> set[str]:
    """What instances find on their type beyond what every object has; a None in the way counts as absent."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        found.update(vars(base))
    return {name for name, value in found.items() if value is not None}


def _type_dict(cls: type, name: str) -> Any:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _flags(cls: type, names: set[str], has: set[str]) -> set[str]:
    flags = {flag for flag, base in _ABSTRACT if issubclass(cls, base)}
    if cls.__flags__ & _SEQUENCE_PATTERN:
        of_abc = "mutable_sequence" if issubclass(cls, abc.MutableSequence) else "sequence"
        flags.add(of_abc if issubclass(cls, abc.Sequence) else "sequence_pattern")
    if issubclass(cls, type):
        flags.add("class")
    if "__dataclass_fields__" in names:
        flags.add("dataclass")
    if "__torch_function__" in names and any(str(base.__module__).partition(".")[0] == "torch" for base in cls.__mro__):
        flags.add("torch")
    if "__array_function__" in names:
        flags.add("array_function")
    if "__getitem__" in names and "__iter__" not in names and not _counts_up(cls, names):
        flags.add("not_iterable")
    return flags | _ufunc_flag(cls, names, has)


def _counts_up(cls: type, names: set[str]) -> bool:
    """Whether indexing makes a type iterable: it does in Python, not in all of C (re.Match), and a type may say no."""
    if any("__iter__" in vars(base) for base in cls.__mro__):
        return False
    return "__len__" in names or isinstance(_type_dict(cls, "__getitem__"), types.FunctionType)


def _ufunc_flag(cls: type, names: set[str], has: set[str]) -> set[str]:
    """NumPy treats the presence of __array_ufunc__ as "knows how": so proxies of numbers need it, sparse arrays not."""
    if any("__array_ufunc__" in vars(base) for base in cls.__mro__):
        return {"ufunc"} if "__array_ufunc__" in names else {"no_ufunc"}
    if "__array_priority__" in names:
        return set()
    return {"ufunc"} if "__array__" in names or has & {"__float__", "__complex__"} else set()


def find_type(name: str) -> type:
    """The type of that name, its module imported if need be, as unpickling would.

    Raises:
        ImportError: The module is not here or cannot be imported.
        LookupError: The module has no such type: it is local, or was made in another `__main__`.
    """
    module_name, _, path = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None:
        if not module_name:
            raise LookupError("A target of unknown type.")
        try:
            module = import_module(module_name)
        except Exception as error:
            raise ImportError(f"{module_name}, which defines the target's type, cannot be imported here.") from error
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type):
        return found
    if name in _HIDDEN:
        return _HIDDEN[name]
    raise LookupError(f"{name} cannot be found by its name in this process.")


_UNNAMED: tuple[Any, ...] = (
    *({}.keys(), {}.values(), {}.items(), iter({}), iter({}.values()), iter({}.items())),
    *(iter([]), iter(()), iter(""), iter("é"), iter(b""), iter(range(0)), iter({0}), reversed([]), iter(int, 0)),
)
_HIDDEN: dict[str, type] = {
    type_name(cls): cls for cls in (*vars(types).values(), *map(type, _UNNAMED)) if isinstance(cls, type)
}
"""Types of the interpreter that their own module does not name: functions, generators, dictionary views, iterators."""

DATACLASS_NAMES = ("__dataclass_fields__", "__dataclass_params__", "__match_args__")
