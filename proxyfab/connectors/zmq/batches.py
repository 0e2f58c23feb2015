"""Batches: many wishes become few messages, or are sent one right behind the other.

Each message goes to one server and keeps within the bounds of one; no wish waits for another's answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from proxyfab.abc import Swap
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.servers import Spot
from proxyfab.wire.messages import MAX_BODY, REQUEST, Message

_MOST = 1024
_MOST_TEXT = 48 << 10
"""Bytes of names in one header."""


class Wanted(NamedTuple):
    """One object that is asked for, or put."""

    number: int
    """Its place in the caller's batch."""
    id: str
    spot: Spot
    nbytes: int = 0


def cut(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """The wishes in batches that a message can carry: of one server, incarnation and namespace."""
    groups: dict[tuple[int, str, str], list[Wanted]] = {}
    for item in wanted:
        groups.setdefault((id(item.spot.link), item.spot.incarnation, item.spot.namespace), []).append(item)
    for group in groups.values():
        batch: list[Wanted] = []
        text = nbytes = 0
        for item in group:
            length = len(item.id.encode()) + 12
            if batch and (len(batch) == _MOST or text + length > _MOST_TEXT or nbytes + item.nbytes > MAX_BODY):
                yield batch
                batch, text, nbytes = [], 0, 0
            batch.append(item)
            text += length
            nbytes += item.nbytes
        if batch:
            yield batch


class Asked(NamedTuple):
    """A request without a body in its answer."""

    verb: str
    fields: dict[str, Any]
    body: list[memoryview]


def swap_message(swap: Swap, spot: Spot) -> Asked:
    """Compare and set one object."""
    sizes = [None if frames is None else frames.nbytes for frames in (swap.old, swap.new)]
    body = [frames.join() for frames in (swap.old, swap.new) if frames is not None and frames.nbytes]
    fields = {"ns": spot.namespace, "ids": [swap.key.id], "old": sizes[0], "new": sizes[1], "ttl": swap.ttl}
    return Asked("swap", fields, body)


def pipelined(channel: Channel, request: bytes, asked: Sequence[Asked], timeout: float) -> list[Message]:
    """The answers to several requests of one connection, which are on their way together.

    Their names follow from `request`: who repeats that repeats them, and the server knows them again.
    """
    number = int.from_bytes(request, "big")
    names = [((number + place) % (1 << 8 * REQUEST)).to_bytes(REQUEST, "big") for place in range(len(asked))]
    for name, (verb, fields, body) in zip(names, asked, strict=True):
        channel.send(verb, name, fields, body)
    found: dict[bytes, Message] = {}
    known = frozenset(names)
    while len(found) < len(names):
        message = channel.answer(request, time.monotonic() + timeout, known)
        found[message.request] = message
    return [found[name] for name in names]
