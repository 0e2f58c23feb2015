"""Records into a stream: sent one behind the other, confirmed all together. In the loop's thread.

Promises: a record is sent again until its deadline when its confirmation does not come, under an id that the stream
knows it by within its window: so it is there once. A record without an id is given one for that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import msgspec

from proxyfab.brokers.nats.link import AGAIN, STATUS, now, status_of
from proxyfab.brokers.nats.naming import OWN, pack_id
from proxyfab.brokers.nats.session import Asked, Lost, Session
from proxyfab.brokers.nats.topics import Desk, look, make_room
from proxyfab.errors import BackPressureError, CapacityError, ConnectorError, TopicNotFound
from proxyfab.events.model import Position, Record

_WINDOW = 16 << 20
"""Bytes that are sent before their confirmations are waited for."""
_MOST = 1024
_SOON = 256 << 10
_HEAD = 1024
"""Bytes that a message has besides a record's body, at most."""
_FULL = frozenset((10047, 10077, 10023, 10002, 10122))
_SHARES = (0.5, 1.0)
_ID = "Nats-Msg-Id"


class _Problem(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    seq: int = 0
    error: _Problem | None = None


_answer = msgspec.json.Decoder(_Answer)


class Batch:
    """Records of one call.

    Args:
        desk: Where to.
        topic: Its name.
        records: What is published.
    """

    def __init__(self, desk: Desk, topic: str, records: Sequence[Record]) -> None:
        self._desk = desk
        self._topic = topic
        self._records = records
        self._ids = [{_ID: pack_id(record.id) if record.id else f"{OWN}{os.urandom(12).hex()}"} for record in records]
        self._taken: list[int] = [0] * len(records)
        self._refused = ""

    async def publish(self, deadline: float) -> list[Position]:
        """Where each of them lies; raises as `Broker.publish` says."""
        todo = list(range(len(self._records)))
        for share in (*_SHARES, 0.0):
            todo = await self._send(todo, deadline)
            if not todo:
                break
            if not share or not await make_room(self._desk, self._topic, share, deadline):
                raise BackPressureError(
                    f"Topic {self._topic} is full ({self._refused}): {len(todo)} records do not fit. Consume or delete "
                    "groups, or make it larger."
                )
        return [
            Position(self._topic, record.partition, taken)
            for record, taken in zip(self._records, self._taken, strict=True)
        ]

    async def _send(self, todo: list[int], deadline: float) -> list[int]:
        """Send these; those for which there is no room."""
        full: list[int] = []
        while todo:
            piece = self._piece(todo)
            left, refused = await self._round(piece, deadline)
            full += refused
            todo = left + todo[len(piece) :]
            if refused:  # what comes behind must not overtake what is sent again
                return full + todo
        return full

    def _piece(self, todo: list[int]) -> list[int]:
        room = _WINDOW
        for place, index in enumerate(todo[:_MOST]):
            room -= len(self._records[index].body)
            if room <= 0:
                return todo[: place + 1]
        return todo[:_MOST]

    async def _round(self, piece: list[int], deadline: float) -> tuple[list[int], list[int]]:
        """Send some, and wait: those of which nothing is known, and those that were refused for want of room."""
        session = await self._desk.link.session(deadline)
        asked: list[tuple[int, Asked]] = []
        try:
            unsent = 0
            for index in piece:
                asked.append((index, await self._one(session, index, deadline)))
                unsent += len(self._records[index].body)
                if unsent > _SOON:
                    unsent = 0
                    await asyncio.sleep(0)  # what was said so far goes while we say more
        except Lost:
            pass
        if asked:
            seconds = max(0.0, min(AGAIN, deadline - now()))
            await asyncio.wait([each.answer for _, each in asked], timeout=seconds)
        unknown, full = piece[len(asked) :], []
        for index, each in asked:
            kind = self._settled(session, index, each)
            if kind is None:
                unknown.append(index)
            elif kind is False:
                full.append(index)
        if unknown:
            await self._think(session, deadline)
        return sorted(unknown), full

    async def _one(self, session: Session, index: int, deadline: float) -> Asked:
        record = self._records[index]
        if len(record.body) + _HEAD > session.max_payload:
            raise CapacityError(
                f"A record of {len(record.body)} bytes is larger than {self._desk.link.place.label} takes "
                f"({session.max_payload - _HEAD}): send less at once, or set max_payload there."
            )
        subject = self._desk.names.subject(self._topic, record.partition)
        return await session.ask(subject, record.body, self._ids[index], until=deadline)

    def _settled(self, session: Session, index: int, asked: Asked) -> bool | None:
        """Whether a record was taken; None when that is not known."""
        if not asked.answer.done():
            session.forget(asked.token)
            return None
        try:
            message = asked.answer.result()
        except Lost:
            return None
        if status_of(message) == STATUS:
            return None
        answer = _answer.decode(message.data)
        if answer.error is None:
            self._taken[index] = answer.seq
            return True
        if answer.error.err_code in _FULL:
            self._refused = answer.error.description
            return False
        raise ConnectorError(
            f"{self._desk.link.place.label} does not take a record into {self._topic}: {answer.error.description} "
            f"({answer.error.err_code})."
        )

    async def _think(self, session: Session, deadline: float) -> None:
        """Why was nothing said? Raises when there is no use in trying again."""
        left = deadline - now()
        if left <= 0:
            raise ConnectorError(
                f"{self._desk.link.place.label} did not confirm records of {self._topic} in time; they may be there, "
                "and can be sent again with the same ids."
            )
        if not session.alive:
            return
        topic, _ = await look(self._desk, self._topic, deadline)
        wrong = [record.partition for record in self._records if not 0 <= record.partition < topic.partitions]
        if wrong:
            raise TopicNotFound(f"Topic {self._topic} has no partition {wrong[0]}.")
        await asyncio.sleep(min(0.02, left))
