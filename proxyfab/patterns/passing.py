"""What of a value travels by reference: which parts are large, and the value with those parts replaced.

Rules:
1. Decide, then do: `plan` looks and touches nothing; `fill` builds what the plan says, and new containers only on the
   way to a part that is replaced.
2. A container whose small parts are large together goes as a whole, with its large parts: one reference, not many.
3. None, True, False and the like, proxies, and what is no data (functions, futures, stores) stay as they are.
4. What stands in several places is taken once, and is one object in all of them, as far as `once` is used for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from proxyfab.errors import ConfigurationError
from proxyfab.patterns.sizes import is_alive, weigh
from proxyfab.proxy import Proxy, is_proxy, unwrap
from proxyfab.spec import nbytes

Take = Callable[[Any], Any]


class Limits(NamedTuple):
    """From which size on objects travel by reference, and how deep containers are searched for them."""

    above: int
    depth: int


def limits(above: int | str, depth: int) -> Limits:
    """Checked limits.

    Raises:
        ConfigurationError: One of them makes no sense.
    """
    if not (hasattr(depth, "__index__") and depth >= 0):
        raise ConfigurationError(f"Containers cannot be searched {depth!r} levels deep; say 0 or more.")
    return Limits(nbytes(above), depth)


class Parts(NamedTuple):
    """The places of a container whose values are replaced, and how each is."""

    places: dict[Any, Any]


WHOLE = Parts({})
"""The plan of an object that goes as one reference."""

SMALL = frozenset((bool, float, complex, type(None), type(...), type(NotImplemented)))
"""Types whose objects are never large; of int, text and bytes it depends."""


def plan(value: Any, limit: Limits) -> Parts | None:
    """How `value` travels: None as it is, WHOLE as a reference, else with some of its parts replaced."""
    return _plan(value, limit.above, limit.depth)[0]


def _plan(value: Any, above: int, depth: int) -> tuple[Parts | None, int]:
    """The plan, and about how many bytes are left beside what it replaces."""
    if type(value) in SMALL or is_proxy(value):
        return None, 0
    size = weigh(value, above)
    if size < above:
        return None, size
    places = _places(value) if depth > 0 else None
    if places is None:
        return WHOLE, 0
    found: dict[Any, Any] = {}
    rest = 0
    for place, part in places:
        parts, size = _plan(part, above, depth - 1)
        rest += size + 8
        if parts is not None:
            found[place] = parts
        if rest >= above and not _holds_alive(value):
            return WHOLE, 0
    return (Parts(found) if found else None), rest


def _holds_alive(value: Any) -> bool:
    """Whether a container holds futures and the like, which frameworks must see."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(is_alive(kind) and not issubclass(kind, Proxy) for kind in set(map(type, values)))


def _places(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Where the parts of a container are; None for what is no container that can be made anew."""
    kind = type(value)
    if kind in (list, tuple) or _is_named_tuple(kind):
        return enumerate(value)
    if issubclass(kind, dict):
        return [*value.items()]
    if is_dataclass(kind):
        return [(field.name, getattr(value, field.name)) for field in fields(kind) if hasattr(value, field.name)]
    return None


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def fill(value: Any, parts: Parts | None, take: Take) -> Any:
    """`value` with what `parts` says replaced by what `take` makes of it."""
    if parts is None:
        return value
    if parts is WHOLE:
        return take(value)
    return _rebuilt(value, {place: fill(_at(value, place), inner, take) for place, inner in parts.places.items()})


def _at(value: Any, place: Any) -> Any:
    return value[place] if isinstance(value, (list, tuple, dict)) else getattr(value, place)


def _rebuilt(value: Any, changes: dict[Any, Any]) -> Any:
    """A shallow copy with other values in some places, of the same type; nobody's `__init__` runs."""
    if isinstance(value, (list, tuple)):
        items = [changes.get(place, item) for place, item in enumerate(value)]
        kind: Any = type(value)
        return items if kind is list else tuple.__new__(kind, items)
    made = copy.copy(value)
    if isinstance(value, dict):
        made.update(changes)
    else:
        for name, item in changes.items():
            object.__setattr__(made, name, item)  # frozen ones, too
    return made


def once(take: Take) -> Take:
    """`take`, asked once for each object: what stands in several places of one call stays one object.

    It holds what it was given, so that no other object gets its address; let it go with the call.
    """
    taken: dict[int, tuple[Any, Any]] = {}

    def answer(value: Any) -> Any:
        known = taken.get(id(value))
        if known is None:
            known = taken[id(value)] = value, take(value)
        return known[1]

    return answer


def parts_of(value: Any, parts: Parts | None) -> Iterator[Any]:
    """What `fill` would hand to `take`, in its order."""
    if parts is WHOLE:
        yield value
    elif parts is not None:
        for place, inner in parts.places.items():
            yield from parts_of(_at(value, place), inner)


def proxies_in(value: Any, depth: int) -> Iterator[Any]:
    """The proxies among a value and its parts, as deep as containers are searched."""
    if is_proxy(value):
        yield value
    elif depth > 0 and type(value) not in SMALL:
        for _, part in _suspects(value, depth):
            yield from proxies_in(part, depth - 1)


def bare(value: Any, depth: int) -> Any:
    """`value` with the proxies in it replaced by their targets, as deep as containers are searched."""
    return changed(value, depth, unwrap)


def changed(value: Any, depth: int, change: Take) -> Any:
    """`value` with the proxies in it replaced by what `change` makes of them, as deep as containers are searched."""
    if is_proxy(value):
        return change(value)
    if depth <= 0 or type(value) in SMALL:
        return value
    changes = {
        place: changed(part, depth - 1, change)
        for place, part in _suspects(value, depth)
        if next(proxies_in(part, depth - 1), None) is not None
    }
    return _rebuilt(value, changes) if changes else value


def _suspects(value: Any, depth: int) -> Iterable[tuple[Any, Any]]:
    """The parts of a container, or none of a long one whose parts' types say that none is or holds a proxy."""
    if isinstance(value, (list, tuple)) and not any(_may_hold(kind, depth) for kind in set(map(type, value))):
        return ()
    return _places(value) or ()


def _may_hold(kind: type, depth: int) -> bool:
    return issubclass(kind, Proxy) or (depth > 1 and kind not in SMALL and kind not in (int, str, bytes))
