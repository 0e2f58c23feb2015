"""A reference as text: URL-safe, data only, for channels that must not run code (a web form, JSON, a queue, an email).

A token is `pf1.` and the base64 of nine msgpack fields, or, sealed, of their sealed form. Promises: reading one opens,
imports and unpickles nothing; what it holds is checked field by field before a Ref is made of it; nothing but the
errors of the tree comes out. Who reads a token from anybody gets a Ref that never unpickles what is not sealed.
"""

from __future__ import annotations

import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, IntegrityError, SealError
from proxyfab.keys import MAX_ID
from proxyfab.spec import ConnectorSpec, StoreSpec
from proxyfab.wire.sealed import is_sealed

LONGEST = 64 << 10
_PREFIX = "pf1."
_NAME = "@token"
_LENGTHS = {"url": 8192, "key": MAX_ID, "where": 4096, "kind": 1024}
_FIELDS = 8
_HARMLESS = frozenset(
    {"numpy:ndarray", *(f"builtins:{name}" for name in ("bytes", "dict", "float", "int", "list", "str"))}
)


def write(state: tuple[Any, ...], seal: Any) -> str:
    """The token of a Ref's state: `(url, packed or id, where or nothing, nbytes, kind, mask, flags)`.

    Args:
        state: What a Ref pickles as.
        seal: Under which the token itself is sealed, so that who reads it knows who wrote it; None for none.
    """
    from msgpack import packb

    url, *place, nbytes, kind, mask, flags = state
    id, where, inside = (place[0], place[1], None) if len(place) == 2 else ("", "", _outgoing(place[0]))
    body: bytes = packb([url, id, where, inside, nbytes, kind, str(mask), flags])
    if seal is not None:
        body = seal.seal(Frames((body,)), "", _NAME).tobytes()
    text = _PREFIX + urlsafe_b64encode(body).rstrip(b"=").decode()
    if len(text) > LONGEST:
        raise ConfigurationError(f"A token of {len(text)} characters is too long; store the object (inline_below=0).")
    return text


def read(text: str, seal: Any, unpickle: bool) -> tuple[Any, ...]:
    """The state of a Ref from a token.

    Args:
        text: What `write` made, or anything else.
        seal: Under which it must be sealed; None takes unsealed tokens only.
        unpickle: Whether objects that are not sealed may be unpickled, although anybody may have written this token.

    Raises:
        IntegrityError: It is no token, or damaged.
        SealError: It is not sealed as asked, or is and nobody asked.
    """
    body = Frames((_decoded(text),))
    if seal is not None:
        body = seal.open(body, "", _NAME)
    elif is_sealed(body):
        raise SealError("This token is sealed; say under which key: Ref.from_token(token, seal='sign:lab-2026').")
    url, id, where, inside, nbytes, kind, mask, flags = _checked(_unpacked(body.tobytes()))
    spec = StoreSpec.parse(url)
    ConnectorSpec.parse(spec.connector)
    if seal is None and not spec.seal and not unpickle:
        spec = spec._replace(serializer="safe")
    if not (kind.partition(":")[0] in sys.modules if seal is not None else kind in _HARMLESS):
        kind, mask = "", 0  # a hint that would have this process look up, or import, what the token names
    place = (id, where) if inside is None else (_incoming(inside),)
    return (str(spec), *place, nbytes, kind, mask, flags)  # in our own spelling: what was checked is what is opened


def _decoded(text: object) -> bytes:
    if not isinstance(text, str) or not text.startswith(_PREFIX) or len(text) > LONGEST:
        raise IntegrityError("This is no token of proxyfab's, or it is longer than one can be.")
    data = text[len(_PREFIX) :].encode("ascii", "replace")
    try:
        found = urlsafe_b64decode(data + b"=" * (-len(data) % 4))
    except ValueError as error:
        raise IntegrityError("A token is damaged: it is not base64.") from error
    if urlsafe_b64encode(found).rstrip(b"=") != data:
        raise IntegrityError("A token is damaged: it holds characters that no token holds.")
    return found


def _unpacked(body: bytes) -> list[Any]:
    from msgpack import unpackb

    try:
        fields = unpackb(body, strict_map_key=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError("A token is damaged: its fields cannot be read.") from error
    if type(fields) is not list or len(fields) != _FIELDS:
        raise IntegrityError("A token is damaged: it does not hold the fields of a reference.")
    return fields


def _checked(fields: list[Any]) -> tuple[str, str, str, Any, int, str, int, int]:
    url, id, where, inside, nbytes, kind, mask, flags = fields
    texts = dict(zip(_LENGTHS, (url, id, where, kind), strict=True))
    for name, text in texts.items():
        if type(text) is not str or len(text) > _LENGTHS[name] or not text.isprintable():
            raise IntegrityError(f"A token is damaged: its {name} is no text, or too long.")
    numbers = type(nbytes) is type(flags) is int and 0 <= nbytes < 1 << 63 and 0 <= flags < 256
    if not numbers or type(mask) is not str or not mask.isdecimal() or len(mask) > 100:
        raise IntegrityError("A token is damaged: its numbers are none.")
    if inside is not None and type(inside) not in (bytes, list):
        raise IntegrityError("A token is damaged: what should be an object inside it is none.")
    return url, id, where, inside, nbytes, kind, int(mask), flags


def _outgoing(packed: Any) -> Any:
    return packed if isinstance(packed, bytes) else list(packed)


def _incoming(inside: bytes | list[Any]) -> Any:
    return inside if isinstance(inside, bytes) else tuple(inside)
