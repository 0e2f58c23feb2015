"""Waiting for one of many objects: told by their servers, on one connection to each.

What one message cannot name is asked in several, on the same connection; the first answer ends the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from proxyfab.connectors.zmq.batches import Wanted, cut
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.wire.messages import REQUEST

_TURN = 0.02
"""Seconds that each of several servers is listened to."""


def first(wanted: Sequence[Wanted], timeout: float | None, patience: float) -> list[int]:
    """The numbers of what is there, as soon as one is.

    Args:
        wanted: At least one.
        timeout: Seconds from now; None for no deadline.
        patience: Seconds that a server may take to answer beyond it.
    """
    deadline = None if timeout is None else time.monotonic() + max(timeout, 0)
    servers: dict[tuple[int, str], list[list[Wanted]]] = {}
    for batch in cut(wanted):
        servers.setdefault((id(batch[0].spot.link), batch[0].spot.incarnation), []).append(batch)
    alone = len(servers) == 1
    if sum(map(len, servers.values())) > 1:  # the first answer would end the others, and all that is there is named
        there = [number for batches in servers.values() for number in _wait(batches, 0.0, patience)]
        if there:
            return there
    while True:
        for batches in servers.values():
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            found = _wait(batches, left if alone else min(_TURN, _TURN if left is None else left), patience)
            if found or alone:
                return found
        if deadline is not None and time.monotonic() >= deadline:
            return []


def _wait(batches: list[list[Wanted]], timeout: float | None, patience: float) -> list[int]:
    """Wait for objects of one server. With no time at all, for the answers to every batch."""
    spot = batches[0][0].spot
    deadline = None if timeout is None else time.monotonic() + timeout

    def once(channel: Channel, request: bytes) -> list[int]:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        until = float("inf") if left is None else time.monotonic() + left + patience
        asked = {os.urandom(REQUEST) if number else request: batch for number, batch in enumerate(batches)}
        for mine, batch in asked.items():
            fields = {"ns": batch[0].spot.namespace, "ids": [item.id for item in batch], "timeout": left}
            channel.send("wait", mine, fields)
        found: list[int] = []
        while asked and (not found or timeout == 0):
            answer = channel.answer(request, until, asked)
            batch = asked.pop(answer.request, [])
            found += [batch[number].number for number in answer.counts("found") if number < len(batch)]
        for other in asked:  # their answers, if they are under way, are passed over
            channel.send("cancel", other, {})
        return found

    longest = float("inf") if timeout is None else timeout + patience
    return spot.link.call("wait", once, incarnation=spot.incarnation, timeout=longest)
