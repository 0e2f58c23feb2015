"""Waiting for a key without polling: the server is asked once, remembers that it was, and says when the key changes.

That is Redis's client tracking (6.0 and later, RESP3): the question "is it there?" is remembered for this connection
whatever the answer, so that no put between question and wait can be missed, and a put costs the writer nothing. A
notice is not stored anywhere, so none can pile up. Each waiting thread has a connection of its own while it waits.

Promises: awake within a round trip of the put; back when the time is over; a server that does not answer for five
seconds, as an unreachable one, is a ConnectorError, within its retry budget. Every two seconds the question is asked
again, which is the heartbeat.
"""

from __future__ import annotations

from time import monotonic

from proxyfab.connectors.redis.link import Link, pack
from proxyfab.connectors.redis.parser import Push, checked

HEARTBEAT = 2.0
SILENCE = 5.0


def wait(link: Link, name: bytes, deadline: float | None) -> bool:
    """True as soon as the key is there, False at the deadline (monotonic seconds; None for none).

    The link must speak RESP3 and track; it is left without anything under way.
    """
    while True:
        if ask(link, name):
            return True
        left = HEARTBEAT if deadline is None else min(HEARTBEAT, deadline - monotonic())
        if left <= 0 and (deadline is None or monotonic() >= deadline):
            return False
        if link.wait(left):
            link.begin(SILENCE)
            _take_notice(link)


def ask(link: Link, name: bytes) -> bool:
    """Whether the key is there now; notices of changes before the answer are passed over."""
    link.begin(SILENCE)
    link.ask(pack(b"EXISTS", name))
    while isinstance(reply := link.parser.read(), Push):
        pass
    return bool(checked(reply))


def _take_notice(link: Link) -> None:
    """Read what was said unasked: which key it was is found by asking."""
    link.parser.read()
    while link.parser.pending:
        link.parser.read()
