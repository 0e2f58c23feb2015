"""What a consumer wants of an object: nothing, all, or a part, told from what was said of it; and where it lands.

    Consumer(broker, "frames", select=lambda metadata, item: slice(0, 100) if metadata["hit"] else None)

Rules:
1. A selector sees metadata and item, never data. It answers None for nothing (the item's proxy is None then), `...` or
   True for everything, or what `proxyfab.parts` takes: a slice, a range, or a list of such, of bytes or rows.
2. It is asked when the object is, and what moves is what it answers (see `parts`). So an item nobody looks at costs
   nothing, and a selector that fails fails where the object is asked for.
3. An allocator is called with the metadata and the shape of what comes, and answers with the buffer it is copied to.
"""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any, Protocol, TypeAlias

from proxyfab.buffers import Buffer
from proxyfab.errors import ConfigurationError
from proxyfab.parts import Part, Shape
from proxyfab.ref import Ref
from proxyfab.serialize.rows import Selection, ranges_of


class Described(Protocol):
    """What a selector sees of an item: all but its object."""

    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def key(self) -> str | None: ...
    @property
    def attributes(self) -> dict[str, str]: ...


Selector: TypeAlias = "Callable[[dict[str, Any], Described], Selection | EllipsisType | bool | None]"
Allocator: TypeAlias = "Callable[[dict[str, Any], Shape], Buffer]"


class Choice:
    """What one consumer wants of objects.

    Args:
        select: None for everything.
        allocate: None for memory of the library's own.
    """

    def __init__(self, select: Selector | None, allocate: Allocator | None) -> None:
        self._select = select
        self._allocate = allocate

    def part(self, item: Described, ref: Ref[Any]) -> Part | None:
        """The part of a referenced object that is wanted; None for nothing of it."""
        selection: Any = ... if self._select is None else self._select(item.metadata, item)
        if selection is None or selection is False:
            return None
        allocate = self._allocate
        landing = None if allocate is None else lambda shape: allocate(item.metadata, shape)
        return Part(ref, None if selection is ... or selection is True else selection, landing)

    def plain(self, item: Described, data: Any) -> Any:
        """The same of what stands in an event as it is: of bytes a part, of anything else all or nothing."""
        selection: Any = ... if self._select is None else self._select(item.metadata, item)
        if selection is None or selection is False:
            return None
        if selection is ... or selection is True or data.__class__ is not bytes:
            return data
        return b"".join([data[each.start : each.stop : each.step] for each in ranges_of(selection, len(data))])


def choice_of(select: Selector | None, allocate: Allocator | None) -> Choice | None:
    """None where everything is wanted as it comes; raises ConfigurationError."""
    for name, given in (("select", select), ("allocate", allocate)):
        if given is not None and not callable(given):
            raise ConfigurationError(f"{name}= is a function that is called with an event's metadata, not {given!r}.")
    return None if select is None and allocate is None else Choice(select, allocate)
