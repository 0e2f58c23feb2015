"""What a server of events answers, as records and values. Sans-IO; what is read is checked."""

from __future__ import annotations

import msgspec

from proxyfab.errors import IntegrityError
from proxyfab.events.model import Delivery, Kept, Position
from proxyfab.wire.messages import Message, parted


class _Known(msgspec.Struct, array_like=True, gc=False):
    """What is known of a record."""

    partition: int
    offset: int
    id: str
    time: float
    attempt: int
    note: bytes
    nbytes: int


_known = msgspec.msgpack.Decoder(list[_Known])


def deliveries_in(message: Message, topic: str) -> list[Delivery]:
    """The records that came; copies their bodies out of the message, whose memory is ZeroMQ's."""
    if not message.body:
        return []
    try:
        known = _known.decode(message.body[0])
    except (msgspec.MsgspecError, ValueError) as error:
        raise IntegrityError(f"A broker's records are malformed: {error}.") from error
    views = message.body[1:]
    sizes = [each.nbytes for each in known]
    if min(sizes, default=0) < 0 or sum(sizes) != message.nbytes - message.body[0].nbytes:
        raise IntegrityError("A broker's answer does not hold the records that it says.")
    bodies = parted(views, sizes)
    return [
        Delivery(
            b"".join(body), Position(topic, each.partition, each.offset), each.id, each.time, each.attempt, each.note
        )
        for each, body in zip(known, bodies, strict=True)
    ]


def kept_in(message: Message) -> dict[str, Kept | None]:
    """The values that came, by name; None for one that is not there."""
    names, revisions, sizes = message.items("names"), message.items("revisions"), message.items("sizes")
    if (
        not len(names) == len(revisions) == len(sizes)
        or not all([name.__class__ is str for name in names])
        or not all([number.__class__ is int for number in (*revisions, *sizes)])
        or sum([size for size in sizes if size > 0]) != message.nbytes
    ):
        raise IntegrityError("A broker's values are malformed.")
    values = parted(message.body, [max(0, size) for size in sizes])
    return {
        name: None if size < 0 else Kept(b"".join(value), revision)
        for name, revision, size, value in zip(names, revisions, sizes, values, strict=True)
    }
