"""What travels inside a reference: a small object's payload, sealed where its store seals.

Promises: a store with a seal opens nothing that is not sealed, and one without opens nothing that is; an object that
travels inside a reference cannot be put in the place of a stored one, nor the other way round.
"""

from __future__ import annotations

from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError, SealError
from proxyfab.spec import namespace_of
from proxyfab.wire.payload import Payload, decode, encode

_NAME = "@inline"
"""In place of an object's id: no key can be called so."""


def close_inline(payload: Payload, seal: Any, url: str) -> bytes:
    """A payload of a few KiB as it travels inside a reference to the connector at `url`, sealed."""
    return bytes(seal.seal(encode(payload, checksum=False), namespace_of(url), _NAME).tobytes())


def open_inline(packed: object, seal: Any, url: str) -> Payload:
    """The payload in what came inside a reference.

    Raises:
        SealError: It is not sealed, or does not verify, where `seal` is set; it is sealed where none is.
        IntegrityError: It is damaged.
    """
    if seal is None:
        if isinstance(packed, bytes):
            raise SealError("An object inside a reference is sealed, and the reference's store asks for no seal.")
        return Payload.unpack(packed)
    if not isinstance(packed, bytes):
        raise SealError(f"An object inside a reference is not sealed, and its store asks for {seal}: it was not read.")
    try:
        return decode(seal.open(Frames((packed,)), namespace_of(url), _NAME))
    except SealError as error:
        raise SealError(f"An object inside a reference cannot be opened. {error}") from error
    except IntegrityError as error:
        raise IntegrityError(f"An object inside a reference cannot be read. {error}") from error
