"""How a reference stands in an event: what a Ref pickles as, in msgpack, with its store's place among the frame's.

    stored   [place, id, where, nbytes, kind's name, kind's mask, flags]
    inside   [place, [codec, type, meta, origin, buffer, ...] or sealed bytes, nbytes, name, mask, flags]

The mask is bytes, the lowest first, as msgpack's numbers end at 64 bits. Rules:
1. Both directions are here. Reading opens and imports nothing; what came is checked field by field.
2. Without a store an object travels inside, as of `NOWHERE`: nothing is opened for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from proxyfab import policy
from proxyfab.errors import IntegrityError
from proxyfab.keys import MAX_ID
from proxyfab.proxy import Kind
from proxyfab.ref import Ref, load

KEEP = "keep"
"""The attribute of an event whose object is not the topic's, but somebody else's."""
NOWHERE = "memory://"
"""Stands for the store of what has none."""
State: TypeAlias = "list[Any]"
"""An event's `data`, of kind OBJECT."""
_FIELDS = frozenset((6, 7))
_MASK = 64
_LONGEST = {"key": MAX_ID, "where": 4096, "kind": 1024}


@lru_cache(1024)
def packed_kind(kind: Kind | None) -> tuple[str, bytes]:
    """Name and mask as they travel."""
    name, mask = kind or ("", 0)
    return name, mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def state_of(ref: Ref[Any], place: int) -> State:
    """A reference, whose store stands at `place` among its frame's."""
    _, *where, nbytes, name, mask, flags = ref._state()
    return [place, *where, nbytes, *packed_kind(Kind(name, mask)), flags]


def ref_in(state: State, stores: Sequence[str]) -> Ref[Any]:
    """The reference in an event that may come from anybody, and whose frame names these stores.

    Raises:
        IntegrityError: It is none.
    """
    if len(state) not in _FIELDS:
        raise IntegrityError(f"A reference in an event has {len(state)} fields: it is damaged.")
    place, *where, nbytes, name, packed, flags = state
    texts = {"kind": name} if len(where) == 1 else {"kind": name, "key": where[0], "where": where[1]}
    for field, text in texts.items():
        if text.__class__ is not str or len(text) > _LONGEST[field] or not text.isprintable():
            raise IntegrityError(f"The {field} of a reference in an event is no text, or too long: it is damaged.")
    if not (nbytes.__class__ is flags.__class__ is int and nbytes >= 0 and 0 <= flags < 256):
        raise IntegrityError("The numbers of a reference in an event make no sense: it is damaged.")
    if packed.__class__ is not bytes or len(packed) > _MASK:
        raise IntegrityError("The mask of a reference in an event is none: it is damaged.")
    if len(where) == 1:
        where = [_inside(where[0])]
    elif not where[0] or "@" in where[0] or where[0] != where[0].strip():
        raise IntegrityError("The key of a reference in an event names nothing: it is damaged.")
    if policy.active() and name.partition(":")[0] not in sys.modules:
        name = ""  # a hint that would have this process import what a stranger names
    return load(stores[place], *where, nbytes, name, int.from_bytes(packed, "little"), flags)


def _inside(packed: object) -> object:
    if packed.__class__ is bytes:
        return packed
    if packed.__class__ is not list:
        raise IntegrityError("What should be an object inside an event is none: it is damaged.")
    return tuple(packed)
