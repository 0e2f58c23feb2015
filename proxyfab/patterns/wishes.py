"""What a function's annotations ask for, argument by argument: `Annotated[np.ndarray, ByRef]`, `ByValue`.

Annotations are evaluated once, when the function is first called by reference, and one by one: a name that exists for
type checkers only does not hide the wishes of the other arguments.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Final, ForwardRef, NamedTuple, Union, get_args, get_origin


class ByRef:
    """In `Annotated[T, ByRef]`: this argument or result travels by reference, however small it is."""


class ByValue:
    """In `Annotated[T, ByValue]`: this argument or result travels as it is, however large it is."""


REF: Final = "ref"
VALUE: Final = "value"


class _Names(NamedTuple):
    """Of a function's parameters: the positional ones, `*args`, `**kwargs`, and all."""

    positional: list[str]
    rest: str
    keywords: str
    all: frozenset[str]


class Wishes:
    """What a function's arguments and result are to travel as. Pickles as its function.

    Args:
        function: Any callable; None, and one without a signature or annotations, wishes nothing.
    """

    __slots__ = ("_found", "_function", "_names")

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = function
        self._found: Mapping[str, str] | None = None
        self._names = _Names([], "", "", frozenset())

    def __reduce__(self) -> tuple[type[Wishes], tuple[Callable[..., Any] | None]]:
        return Wishes, (self._function,)

    @property
    def any(self) -> bool:
        """Whether the function wishes anything."""
        return bool(self._read())

    @property
    def result(self) -> str | None:
        """How the result is to travel; None: as its size says."""
        return self._read().get("return")

    def of(self, place: int | str) -> str | None:
        """How the argument at a position, or of a name, is to travel; None: as its size says."""
        found = self._read()
        if not found:
            return None
        names = self._names
        if isinstance(place, str):
            return found.get(place if place in names.all else names.keywords)
        return found.get(names.positional[place] if place < len(names.positional) else names.rest)

    def _read(self) -> Mapping[str, str]:
        if self._found is None:
            function = self._function
            found = {} if function is None else _found(function)
            if found and function is not None:
                self._names = _names(function)
            self._found = found
        return self._found


def skips_first(function: Callable[..., Any]) -> bool:
    """Whether the first argument is the object or the class whose method this is: it never travels by reference."""
    name: str = getattr(function, "__qualname__", "")
    holder = name.rpartition(".")[0]
    code = getattr(function, "__code__", None)
    if code is None or not holder or holder.endswith("<locals>") or inspect.ismethod(function):
        return False
    return bool(code.co_argcount) and code.co_varnames[0] in ("self", "cls")


def _found(function: Callable[..., Any]) -> dict[str, str]:
    plain = inspect.unwrap(function)
    annotations: Mapping[str, Any] = getattr(plain, "__annotations__", None) or {}
    space = {**vars(sys.modules.get(getattr(plain, "__module__", ""), object)), **getattr(plain, "__globals__", {})}
    wishes = {name: _wish(annotation, space) for name, annotation in annotations.items()}
    return {name: wish for name, wish in wishes.items() if wish is not None}


def _wish(annotation: Any, space: dict[str, Any]) -> str | None:
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        try:
            return _wish(eval(annotation, space), space)  # the module's own text, as typing.get_type_hints does
        except Exception:  # noqa: BLE001 - a name that only a type checker knows
            return _spelt(annotation)
    if type(annotation).__name__ == "TypeAliasType":  # since Python 3.12
        return _wish(annotation.__value__, space)
    origin = get_origin(annotation)
    if origin is Union or origin is UnionType:
        return next(filter(None, [_wish(one, space) for one in get_args(annotation)]), None)
    if origin is not Annotated:
        return None
    for mark in reversed(get_args(annotation)[1:]):
        if mark is ByRef or isinstance(mark, ByRef):
            return REF
        if mark is ByValue or isinstance(mark, ByValue):
            return VALUE
    return None


def _spelt(annotation: str) -> str | None:
    return REF if "ByRef" in annotation else VALUE if "ByValue" in annotation else None


def _names(function: Callable[..., Any]) -> _Names:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return _Names([], "", "", frozenset())
    positional = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    rest = next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), "")
    keywords = next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), "")
    return _Names(positional, rest, keywords, frozenset([each.name for each in parameters]))
