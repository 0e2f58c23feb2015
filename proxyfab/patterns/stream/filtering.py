"""Which events a consumer wants: an expression, compiled once, or a function. No object is touched for it.

An expression is JMESPath (https://jmespath.org) over the event's metadata, with `key`, `type`, `subject`, `source` and
`id` beside them unless the metadata have such names themselves. An event is wanted if the outcome is true as JMESPath
means it: not null, false, or empty. What an expression cannot compare is null.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from proxyfab.errors import ConfigurationError, MissingDependency
from proxyfab.patterns.stream.item import Item

Where: TypeAlias = "str | Callable[[Item], object] | None"
_NAMES = ("type", "subject", "source", "id")


def wanted_by(where: Where) -> Callable[[Item], object] | None:
    """What tells whether an event is wanted; None if all are.

    Raises:
        ConfigurationError: The expression makes no sense.
        MissingDependency: An expression needs jmespath.
    """
    if where is None or callable(where):
        return where
    if not isinstance(where, str):
        raise ConfigurationError(f"where= is an expression, or a function of an item, not {where!r}.")
    return _expression(where)


def _expression(text: str) -> Callable[[Item], object]:
    try:
        import jmespath
        from jmespath import exceptions
    except ImportError as error:
        raise MissingDependency(
            "Filtering by an expression needs jmespath: pip install 'proxyfab[events]', or give a function of an item."
        ) from error
    try:
        search = jmespath.compile(text).search
        search({})
    except exceptions.JMESPathTypeError:  # it wants what an event without metadata has not
        pass
    except exceptions.JMESPathError as error:
        raise ConfigurationError(f"{text!r} is no JMESPath expression: {error}.") from error

    def wanted(item: Item) -> bool:
        try:
            found = search(view(item))
        except exceptions.JMESPathTypeError:
            return False
        return found is not None and found is not False and found not in ("", [], {})

    return wanted


def view(item: Item) -> dict[str, Any]:
    """What an expression sees of an event."""
    attributes = item.attributes
    named = {name: attributes.get(name) for name in _NAMES}
    return {"key": item.key, **named, **item.metadata}
