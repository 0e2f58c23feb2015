"""What members say of what they fetched: done, give it to somebody else, I am still at it. In the loop's thread.

Promises: it is said in the order of the calls; the last of each call is confirmed by the server, which stands for all
before it; what a lost connection swallowed is said again. Nobody waits for that but `flush`. A server alone confirms
what it has in memory, and writes it to its file within a tenth of a second: `written` waits for that, too.

A server that was killed may have forgotten what it delivered last: it delivers that again, and gives no answer to who
acknowledges it meanwhile. So where an answer is missing its consumer is asked how far it is; who flushes is told once.
A server that is only slow is waited for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from proxyfab.brokers.nats.groups import NO_CONSUMER, NO_STREAM
from proxyfab.brokers.nats.link import Link, Refusal, now
from proxyfab.brokers.nats.session import Asked, Lost
from proxyfab.brokers.nats.tokens import Token, consumer_of
from proxyfab.errors import ConnectorError, ProxyfabError

ACK = b"+ACK"
EXTEND = b"+WPI"
_LASTS = 60.0
_DOUBT, _AGAIN = 0.5, 5.0
"""Seconds without an answer after which a consumer is asked how far it is, and then until it is said again."""
_WRITES = 0.15
"""Seconds after which a server has written what it confirmed: it does so ten times a second, whatever it is asked."""


def nak(delay: float) -> bytes:
    """Give it back, to come again after so many seconds."""
    return b"-NAK" if delay <= 0 else b'-NAK {"delay": %d}' % int(delay * 1e9)


class _Look(NamedTuple):
    """A question how far a consumer is, and when it was asked."""

    since: float
    task: asyncio.Task[float]


class Settling:
    """What one member says.

    Args:
        link: To whom.
        stream: As JetStream calls it.
    """

    def __init__(self, link: Link, stream: str) -> None:
        self._link = link
        self._stream = stream
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: ProxyfabError | None = None
        self._looks: dict[str, _Look] = {}
        self._confirmed = -_WRITES

    def say(self, payload: bytes, tokens: Sequence[str]) -> None:
        """Say so of each, soon."""
        if tokens:
            task = asyncio.get_running_loop().create_task(self._tell(payload, tokens))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ProxyfabError):
            self._failed = error

    async def flush(self, deadline: float) -> None:
        """Return when all was confirmed; raises what was wrong with any of it."""
        while self._tasks:
            left = deadline - now()
            if left <= 0:
                raise ConnectorError(f"{self._link.place.label} did not confirm acknowledgements in time.")
            await asyncio.wait(list(self._tasks), timeout=left)
            await asyncio.sleep(0)  # so that `_done` is called
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    async def written(self, deadline: float) -> None:
        """Return when what was confirmed outlives the server's process. Raises as `flush`."""
        await self.flush(deadline)
        await asyncio.sleep(max(0.0, min(self._confirmed + _WRITES, deadline) - now()))

    async def _tell(self, payload: bytes, tokens: Sequence[str]) -> None:
        deadline, patience = now() + _LASTS, _DOUBT if payload == ACK else _AGAIN
        while tokens:
            last = list({consumer_of(token): token for token in tokens}.values())
            rest = [token for token in tokens if token not in last] if len(tokens) > len(last) else []
            session, since, known = await self._link.session(deadline), now(), list(tokens)
            try:
                for token in rest:
                    await session.say(token, payload)
                asked = [await session.ask(token, payload) for token in last]
            except Lost:
                continue
            if not await _answered(asked, min(_DOUBT, deadline - now())) and session.alive:
                known, forgotten = await self._known(tokens, since, deadline)
                if forgotten and payload == ACK:
                    self._failed = ConnectorError(
                        f"{self._link.place.label} was started anew and has forgotten {forgotten} deliveries that were "
                        "acknowledged: they come again."
                    )
                if len(known) == len(tokens):  # only slow: who gives it back twice takes it from who got it since
                    await _answered(asked, min(patience, deadline - now()))
                    patience = _AGAIN
            if all(each.answer.done() for each in asked) and not _lost(asked):
                self._confirmed = now()
                return
            for each in asked:
                session.forget(each.token)
            if now() >= deadline:
                raise ConnectorError(f"{self._link.place.label} did not confirm acknowledgements in time.")
            tokens = known

    async def _known(self, tokens: Sequence[str], since: float, deadline: float) -> tuple[list[str], int]:
        """Those of deliveries that the server knows of, asked after a moment; how many it has forgotten."""
        names = list({consumer_of(token) for token in tokens})
        found = await asyncio.gather(*(self._reached(name, since, deadline) for name in names))
        reached = dict(zip(names, found, strict=True))
        there = [token for token in tokens if reached[consumer_of(token)] >= 0]
        known = [token for token in there if Token.parse(token).offset <= reached[consumer_of(token)]]
        return known, len(there) - len(known)

    async def _reached(self, consumer: str, since: float, deadline: float) -> float:
        """As `_look` says; a server is asked once at a time, be there ever so many who wait for that."""
        while True:
            look = self._looks.get(consumer)
            if look is None or (look.since < since and look.task.done()):
                task = asyncio.get_running_loop().create_task(self._look(consumer, deadline))
                look = self._looks[consumer] = _Look(now(), task)
            await asyncio.wait([look.task])
            if look.since >= since:
                return look.task.result()

    async def _look(self, consumer: str, deadline: float) -> float:
        """Up to which offset it has delivered; less than 0 for one that is gone: nothing is owed to it any more."""
        try:
            info = await self._link.call(f"CONSUMER.INFO.{self._stream}.{consumer}", None, deadline)
        except Refusal as refusal:  # of a cluster that chooses who leads: it cannot say
            return -1.0 if refusal.number in (NO_STREAM, NO_CONSUMER) else math.inf
        return float(info["delivered"]["stream_seq"])


async def _answered(asked: Sequence[Asked], seconds: float) -> bool:
    """Whether all is answered within the time."""
    return not (await asyncio.wait([each.answer for each in asked], timeout=max(0.0, seconds)))[1]


def _lost(asked: Sequence[Asked]) -> bool:
    """Whether an answer was lost; raises when it was refused."""
    for each in asked:
        try:
            each.answer.result()  # a consumer that is not there any more owes nothing: that is an answer as well
        except Lost:
            return True
    return False
