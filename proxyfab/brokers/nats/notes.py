"""Notes that who gave a record back left for the next one: values beside the topic, gone some time after it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxyfab.brokers.nats.link import now
from proxyfab.brokers.nats.topics import Desk
from proxyfab.events.model import Delivery

_TTL = "24h"


class Notes:
    """Those of one group of a topic. In the loop's thread."""

    def __init__(self, desk: Desk, topic: str, group: str) -> None:
        self._desk = desk
        self._bucket = desk.names.bucket(topic)
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    def _subject(self, delivery: Delivery) -> str:
        return f"$KV.{self._bucket}.~{self._group}.{delivery.position.partition}.{delivery.position.offset}"

    async def leave(self, deliveries: Sequence[Delivery], note: bytes, deadline: float) -> None:
        """Leave a note with each; without one, none of before is left."""
        wanted = [each for each in deliveries if note or each.note]
        await asyncio.gather(*(self._put(each, note, deadline) for each in wanted))

    async def _put(self, delivery: Delivery, note: bytes, deadline: float) -> None:
        headers = {"Nats-TTL": _TTL if note else "1s"}
        await self._desk.link.ask(self._subject(delivery), note, deadline, headers=headers)

    async def attached(self, deliveries: list[Delivery], deadline: float) -> list[Delivery]:
        """The same, with the notes of those that come again."""
        return await asyncio.gather(*(self._with_note(each, deadline) for each in deliveries))

    async def _with_note(self, delivery: Delivery, deadline: float) -> Delivery:
        if delivery.attempt < 2:
            return delivery
        link = self._desk.link
        subject = f"{link.api}.DIRECT.GET.KV_{self._bucket}.{self._subject(delivery)}"
        message = await link.ask(subject, b"", deadline)
        return delivery._replace(note=bytes(message.data)) if message.data else delivery

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """They were settled: nobody needs the notes."""
        if deliveries:
            task = asyncio.get_running_loop().create_task(self._clear(deliveries))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _clear(self, deliveries: Sequence[Delivery]) -> None:
        await self.leave(deliveries, b"", now() + 10.0)
