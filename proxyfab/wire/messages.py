"""Messages between a client and a node server: a header in msgpack, and behind it the bytes it speaks of. Sans-IO.

    header   [version, verb, request, fields]     one frame, at most 64 KiB
    body     frames of bytes, joined in thought: where one ends means nothing

`request` is 16 bytes that its sender drew; the answer carries the same, and a call that is repeated does, too.

Rules:
1. The first three items of a header mean the same in every version, so that who is older can answer that he is.
2. Whatever bytes come in, a Message or an IntegrityError comes out; nothing is allocated by a number that was read.
3. Fields that are not known are passed over, fields that are needed are asked for by their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from proxyfab.errors import IntegrityError

VERSION = 1
CHUNK = 1 << 20
"""Bytes of a large object in one message at most."""
MAX_BODY = 2 * CHUNK
"""Bytes of body in one message at most: two small objects, to compare and to set."""
MAX_HEADER = 64 << 10
MAX_PARTS = 4096
MAX_MESSAGE = CHUNK + MAX_HEADER
"""Bytes of one frame at most: what is larger ends its connection (ZMQ_MAXMSGSIZE)."""
REQUEST = 16
NOBODY = bytes(REQUEST)
"""The request of a message that answers none."""
LARGEST = 1 << 62
"""Bytes of an object at most."""
_DEPTH = 6
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
_TEXT = frozenset((str,))

Part: TypeAlias = "memoryview | bytes"


class Message(NamedTuple):
    """One message. The accessors raise IntegrityError where a field is not what it has to be."""

    verb: str
    request: bytes
    fields: dict[str, Any]
    body: tuple[memoryview, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of body."""
        return sum([view.nbytes for view in self.body])

    def text(self, name: str, default: str | None = None) -> str:
        """A field of text."""
        value = self.fields.get(name, default)
        if value.__class__ is not str:
            raise self._wrong(name, "text")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A field that is a number of bytes or things."""
        value = self.fields.get(name, default)
        if value.__class__ is not int or not 0 <= value <= LARGEST:
            raise self._wrong(name, "a number")
        return value

    def flag(self, name: str) -> bool:
        """A field that is true, or absent."""
        return self.fields.get(name) is True

    def seconds(self, name: str) -> float | None:
        """A field of seconds; None when it is absent."""
        value = self.fields.get(name)
        if value is not None and value.__class__ is not float and value.__class__ is not int:
            raise self._wrong(name, "seconds")
        return None if value is None else float(value)

    def items(self, name: str, most: int = MAX_HEADER) -> list[Any]:
        """A field that is a list."""
        value = self.fields.get(name)
        if value.__class__ is not list or len(value) > most:
            raise self._wrong(name, f"a list of at most {most} things")
        return value

    def counts(self, name: str) -> list[int]:
        """A field that is a list of numbers."""
        items = self.items(name)
        for item in items:
            if item.__class__ is not int or not 0 <= item <= LARGEST:
                raise self._wrong(name, "a list of numbers")
        return items

    def names(self) -> list[tuple[str, str]]:
        """The objects that a message is about: their namespace and the id of each."""
        namespace = self.text("ns")
        ids = self.items("ids")
        for id in ids:
            if _no_id(id):
                raise self._wrong("ids", "a list of ids")
        return [(namespace, id) for id in ids]

    def name(self) -> tuple[str, str]:
        """The one object that a message is about."""
        names = self.names()
        if len(names) != 1:
            raise self._wrong("ids", "one id")
        return names[0]

    def token(self, name: str) -> bytes:
        """A field that is a request."""
        value = self.fields.get(name)
        if value.__class__ is not bytes or len(value) != REQUEST:
            raise self._wrong(name, "a request")
        return value

    def _wrong(self, name: str, wanted: str) -> IntegrityError:
        return IntegrityError(f"A message {self.verb!r} is malformed: its field {name!r} is not {wanted}.")


def _no_id(id: object) -> bool:
    return id.__class__ is not str or not 0 < len(id) <= 200


def encode(verb: str, request: bytes, fields: dict[str, Any]) -> bytes:
    """A header.

    Raises:
        IntegrityError: It would be larger than any reader accepts; cut the batch.
    """
    header: bytes = _packer()([VERSION, verb, request, fields])
    if len(header) > MAX_HEADER:
        raise IntegrityError(f"A message {verb!r} of {len(header)} bytes is above the limit of {MAX_HEADER}.")
    return header


def decode(parts: Sequence[Part]) -> Message:
    """The message in the frames that came.

    Raises:
        IntegrityError: They are none of this version.
    """
    if not 0 < len(parts) <= MAX_PARTS:
        raise IntegrityError(f"A message came in {len(parts)} parts, and it has 1 to {MAX_PARTS}.")
    verb, request, fields = _parsed(parts[0])
    if len(parts) == 1:
        return Message(verb, request, fields)
    body = tuple([memoryview(part) for part in parts[1:]])
    nbytes = sum([view.nbytes for view in body])
    if nbytes > MAX_BODY:
        raise IntegrityError(f"A message carries {nbytes} bytes, more than the {MAX_BODY} that one may.")
    return Message(verb, request, fields, body)


def _parsed(header: Part) -> tuple[str, bytes, dict[str, Any]]:
    if len(header) > MAX_HEADER:
        raise IntegrityError(f"The header of a message has {len(header)} bytes, more than {MAX_HEADER}.")
    try:
        items = _unpacker()(header, strict_map_key=True)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"The header of a message cannot be read: {error}") from error
    if items.__class__ is not list or len(items) < 4 or items[0].__class__ is not int:
        raise IntegrityError("The header of a message is not the four items that it should be.")
    version, verb, request, fields = items[:4]
    if version != VERSION:
        raise IntegrityError(
            f"A message is of protocol version {version}, and this proxyfab speaks {VERSION}: upgrade the older side."
        )
    if verb.__class__ is not str or request.__class__ is not bytes or len(request) != REQUEST:
        raise IntegrityError("The header of a message names no verb or no request.")
    if fields.__class__ is not dict:
        raise IntegrityError(f"The fields of a message {verb!r} are no map.")
    _check(fields, _DEPTH)
    return verb, request, fields


def _check(value: Any, depth: int) -> None:
    """Nothing but plain values, and lists and maps of them, not too deep: for a list or a map."""
    if not depth:
        raise IntegrityError("The fields of a message are nested too deep.")
    inner = value
    if value.__class__ is dict:
        if not _TEXT.issuperset(map(type, value)):
            raise IntegrityError("A field of a message has a name that is no text.")
        inner = value.values()
    if _PLAIN.issuperset(map(type, inner)):  # looped over in C: nearly every list is plain
        return
    for item in inner:
        if item.__class__ is list or item.__class__ is dict:
            _check(item, depth - 1)
        elif item.__class__ not in _PLAIN:
            raise IntegrityError(f"A message carries a {item.__class__.__name__}, which no field is.")


# As in wire.payload: msgpack with its first use.


@cache
def _packer() -> Callable[[object], bytes]:
    from msgpack import packb

    return packb  # type: ignore[no-any-return]  # msgpack has no types


@cache
def _unpacker() -> Callable[..., Any]:
    from msgpack import unpackb

    return unpackb  # type: ignore[no-any-return]  # as above


def parted(body: Sequence[memoryview], sizes: Sequence[int]) -> list[list[memoryview]]:
    """What stands in several views, parted into objects of these sizes, whose sum it is; copies nothing."""
    found: list[list[memoryview]] = []
    views = iter(body)
    rest = memoryview(b"")
    for size in sizes:
        mine: list[memoryview] = []
        while size:
            while not rest.nbytes:
                rest = next(views)
            mine.append(rest[:size])
            rest = rest[size:]
            size -= mine[-1].nbytes
        found.append(mine)
    return found


def presence_of(process: str) -> bytes:
    """The routing id of the connection by which a process says that it lives."""
    return b"P" + process.encode()


def pieces(body: Sequence[memoryview], offset: int, length: int) -> list[memoryview]:
    """The bytes `[offset, offset + length)` of what stands in several views; copies nothing."""
    found, start, end = [], 0, offset + length
    for view in body:
        low, high = max(offset - start, 0), min(end - start, view.nbytes)
        if low < high:
            found.append(view[low:high])
        start += view.nbytes
        if start >= end:
            break
    return found
