"""Codec: how one family of types becomes buffers and comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from proxyfab.buffers import Buffer

Parts: TypeAlias = "tuple[Any, Sequence[Buffer]]"
"""What a codec makes of an object: metadata (None, or what msgpack packs) and data (views, not copies)."""


class Codec(Protocol):
    """Writes and reads one family of types. Stateless, so that threads share it.

    Attributes:
        name: What a payload says to find its reader: lower case, and never changed, since it lies in stored objects.
        safe: Whether `load` runs no code that its input chose; only such codecs work in safe mode.
    """

    @property
    def name(self) -> str: ...

    @property
    def safe(self) -> bool: ...

    def dump(self, obj: Any, /) -> Parts | None:
        """Metadata and data of an object; None leaves this one to pickle."""

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        """The object. The views are read-only and may be mapped memory that others read; `meta` is not to be changed.

        Raises:
            ValueError, TypeError, ...: `meta` and `buffers` do not fit; reported as an IntegrityError.
        """
