"""Waiting for one of many objects: told by their servers, on one connection to each.

What one message cannot name is asked in several, on the same connection; the first answer ends the others. What these
cannot name either is asked in turns, as objects of several servers are. Who waits outlives a restart of the server: for
objects that it held he is told that they are lost, for a mere name he goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from proxyfab.connectors.zmq.batches import Wanted, cut
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.private import Files
from proxyfab.errors import ConnectorError, ObjectLost
from proxyfab.wire.flow import PIPELINED
from proxyfab.wire.messages import REQUEST
from proxyfab.zeromq.connection import Broken

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
    found_at: dict[tuple[int, str], list[list[Wanted]]] = {}
    for batch in cut(wanted):
        found_at.setdefault((id(batch[0].spot.link), batch[0].spot.incarnation), []).append(batch)
    servers = {
        (*server, start): batches[start : start + PIPELINED]
        for server, batches in found_at.items()
        for start in range(0, len(batches), PIPELINED)
    }
    if len(servers) == 1:
        (batches,) = servers.values()
        there = _wait(batches, 0.0, patience) if len(batches) > 1 else []  # all that is there is named
        return there or _wait(batches, timeout, patience)
    away: dict[tuple[int, str, int], float] = {}
    turn = 0.0  # at first, for the same reason
    while True:
        found: list[int] = []
        for server, batches in servers.items():
            left = turn if deadline is None else min(turn, max(deadline - time.monotonic(), 0.0))
            try:
                found += _wait(batches, left, patience, outage=0.0)
            except ConnectorError:
                now = time.monotonic()
                if now - away.setdefault(server, now) > batches[0][0].spot.link.timeout:
                    raise
                time.sleep(left)
            else:
                away.pop(server, None)
            if found and turn:
                break
        if found or (deadline is not None and time.monotonic() >= deadline):
            return found
        turn = _TURN


def _wait(
    batches: list[list[Wanted]], timeout: float | None, patience: float, outage: float | None = None
) -> list[int]:
    """Wait for objects of one server. With no time at all, for the answers to every batch."""
    spot = batches[0][0].spot
    deadline = None if timeout is None else time.monotonic() + timeout

    def once(channel: Channel, request: bytes) -> list[int]:
        attempts.up()
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        until = float("inf") if left is None else time.monotonic() + left + patience
        try:
            return _asked(channel, request, batches, left, until)
        except ObjectLost as stopped:
            if spot.incarnation:
                raise
            raise Broken("has stopped") from stopped  # a name, which the next one may know

    longest = float("inf") if timeout is None else timeout + patience
    over = Files.at(spot.link.address) is not None and not spot.link.revives  # whoever starts it anew is not us
    attempts = spot.link.patience(0.0 if over else timeout, outage)
    try:
        return spot.link.call("wait", once, incarnation=spot.incarnation, timeout=longest, attempts=attempts)
    finally:
        attempts.over()


def _asked(
    channel: Channel, request: bytes, batches: list[list[Wanted]], left: float | None, until: float
) -> list[int]:
    """What a server says within so many seconds, on one channel."""
    asked = {os.urandom(REQUEST) if number else request: batch for number, batch in enumerate(batches)}
    for mine, batch in asked.items():
        fields = {"ns": batch[0].spot.namespace, "ids": [item.id for item in batch], "timeout": left}
        channel.send("wait", mine, fields)
    found: list[int] = []
    while asked and (not found or left == 0):
        answer = channel.answer(request, until, asked)
        batch = asked.pop(answer.request, [])
        found += [batch[number].number for number in answer.counts("found") if number < len(batch)]
    for other in asked:  # their answers, if they are under way, are passed over
        channel.send("cancel", other, {})
    return found
