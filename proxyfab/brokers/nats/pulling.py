"""Fetching from one or several consumers: who is asked for how many, what has come, and who waits for it.

A request names how many are wanted and how long they may be waited for; the server sends what it has as soon as it has
something, and then says that this was all. With one consumer that is one request for each fetch. With several each is
asked for its share of what it has, in turn where one fetch wants less than one of each, and if nobody has anything, all
are asked for one when it comes; what comes too much then is kept for the next fetch.

Promises: one request at a time to each consumer; a lost connection, a server that is started anew and a consumer that
went (its group moved) only begin the fetch again. A fetch goes on at its deadline, whatever the server does: what was
asked, and a connection that is being made, are the next one's then; but a mere look, with no time at all, is answered.
In the loop's thread; any number of fetches may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import Any

import msgspec

from proxyfab.brokers.nats.arrivals import Message
from proxyfab.brokers.nats.link import STATUS, Link, described, now, status_of
from proxyfab.brokers.nats.naming import unpack_id
from proxyfab.brokers.nats.session import Lost, Session, refused, seen
from proxyfab.brokers.nats.tokens import Token
from proxyfab.errors import ConnectorError
from proxyfab.events.model import Delivery, Position
from proxyfab.grace import LEAST

_SLICE = 20.0
_SILENT = 3.0
"""Seconds beyond its own time after which a request without an answer means that nobody is there."""
_REST = 0.05
_LARGEST = 64 << 20
_SOON = 0.004


class Feed:
    """One consumer."""

    __slots__ = ("due", "left", "name", "number", "sure")

    def __init__(self, name: str, *, sure: bool) -> None:
        self.name = name
        self.sure = sure
        """Whether nothing that it sent can have been lost with a connection since the last that came."""
        self.left = 0
        """Of what it was asked for, how many have not come; 0 when it was not asked, or has said that this was all."""
        self.number = ""
        """Of the last request."""
        self.due = 0.0
        """When it says so at the latest."""


class Intake(ABC):
    """What comes in for one subscription.

    Args:
        link: From where.
        topic: Of what.
        stream: As JetStream calls it.
    """

    def __init__(self, link: Link, topic: str, stream: str) -> None:
        self.link = link
        self.topic = topic
        self.ready: deque[Delivery] = deque()
        self.closed = False
        self._stream = stream
        self._session: Session | None = None
        self._feeds: dict[str, Feed] = {}
        self._asked: dict[str, Feed] = {}
        self._numbers = itertools.count(1)
        self._turns = itertools.count()
        self._inbox = ""
        self._listening: Any = None
        self._bell: asyncio.Future[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._binding = asyncio.Lock()
        self._attaching: asyncio.Task[Session] | None = None
        """Goes on when who wanted it has left."""
        self._numbered = False
        """Whether it was bound before."""
        link.lost.add(self._lost)

    @abstractmethod
    async def bind(self, deadline: float) -> list[str]:
        """The consumers to ask, made where that is ours to do."""

    @property
    def consumers(self) -> list[str]:
        """Those that are asked now."""
        return list(self._feeds)

    def accept(self, delivery: Delivery, token: Token) -> bool:  # noqa: ARG002 - for who looks closer
        """Whether what came is wanted."""
        return True

    # -- fetching ----------------------------------------------------------------------------------------------------

    async def take(self, most: int, timeout: float) -> list[Delivery]:
        """Up to `most`, as soon as there is one; [] when the time is over."""
        until = now() + timeout
        leaves = math.inf if timeout <= 0 else until + LEAST
        again = False
        while not self.ready and not self.closed:
            if (again and now() >= until) or now() >= leaves:
                if self._session is None:
                    raise ConnectorError(f"The connection to {self.link.place.label} was lost; it is tried again.")
                break
            session = await self._attached_by(leaves, max(until, now() + _SILENT))
            if session is None:
                break
            self._check(session)
            # What was asked before, and is answered now, says nothing of what came meanwhile.
            again = not any([feed.left and feed.due <= until + _SOON for feed in self._feeds.values()])
            try:
                await self._round(session, most, until, leaves)
            except Lost:
                continue
        return [self.ready.popleft() for _ in range(min(most, len(self.ready)))]

    def ask_ahead(self, most: int) -> None:
        """Ask for up to `most` of what is there, for the next fetch; for less, or nothing, where others are asked."""
        session, feeds = self._session, list(self._feeds.values())[:most]
        if session is not None and feeds and not self.ready and not any(feed.left for feed in self._feeds.values()):
            self._asking = asyncio.get_running_loop().create_task(self._ahead(session, feeds, most))

    async def _ahead(self, session: Session, feeds: list[Feed], most: int) -> None:
        with contextlib.suppress(Lost):
            await self._ask(session, feeds, most, 0.0)

    async def _round(self, session: Session, most: int, until: float, leaves: float) -> None:
        feeds, left = list(self._feeds.values()), max(until - now(), 0.0)
        if len(feeds) == 1:
            await self._ask(session, feeds, most, min(left, _SLICE))
            await self._wait(feeds, most, until, leaves)
            return
        turn = next(self._turns) % len(feeds)
        feeds = feeds[turn:] + feeds[:turn]
        for at in range(0, len(feeds), most):
            if self.ready or now() >= leaves or not self._asks(session, feeds):
                return
            some = feeds[at : at + most]
            await self._ask(session, some, most, 0.0)
            await self._wait(some, most, until, leaves)
        left = until - now()
        if not self.ready and left > _SOON and self._asks(session, feeds):
            await self._ask(session, feeds, len(feeds), min(left, _SLICE))
            await self._wait(feeds, 1, until, leaves)

    def _asks(self, session: Session | None, feeds: list[Feed]) -> bool:
        """Whether these are still whom to ask: the connection was not lost, nor has to be bound anew what is read."""
        return session is not None and self._session is session and all(self._feeds.get(f.name) is f for f in feeds)

    async def _ask(self, session: Session, feeds: list[Feed], most: int, seconds: float) -> None:
        """Ask them for `most` together, each for one at least."""
        each, more = divmod(most, len(feeds))
        for number, feed in enumerate(feeds):
            if feed.left:
                continue
            batch = max(each + (number < more), 1)
            wanted: dict[str, Any] = {"batch": batch, "no_wait": True, "max_bytes": _LARGEST}
            if seconds > _SOON:
                wanted["expires"] = int(seconds * 1e9)
            body = msgspec.json.encode(wanted)
            self._asked.pop(feed.number, None)
            feed.number, feed.left, feed.due = str(next(self._numbers)), batch, now() + seconds
            self._asked[feed.number] = feed
            subject = f"{self.link.api}.CONSUMER.MSG.NEXT.{self._stream}.{feed.name}"
            await session.say(subject, body, f"{self._inbox}.{feed.number}", until=feed.due)

    async def _wait(self, feeds: list[Feed], most: int, end: float, leaves: float) -> None:
        """Until all have said that this was all, or there is enough, or the time is over."""
        rest, session = 0.0, self._session
        while not self.closed and self._asks(session, feeds):
            busy, at = [feed.due for feed in feeds if feed.left], now()
            if not busy or len(self.ready) >= most:
                return
            late: list[float] = []
            if self.ready:
                until = rest = rest or at + _REST  # the others are on their way
            else:
                late = [due for due in busy if due <= end + _SOON]
                until = min(late) + _SILENT if late else end  # whom another fetch has asked may take longer
            if at < min(until, leaves):
                await self._ring(min(until, leaves) - at)
            elif late and at >= until:
                self._give_up(over=at >= end)
                return
            else:
                return

    def _give_up(self, *, over: bool) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.drop()
        if over:
            raise ConnectorError(f"{self.link.place.label} does not answer a fetch from {self.topic}; is it alive?")

    def _check(self, session: Session) -> None:
        for subject, what in session.denied.items():
            mine = f"{self.link.api}.consumer.msg.next.{self._stream}.".lower()
            if subject.startswith((mine, self._inbox.lower())):
                raise refused(self.link.place, what, subject)

    # -- what comes --------------------------------------------------------------------------------------------------

    def _heard(self, session: Session, message: Message) -> None:
        if not message.reply.startswith("$JS.ACK"):
            self._ended(message)
        else:
            token = Token.parse(message.reply)
            feed = self._feeds.get(token.consumer) if session is self._session else None
            if feed is not None and feed.left:
                feed.left -= 1
            delivery = self._delivery(message, token, feed is not None and feed.sure)
            if feed is not None:
                feed.sure = True
            if self.accept(delivery, token):
                self.ready.append(delivery)
        self._wake()

    def _delivery(self, message: Message, token: Token, sure: bool) -> Delivery:
        partition = int(message.subject.rpartition(".")[2])
        identity = unpack_id(message.headers.get("Nats-Msg-Id", ""))
        position = Position(self.topic, partition, token.offset)
        serial = token.number if sure else 0
        return Delivery(message.data, position, identity, token.time, token.attempt, b"", message.reply, serial)

    def _ended(self, message: Message) -> None:
        """A consumer has said that this was all, or that it is not there."""
        status = status_of(message)
        feed = self._asked.get(message.subject.rpartition(".")[2])
        if feed is None or status == "100":
            return
        feed.left = 0
        if status == STATUS or (status == "409" and "eleted" in described(message)):
            self._feeds = {}  # whether the group is gone, or has moved, is seen when it is bound again

    async def _ring(self, seconds: float) -> None:
        """Until something came, at most so long."""
        if self._bell is None or self._bell.done():
            self._bell = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._bell], timeout=seconds)

    def _wake(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    # -- the connection ----------------------------------------------------------------------------------------------

    async def _attached_by(self, leaves: float, deadline: float) -> Session | None:
        """The same; None where it is late, and left to the next one. Raises why it cannot be had, if that is known."""
        session = self._session
        if session is not None and session.alive and self._feeds:
            return session
        if leaves == math.inf:
            return await self._attached(deadline)
        attaching = self._attaching
        if attaching is None or attaching.done():
            attaching = self._attaching = asyncio.get_running_loop().create_task(self._attached(deadline))
            attaching.add_done_callback(seen)
        await asyncio.wait([attaching], timeout=max(leaves - now(), 0.0))
        if attaching.done():
            return attaching.result()
        if self.link.trouble is not None:
            raise self.link.trouble
        return None

    async def _attached(self, deadline: float) -> Session:
        """A session that what comes in comes in through."""
        while True:
            session = await self.link.session(deadline)
            async with self._binding:
                try:
                    if self._session is not session:
                        await self._attach(session)
                    if not self._feeds:
                        self._asked.clear()
                        first, names = not self._numbered, await self.bind(deadline)
                        self._feeds = {name: Feed(name, sure=first) for name in names}
                        self._numbered = True
                except Lost:
                    continue
            if session.alive and self._session is session:
                return session

    async def _attach(self, session: Session) -> None:
        self._feeds = {}
        self._inbox = session.inbox()
        self._listening = await session.listen(f"{self._inbox}.*", partial(self._heard, session))
        self._session = session

    def unbind(self) -> None:
        """Forget what has come, and whom to ask."""
        self.ready.clear()
        self._feeds = {}
        self._wake()

    def _lost(self) -> None:
        self._session = None
        self._feeds = {}
        self._wake()

    async def stop(self) -> None:
        """No more is taken in; what is on its way still comes."""
        self.closed = True
        self._wake()
        if self._attaching is not None:
            self._attaching.cancel()
        self.link.lost.discard(self._lost)
        session, listening = self._session, self._listening
        if session is not None and session.alive and listening is not None:
            try:
                await asyncio.wait_for(listening.drain(), 2.0)
            except Exception:  # noqa: BLE001 - lost meanwhile: the server gives it to others by itself
                return
