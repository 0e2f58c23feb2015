"""What records, values and lists look like in messages of a server of events. Sans-IO; what is read is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from proxyfab.errors import CapacityError, IntegrityError
from proxyfab.events.cursor import Spot
from proxyfab.events.model import Delivery, Kept, Record
from proxyfab.server.events.waiting import Reply
from proxyfab.wire.messages import Message, parted

BATCH = 256
"""Records of one message."""
ROOM = 512 << 10
"""Bytes of one answer, beyond which nothing further is added."""
MAX_RECORD = 1 << 20
PAGE = 128
"""Values of one answer."""
_ID = 256


def records(message: Message) -> list[Record]:
    """The records in a message, of which nothing is kept that the message itself lies in."""
    ids, keys = message.items("i", BATCH), message.items("k", BATCH)
    sizes, partitions = message.counts("z"), message.counts("p")
    if not len(ids) == len(keys) == len(sizes) == len(partitions) or sum(sizes) != message.nbytes:
        raise IntegrityError("A message does not hold the records that it says.")
    for name in (*ids, *keys):
        if name is not None and (name.__class__ is not str or len(name) > _ID):
            raise IntegrityError(f"An id or a key of a record is no text of at most {_ID} characters.")
    if max(sizes, default=0) > MAX_RECORD:
        raise CapacityError(f"A record of {max(sizes)} bytes is larger than {MAX_RECORD}.")
    bodies = parted(message.body, sizes)
    return [
        Record(b"".join(body), name or "", partition, key)
        for body, name, partition, key in zip(bodies, ids, partitions, keys, strict=True)
    ]


def delivered(found: list[Delivery], cursors: list[list[int]] | None = None) -> Reply:
    """Records on their way: what is known of them, packed, and then their bodies."""
    known = [
        (
            each.position.partition,
            each.position.offset,
            each.id,
            each.time,
            each.attempt,
            each.note,
            len(each.body),
        )
        for each in found
    ]
    body = [memoryview(msgspec.msgpack.encode(known)), *[memoryview(each.body) for each in found if each.body]]
    fields: dict[str, Any] = {"n": len(found)}
    if cursors is not None:
        fields["c"] = cursors
    return Reply(fields, tuple(body))


def kept(found: Mapping[str, Kept | None], *, more: bool = False) -> Reply:
    """Values, in the order of their names; -1 as the size of one that is not there."""
    fields = {
        "names": list(found),
        "revisions": [0 if each is None else each.revision for each in found.values()],
        "sizes": [-1 if each is None else len(each.value) for each in found.values()],
        "more": more,
    }
    return Reply(fields, tuple([memoryview(each.value) for each in found.values() if each is not None and each.value]))


def some(found: dict[str, Kept | None]) -> dict[str, Kept | None]:
    """As many as one answer takes."""
    chosen: dict[str, Kept | None] = {}
    nbytes = 0
    for name, kept in found.items():
        nbytes += 0 if kept is None else len(kept.value)
        if chosen and (nbytes > ROOM or len(chosen) >= PAGE):
            break
        chosen[name] = kept
    return chosen


def page(names: Sequence[str], message: Message, say: Callable[[str], Any]) -> Reply:
    """What is said of names behind `after`, as much as one answer takes, packed."""
    after, found, nbytes = message.text("after", ""), [], 0
    for name in names:
        if name <= after:
            continue
        if nbytes > ROOM:
            break
        found.append(msgspec.Raw(msgspec.msgpack.encode(say(name))))
        nbytes += len(found[-1])
        after = name
    more = bool(names) and after < names[-1]
    return Reply({"after": after, "more": more}, (memoryview(msgspec.msgpack.encode(found)),))


def spots(flat: list[int]) -> list[Spot]:
    """Pairs of partition and offset; raises IntegrityError."""
    if len(flat) % 2:
        raise IntegrityError("What is settled is not pairs of partition and offset.")
    return list(zip(flat[::2], flat[1::2], strict=True))


def expected(message: Message) -> int | None:
    """Which one a value must have; None for whatever it has."""
    return message.count("revision") if "revision" in message.fields else None
