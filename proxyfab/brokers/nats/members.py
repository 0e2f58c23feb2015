"""Subscriptions: members of groups, and readers that nobody counts. Blocking, for any thread of one process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from proxyfab.brokers.nats import groups, leases, topics
from proxyfab.brokers.nats.holding import Holding, Spot, spot
from proxyfab.brokers.nats.leases import lease_of
from proxyfab.brokers.nats.link import Refusal, now
from proxyfab.brokers.nats.naming import Seat
from proxyfab.brokers.nats.notes import Notes
from proxyfab.brokers.nats.pulling import Intake
from proxyfab.brokers.nats.settling import ACK, EXTEND, Settling, nak
from proxyfab.brokers.nats.tokens import Token
from proxyfab.brokers.nats.topics import Desk
from proxyfab.errors import CapacityError, ConnectorError, ProxyfabError, TopicNotFound
from proxyfab.events.broker import TIMEOUT, Subscription, Uncounted
from proxyfab.events.model import EARLIEST, Delivery, GroupInfo, Start, Topic

MAX_NOTE = 1 << 10
_LEAVE = 5.0
_LOOK = 1.0
_IDLE = 60 * 1_000_000_000


class _Consumers(Intake):
    """The consumers of a group, those of some partitions."""

    def __init__(self, desk: Desk, topic: Topic, group: str, partitions: Sequence[int]) -> None:
        super().__init__(desk.link, topic.name, desk.names.stream(topic.name))
        self._desk = desk
        self._of = topic
        self._group = group
        self._partitions = partitions
        self._turn = 0
        self.holding: Holding | None = None

    def accept(self, delivery: Delivery, token: Token) -> bool:
        seat = Seat.parse(token.consumer)
        wanted = seat is not None and seat.turn >= self._turn
        if wanted and self.holding is not None:
            self.holding.take([delivery])
        return wanted

    def moved(self) -> None:
        """What is still on its way from before is not wanted any more."""
        self._turn += 1
        self.unbind()

    async def bind(self, deadline: float) -> list[str]:
        there = await groups.seated(self.link, self._desk.names, self._of, self._group, deadline)
        if there is None:
            raise TopicNotFound(f"Topic {self.topic} has no group {self._group!r}: it was deleted.")
        found = [there[number]["name"] for number in self._partitions]
        self._turn = max(seat.turn for name in found if (seat := Seat.parse(name)) is not None)
        if self.holding is not None:
            self.holding.lease = lease_of(list(there.values()))
        return found


class _Common(Subscription):
    """What members and readers share."""

    def __init__(self, desk: Desk, intake: Intake) -> None:
        self._desk = desk
        self._intake = intake
        self._process = os.getpid()
        self._closed = False
        self.topic = intake.topic

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        self._open()

        async def work(deadline: float) -> list[Delivery]:
            return await self._take(most, timeout, deadline)

        return self._desk.link.run(work, timeout)

    async def _take(self, most: int, timeout: float, deadline: float) -> list[Delivery]:  # noqa: ARG002 - for members
        return await self._intake.take(most, timeout)

    def _open(self) -> None:
        if self._closed:
            raise ConnectorError(f"This subscription to {self.topic} was closed.")
        if self._process != os.getpid():
            raise ConnectorError(f"This subscription to {self.topic} is that of process {self._process}; subscribe.")


class Member(_Common):
    """A group's member."""

    group: str
    _intake: _Consumers

    def __init__(self, desk: Desk, topic: Topic, group: str, partitions: Sequence[int], ack_wait: float) -> None:
        super().__init__(desk, _Consumers(desk, topic, group, partitions))
        self.group = group
        self._of = topic
        self._settling = Settling(desk.link, desk.names.stream(topic.name))
        self._notes = Notes(desk, topic.name, group)
        extend = functools.partial(self._settling.say, EXTEND)
        self._holding = Holding(ack_wait, extend, self._too_late, self._lease)
        self._intake.holding = self._holding
        self._shortening: asyncio.Task[None] | None = None

    async def begin(self, there: Collection[Mapping[str, Any]], lease: float, deadline: float) -> Member:
        """Have the group's consumers wait no longer than this member wants to."""
        pause = await leases.shorten(self._desk.link, there, lease, deadline)
        if pause:
            self._shortening = asyncio.get_running_loop().create_task(self._shorten(pause))
        return self

    async def _shorten(self, pause: float) -> None:
        await asyncio.sleep(pause)
        deadline = now() + TIMEOUT
        with contextlib.suppress(ProxyfabError):  # who comes next sees to it
            there = await groups.seated(self._desk.link, self._desk.names, self._of, self.group, deadline)
            for info in (there or {}).values():
                await leases.settle(self._desk.link, info, deadline)

    async def _lease(self) -> float:
        stream, link = self._desk.names.stream(self.topic), self._desk.link
        there = await leases.seen(link, stream, self._intake.consumers, now() + _LOOK)
        return lease_of(there) if there else self._holding.lease

    def _too_late(self, spots: list[Spot]) -> None:
        """Give back what was held for too long, be it handed out or not."""
        late = set(spots)
        self._settling.say(nak(0), self._holding.tokens(late))
        kept = [each for each in self._intake.ready if spot(each) not in late]
        self._intake.ready.clear()
        self._intake.ready.extend(kept)

    async def _take(self, most: int, timeout: float, deadline: float) -> list[Delivery]:
        found = await self._intake.take(most, timeout)
        self._holding.take(found)
        if any(each.attempt > 1 for each in found):
            found = await self._notes.attached(found, max(deadline, now() + _LEAVE))
        return found

    def ahead(self, most: int) -> bool:
        if self._closed or self._process != os.getpid() or self._desk.link.closed or most < 1:
            return False
        self._desk.link.post(self._intake.ask_ahead, most)
        return True

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        done = list(deliveries)
        if done:
            self._mine()
            self._desk.link.post(self._acknowledge, done)

    def _acknowledge(self, done: list[Delivery]) -> None:
        self._holding.drop(done)
        self._settling.say(ACK, [each.token for each in done])
        self._notes.forget([each for each in done if each.note])

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        if len(note) > MAX_NOTE:
            raise CapacityError(f"A note has {len(note)} bytes, more than {MAX_NOTE}.")
        self._mine()
        back = list(deliveries)

        async def work(deadline: float) -> None:
            await self._notes.leave(back, note, deadline)
            self._settling.say(nak(delay), self._holding.drop(back))

        if back:
            self._desk.link.run(work, TIMEOUT)

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        self._mine()
        self._desk.link.post(self._say_again, list(deliveries))

    def _say_again(self, deliveries: list[Delivery]) -> None:
        self._settling.say(EXTEND, self._holding.again(deliveries))

    def seek(self, start: Start) -> None:
        self._open()

        async def work(deadline: float) -> None:
            await groups.move(self._desk.link, self._desk.names, self._of, self.group, start, deadline)
            self._holding.give_up()
            self._intake.moved()

        self._desk.link.run(work, TIMEOUT)

    def info(self) -> GroupInfo:
        self._mine()

        async def work(deadline: float) -> GroupInfo:
            await self._settling.flush(deadline)
            there = await groups.seated(self._desk.link, self._desk.names, self._of, self.group, deadline)
            if there is None:
                raise TopicNotFound(f"Topic {self.topic} has no group {self.group!r}: it was deleted.")
            return groups.told(there)

        return self._desk.link.run(work, TIMEOUT)

    def flush(self, timeout: float = TIMEOUT) -> None:
        self._mine()
        place = self._desk.link.place
        writes = place.storage == "file" and place.replicas == 1  # several have each other
        self._desk.link.run(self._settling.written if writes else self._settling.flush, timeout)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._process != os.getpid() or self._desk.link.closed:
            return

        async def work(deadline: float) -> None:
            if self._shortening is not None:
                self._shortening.cancel()
            await self._intake.stop()
            self._intake.ready.clear()
            self._settling.say(nak(0), self._holding.give_up())
            await self._settling.flush(deadline)

        with contextlib.suppress(ConnectorError):  # the server gives it to others when its time is over
            self._desk.link.run(work, _LEAVE)

    def _mine(self) -> None:
        if self._process != os.getpid():
            self._open()


class _Ordered(Intake):
    """One short-lived consumer of a reader, made anew behind what came last when anything is in doubt."""

    def __init__(self, desk: Desk, topic: Topic, start: Start, partitions: Sequence[int]) -> None:
        super().__init__(desk.link, topic.name, desk.names.stream(topic.name))
        self._desk = desk
        self._partitions = partitions
        self.consumer = ""
        self.restart(start)

    def restart(self, start: Start) -> None:
        """Begin anew."""
        self._start: Start | None = start
        self._behind = 0
        """Offset of what came last, in any partition."""
        self._number = 0
        self.floor = {
            number: (start.get(number, 1) - 1 if isinstance(start, Mapping) else 0) for number in self._partitions
        }
        """Behind which each partition is read."""
        self.taken: dict[int, int] = {}
        self.unbind()

    async def bind(self, deadline: float) -> list[str]:
        name, stream = f"~{os.urandom(8).hex()}", self._stream
        if self._start is not None:
            whole = {number: self.floor[number] + 1 for number in self._partitions}
            start = groups.starting(whole if isinstance(self._start, Mapping) else self._start, None)
        else:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._behind + 1}
        config = {
            "name": name,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _IDLE,
            "filter_subjects": [self._desk.names.subject(self.topic, number) for number in self._partitions],
            **start,
        }
        body = {"stream_name": stream, "config": config, "action": "create"}
        try:
            info = await self.link.call(f"CONSUMER.CREATE.{stream}.{name}", body, deadline)
        except Refusal as refusal:
            if refusal.number == groups.NO_STREAM:
                raise topics.missing(self.topic) from None
            raise ConnectorError(f"A reader of {self.topic} cannot be made: {refusal}.") from refusal
        if self._start is not None:
            self._start, self._behind = None, int(info["delivered"]["stream_seq"])
            self.floor = {number: max(floor, self._behind) for number, floor in self.floor.items()}
        self.consumer, self._number = name, 0
        return [name]

    def accept(self, delivery: Delivery, token: Token) -> bool:
        if token.consumer != self.consumer:
            return False
        self._number += 1
        if token.number != self._number:  # something was lost on the way
            self._feeds = {}
            self.consumer = ""
            return False
        self._behind = token.offset
        return token.offset > self.floor[delivery.position.partition]


class Reader(Uncounted, _Common):
    """Reads without anybody counting."""

    _intake: _Ordered

    def __init__(self, desk: Desk, topic: Topic, start: Start, partitions: Sequence[int]) -> None:
        super().__init__(desk, _Ordered(desk, topic, start, partitions))
        self.group = None

    async def begin(self, deadline: float) -> Reader:
        """Find the place to begin at, which for LATEST is now."""
        await self._intake._attached(deadline)
        return self

    async def _take(self, most: int, timeout: float, deadline: float) -> list[Delivery]:
        found = await super()._take(most, timeout, deadline)
        for each in found:
            self._intake.taken[each.position.partition] = each.position.offset
        return found

    def seek(self, start: Start) -> None:
        self._open()

        async def work(deadline: float) -> None:
            self._intake.restart(EARLIEST if isinstance(start, Mapping) and not start else start)
            await self._intake._attached(deadline)

        self._desk.link.run(work, TIMEOUT)

    def info(self) -> GroupInfo:
        self._open()

        async def work(deadline: float) -> GroupInfo:
            intake = self._intake
            await intake._attached(deadline)
            info = await _info(self._desk, self.topic, intake.consumer, deadline)
            left = int(info.get("num_pending", 0)) + len(intake.ready)
            return GroupInfo({**intake.floor, **intake.taken}, left, 0)

        return self._desk.link.run(work, TIMEOUT)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._process != os.getpid() or self._desk.link.closed:
            return

        async def work(deadline: float) -> None:
            await self._intake.stop()
            stream = self._desk.names.stream(self.topic)
            with contextlib.suppress(Refusal):
                await self._desk.link.call(f"CONSUMER.DELETE.{stream}.{self._intake.consumer}", None, deadline)

        with contextlib.suppress(ProxyfabError):
            self._desk.link.run(work, _LEAVE)


async def _info(desk: Desk, topic: str, consumer: str, deadline: float) -> dict[str, Any]:
    try:
        return await desk.link.call(f"CONSUMER.INFO.{desk.names.stream(topic)}.{consumer}", None, deadline)
    except Refusal as refusal:
        if refusal.number == groups.NO_STREAM:
            raise topics.missing(topic) from None
        return {}
