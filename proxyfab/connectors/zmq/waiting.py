"""Waiting for one of many objects: told by their servers, on one connection to each.

What one message cannot name is asked in several, on the same connection; the first answer ends the others. What these
cannot name either is asked in turns, as objects of several servers are. Who waits outlives a restart of the server: for
objects that it held he is told that they are lost, for a mere name he goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from math import inf

from proxyfab.connectors.zmq.batches import Wanted, cut
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.private import Files
from proxyfab.errors import ConnectorError, ObjectLost
from proxyfab.grace import LEAST, grace
from proxyfab.wire.flow import PIPELINED
from proxyfab.wire.messages import REQUEST
from proxyfab.zeromq.connection import Broken

_TURN = 0.02
"""Seconds that each of several servers is listened to."""
_LOOK = 1.0
"""Seconds in which each of several servers has to say what is there at first; the others are asked in their turn."""
_SOON = 1.0
"""Seconds in which a server may be back that somebody else starts anew."""


def first(wanted: Sequence[Wanted], timeout: float | None, ends: float, patience: float) -> list[int]:
    """The numbers of what is there, as soon as one is.

    Args:
        wanted: At least one.
        timeout: Seconds; None for no deadline. With 0 or less each server is asked once, and has to answer.
        ends: When they are over, in monotonic seconds; infinite without a deadline, and for a mere look.
        patience: Seconds that a server may take to answer where `ends` is infinite.
    """
    found_at: dict[tuple[int, str], list[list[Wanted]]] = {}
    for batch in cut(wanted):
        found_at.setdefault((id(batch[0].spot.link), batch[0].spot.incarnation), []).append(batch)
    servers = {
        (*server, start): batches[start : start + PIPELINED]
        for server, batches in found_at.items()
        for start in range(0, len(batches), PIPELINED)
    }
    answers = -inf if timeout is not None and timeout <= 0 else ends
    if len(servers) > 1:
        return _in_turns(servers, answers, ends, patience)
    (batches,) = servers.values()
    there = _wait(batches, -inf, ends, patience) if len(batches) > 1 else []  # all that is there is named
    return there or _wait(batches, answers, ends, patience) or []


def _in_turns(
    servers: Mapping[tuple[int, str, int], list[list[Wanted]]], answers: float, ends: float, patience: float
) -> list[int]:
    away: dict[tuple[int, str, int], float] = {}
    turn = 0.0  # at first, for the same reason
    while True:
        found: list[int] = []
        for server, batches in servers.items():
            now = time.monotonic()
            over = min(now + turn, answers)
            leaves = inf if answers == -inf else min(now + (turn or _LOOK), ends)
            try:
                some = _wait(batches, over, leaves, patience, outage=0.0)
            except ConnectorError:
                now = time.monotonic()
                if now - away.setdefault(server, now) > batches[0][0].spot.link.timeout:
                    raise
                time.sleep(max(over - now, 0.0))
                continue
            if some is not None:
                away.pop(server, None)
                found += some
            if found and turn:
                break
        if found or time.monotonic() >= answers:
            return found
        turn = _TURN


def _wait(
    batches: list[list[Wanted]], over: float, leaves: float, patience: float, outage: float | None = None
) -> list[int] | None:
    """Wait for objects of one server; None where it has not answered in time.

    Args:
        batches: The objects. Where the server is to answer at once, all answers are taken.
        over: When the server is to answer that none is there.
        leaves: When we leave without an answer, where it is not on its way; infinite to insist on one.
        patience: Seconds that it may take then.
        outage: Seconds that it may be away, if not as long as a call may last.
    """
    link, began = batches[0][0].spot.link, time.monotonic()
    incarnation = batches[0][0].spot.incarnation

    def once(channel: Channel, request: bytes) -> list[int]:
        attempts.up()
        now = time.monotonic()
        left = None if over == inf else max(over - now, 0.0)
        if leaves < inf:
            until = max(leaves, now) + grace(channel.pace, most=inf)
        else:
            until = inf if left is None else now + left + patience
        try:
            return _asked(channel, request, batches, left, until)
        except ObjectLost as stopped:
            if incarnation:
                raise
            raise Broken("has stopped") from stopped  # a name, which the next one may know

    seconds = max((leaves if leaves < inf else over) - began, 0.0)
    if Files.at(link.address) is not None and not link.revives:  # whoever starts it anew is not us
        seconds = min(seconds, _SOON)
    attempts = link.patience(None if seconds == inf else seconds, outage)
    ends = leaves + LEAST
    try:
        return link.call(
            "wait", once, incarnation=incarnation, timeout=seconds + patience, attempts=attempts, ends=ends
        )
    except Broken:  # it is late
        trouble = attempts.trouble or link.trouble
        if trouble is not None:
            raise trouble from None
        return None
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
