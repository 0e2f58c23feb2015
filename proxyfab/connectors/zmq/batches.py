"""Batches: many wishes become few messages, each to one server and within the bounds of a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxyfab.connectors.zmq.servers import Spot
from proxyfab.wire.messages import MAX_BODY

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
