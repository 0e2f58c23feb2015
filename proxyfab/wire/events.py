"""Frames of events: what goes through a broker, and what both ends must agree on. Sans-IO.

    frame   0xEF "E" version, then msgpack [producer, epoch, partition, first, source, stores, [event, ...]]
    event   [kind, data, time, key, metadata, attributes]

Sequence numbers count a producer's events in one partition, without gaps: event i of a frame has `first + i`. An
event's id is made of producer, epoch, partition and number unless its attributes name another one, so that whoever
sees it twice knows. Attributes are those of CloudEvents 1.0 (https://github.com/cloudevents/spec); what all events of
a frame share is said once.

Rules:
1. Never pickle: an event is read before it is trusted. An object in it is a reference, or bytes that nobody has opened.
2. Whatever bytes come in, a Frame or an IntegrityError comes out; nothing is allocated by a number that was read.
3. A frame is at most `MAX_FRAME` bytes and `MAX_EVENTS` events, and holds events of one partition only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec

from proxyfab.errors import IntegrityError, SerializationError

VERSION = 1
EVENTS = 64
"""Events that a producer gathers into one frame."""
NBYTES = 256 << 10
"""Bytes at which a frame is full."""
MAX_EVENTS = 4096
MAX_FRAME = 16 << 20
_MAGIC = b"\xefE"
_START = _MAGIC + bytes([VERSION])

VALUE = 0
"""`data` is the object itself: None, a bool, an int, a float, text or bytes."""
OBJECT = 1
"""`data` is a reference: a list of its store's place in `stores`, and what else a Ref pickles as."""
END = 2
"""The producer sends nothing more."""
NOTHING = msgspec.Raw(b"\xc0")
"""An event's metadata where it has none. (What is still encoded cannot be told from None by its type.)"""
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
FIELDS = 24
"""Bytes that the fields of an event have at most beside its data, its key and its metadata."""


class Event(msgspec.Struct, array_like=True, gc=False):
    """One event of a frame.

    Attributes:
        kind: VALUE, OBJECT or END.
        data: As the kind says.
        time: Microseconds since 1970, when it was sent.
        key: What it belongs to: events of one key keep their order. Also its CloudEvents subject, unless that is given.
        metadata: A map, still encoded: who filters nothing by it need not decode it. NOTHING for none.
        attributes: CloudEvents attributes that are not what they would be by default.
    """

    kind: int
    data: Any = None
    time: int = 0
    key: str | None = None
    metadata: msgspec.Raw = NOTHING
    attributes: dict[str, str] | None = None


class Frame(msgspec.Struct, array_like=True, gc=False):
    """Events of one producer for one partition, in its order."""

    producer: str
    epoch: int
    partition: int
    first: int
    source: str
    stores: Annotated[list[str], msgspec.Meta(max_length=MAX_EVENTS)]
    events: Annotated[list[Event], msgspec.Meta(max_length=MAX_EVENTS)]

    @property
    def id(self) -> str:
        """What a broker knows it again by when it is sent twice."""
        return f"{self.producer}-{self.epoch}-{self.partition}-{self.first}"

    def id_of(self, index: int) -> str:
        """The id of one of its events."""
        attributes = self.events[index].attributes
        own = attributes and attributes.get("id")
        return own or f"{self.producer}-{self.epoch}-{self.partition}-{self.first + index}"


Written: TypeAlias = "msgspec.Raw | Event"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
_map = msgspec.msgpack.Decoder(dict[str, Any])


def encode(frame: Frame) -> bytes:
    """The bytes of a frame.

    Raises:
        SerializationError: It holds what cannot be said, or is too large.
    """
    try:
        body = _START + _encoder.encode(frame)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(f"An event of producer {frame.producer} cannot be encoded: {error}.") from error
    if len(body) > MAX_FRAME:
        raise SerializationError(
            f"A frame of {len(frame.events)} events has {len(body)} bytes, more than {MAX_FRAME}: give the producer a "
            "store, so that large objects go there."
        )
    return body


def written(
    kind: int,
    data: Any,
    time: int,
    key: str | None,
    metadata: dict[str, Any] | None,
    attributes: dict[str, str] | None,
) -> msgspec.Raw:
    """One event as it stands in a frame, to be `joined` with others; nothing of it is looked at again.

    Raises:
        SerializationError: It holds what cannot be said.
    """
    try:
        return msgspec.Raw(_one.encode((kind, data, time, key, metadata, attributes)))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(
            "An event cannot be encoded: its metadata are plain (numbers, text, bytes, lists and maps of these), its "
            f"key and attributes text; {error}."
        ) from error


def joined(frame: Frame, events: Sequence[Written], room: bytearray) -> bytes:
    """The bytes of a frame without events of its own, and with these.

    Args:
        frame: What they have in common.
        events: What `written` made, or those that need not be written before, as nothing of them can change or fail:
            with plain data and packed metadata, without attributes, and with an ASCII key, if any.
        room: Where they are put together: the same each time, as fresh memory costs more than the bytes.
    """
    room[: len(_START)] = _START
    fields = (frame.producer, frame.epoch, frame.partition, frame.first, frame.source, frame.stores, events)
    _encoder.encode_into(fields, room, len(_START))
    return bytes(room)


def decode(body: bytes | bytearray | memoryview) -> Frame:
    """The frame in these bytes, which may come from anybody.

    Raises:
        IntegrityError: They are no frame, or of a version that is not known here.
    """
    head = bytes(body[:3])
    if head != _START:
        if head[:2] == _MAGIC:
            raise IntegrityError(
                f"A frame of events is of version {head[2:].hex()}; this proxyfab reads {VERSION:02x}."
            )
        raise IntegrityError(f"These {len(body)} bytes are no frame of events: they begin with {head.hex()}.")
    if len(body) > MAX_FRAME:
        raise IntegrityError(f"A frame of events has {len(body)} bytes, more than {MAX_FRAME}.")
    try:
        frame = _decoder.decode(memoryview(body)[3:])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise IntegrityError(f"A frame of events is malformed: {error}.") from error
    if frame.first < 0 or frame.epoch < 0 or frame.partition < 0:
        raise IntegrityError(f"A frame of {len(frame.events)} events from number {frame.first} makes no sense.")
    plain, stores = _PLAIN, len(frame.stores)
    for event in frame.events:
        if event.kind or event.data.__class__ not in plain:  # VALUE is 0: most are
            _check(event, stores)
    return frame


def _check(event: Event, stores: int) -> None:
    kind, data = event.kind, event.data
    if kind == VALUE:
        if data.__class__ not in _PLAIN:
            raise IntegrityError(f"An event's plain value is a {type(data).__name__}.")
    elif kind == OBJECT:
        if data.__class__ is not list or not data or data[0].__class__ is not int or not 0 <= data[0] < stores:
            raise IntegrityError("An event's reference names no store of its frame.")
    elif kind != END:
        raise IntegrityError(f"An event is of kind {kind}, which is not known here.")


def is_plain(obj: object) -> bool:
    """Whether an object can stand in an event as it is, and comes out of it the same, type included."""
    kind = obj.__class__
    if kind is bytes or kind is float or obj is None or kind is bool:
        return True
    if kind is int:
        return -(1 << 63) <= obj < 1 << 64  # type: ignore[operator]  # it is an int
    return kind is str and (obj.isascii() or _encodable(obj))  # type: ignore[attr-defined,arg-type]  # it is text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def pack_metadata(metadata: dict[str, Any]) -> msgspec.Raw:
    """Metadata as an event carries it: what msgpack has, and NumPy's numbers as plain ones.

    Raises:
        SerializationError: It holds something else.
    """
    try:
        return msgspec.Raw(_one.encode(metadata))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(
            f"An event's metadata are plain: numbers, text, bytes, lists and maps of these; {error}."
        ) from error


def unpack_metadata(packed: msgspec.Raw) -> dict[str, Any]:
    """The inverse; raises IntegrityError."""
    if packed == NOTHING:
        return {}
    try:
        return _map.decode(packed)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise IntegrityError(f"An event's metadata is malformed: {error}.") from error


def _number(obj: object) -> Any:
    """What a NumPy scalar is as a plain number."""
    item = getattr(obj, "item", None)
    if item is None or getattr(obj, "ndim", 1) != 0:
        raise TypeError(f"a {type(obj).__qualname__} is none of these")
    return item()


_one = msgspec.msgpack.Encoder(enc_hook=_number)
