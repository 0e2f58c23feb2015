"""Bytes and text of keys that neither print nor leave their process. Promises no more: who has one reads it."""

from __future__ import annotations

from typing import Any, NoReturn

from proxyfab.errors import SealError


class Secret(bytes):
    """Bytes that print as `***` and stay in this process: they refuse to pickle."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SealError("A secret key does not leave its process: send the key's id, and have the key there, too.")


class Hidden(str):
    """Text of a key on its way, in case a traceback is printed with its variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"
