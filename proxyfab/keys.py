"""Key: the name of some bytes. An id, and an opaque locator that only the connector which made it reads.

Promises: frozen, hashable, printable, and `Key.parse(str(key)) == key`. Not a tuple on purpose: task frameworks walk
into tuples.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from proxyfab.errors import ConfigurationError

MAX_ID = 200


class Key:
    """Names one object on the data plane.

    Attributes:
        id: 1 to 200 characters without `@`, control characters or spaces at the ends; 32 hexadecimal digits if drawn.
        where: locator, `""` for a key that no connector has seen yet.
    """

    __slots__ = ("id", "where")

    id: str
    where: str

    def __init__(self, id: str, where: str = "") -> None:
        if not 0 < len(id) <= MAX_ID or "@" in id or not id.isprintable() or id != id.strip():
            raise ConfigurationError(
                f"{id!r} cannot name an object: use 1 to {MAX_ID} printable characters without '@' or outer spaces."
            )
        _set(self, "id", id)
        _set(self, "where", where)

    @classmethod
    def draw(cls, where: str = "") -> Key:
        """A key that nobody else has: 128 random bits from the operating system (so safe after a fork)."""
        self = cls.__new__(cls)
        _set(self, "id", os.urandom(16).hex())
        _set(self, "where", where)
        return self

    @classmethod
    def draw_many(cls, count: int, where: str = "") -> list[Key]:
        """So many of `draw`, for a fraction of the time."""
        digits = os.urandom(16 * count).hex()
        keys = []
        for start in range(0, 32 * count, 32):
            self = cls.__new__(cls)
            _set(self, "id", digits[start : start + 32])
            _set(self, "where", where)
            keys.append(self)
        return keys

    @classmethod
    def parse(cls, text: str) -> Key:
        """The inverse of `str(key)`."""
        id, _, where = text.partition("@")
        return cls(id, where)

    def at(self, where: str) -> Key:
        """The same id with a locator."""
        return Key(self.id, where)

    def plain(self) -> Key:
        """The same id and locator, of which nothing else is said."""
        key = Key.__new__(Key)
        _set(key, "id", self.id)
        _set(key, "where", self.where)
        return key

    def __str__(self) -> str:
        return f"{self.id}@{self.where}" if self.where else self.id

    def __repr__(self) -> str:
        return f"Key({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return self.id == other.id and self.where == other.where

    def __hash__(self) -> int:
        return hash((self.id, self.where))

    def __reduce__(self) -> tuple[type[Key], tuple[str, str]]:
        return Key, (self.id, self.where)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"A Key is frozen; make a new one instead of setting {name!r}.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"A Key is frozen; {name!r} cannot be deleted.")


class Fresh(Key):
    """A key that was drawn for the very put it is handed to, and that nobody else knows yet.

    A layer that draws a key above a connector, because it must know it before the bytes are ready, says so by this:
    what may be done for a put without a key may then be done for this one, too. It only goes down, once; whoever made
    it hands out what `put` returned as a plain Key (`Key.plain`). For who knows nothing of it, and pickled, it is one.
    """

    __slots__ = ()

    @classmethod
    def of(cls, key: Key) -> Fresh:
        """The same id and locator."""
        self = cls.__new__(cls)
        _set(self, "id", key.id)
        _set(self, "where", key.where)
        return self


_set = object.__setattr__


def as_key(key: Key | str) -> Key:
    """A Key from a Key, or from the text of one."""
    if isinstance(key, Key):
        return key
    if not isinstance(key, str):
        raise ConfigurationError(f"A key is a Key or its text, not {key!r}.")
    return Key.parse(key)
