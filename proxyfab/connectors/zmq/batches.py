"""Batches: many wishes become few messages, each to one server and within the bounds of a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxyfab.connectors.zmq.link import Link
from proxyfab.wire.messages import CHUNK

_MOST = 256
_MOST_TEXT = 48 << 10
"""Bytes of names in one header."""


class Wanted(NamedTuple):
    """One object that is asked for, or put."""

    number: int
    """Its place in the caller's batch."""
    id: str
    link: Link
    incarnation: str
    namespace: str
    nbytes: int = 0


def cut(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """The wishes in batches that a message can carry: of one server, incarnation and namespace."""
    groups: dict[tuple[int, str, str], list[Wanted]] = {}
    for item in wanted:
        groups.setdefault((id(item.link), item.incarnation, item.namespace), []).append(item)
    for group in groups.values():
        batch: list[Wanted] = []
        text = nbytes = 0
        for item in group:
            length = 4 * len(item.id) + len(item.namespace) + 16
            if batch and (len(batch) == _MOST or text + length > _MOST_TEXT or nbytes + item.nbytes > CHUNK):
                yield batch
                batch, text, nbytes = [], 0, 0
            batch.append(item)
            text += length
            nbytes += item.nbytes
        if batch:
            yield batch
