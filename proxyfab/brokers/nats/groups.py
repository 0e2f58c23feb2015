"""Groups as durable consumers, one for each partition. In the loop's thread.

Rules:
1. A group's consumers have a turn. Moving the group makes those of the next turn and then deletes the old ones; of
   several turns only the largest that is whole counts. So a group is never absent while it moves, and whoever dies in
   the middle of it leaves it where it was.
2. The server's own ack_wait is a lease, that of the most impatient member (`leases`): `holding` makes of it what each
   one asked for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

from proxyfab.brokers.nats.holding import LEASE
from proxyfab.brokers.nats.leases import lease_of
from proxyfab.brokers.nats.link import Link, Refusal, once_more
from proxyfab.brokers.nats.naming import Names, Seat
from proxyfab.errors import ConnectorError, TopicNotFound
from proxyfab.events.model import EARLIEST, From, GroupInfo, Reached, Start, Topic

NO_STREAM, NO_CONSUMER, TAKEN = 10059, 10014, 10148
_NS = 1_000_000_000
_OWED = 1 << 17


def starting(start: Start, partition: int | None) -> dict[str, Any]:
    """Where a consumer of one partition, or of a mapping's lowest, begins."""
    if isinstance(start, From):
        return {"deliver_policy": "all" if start is EARLIEST else "new"}
    if isinstance(start, Mapping):
        offset = min(start.values(), default=1) if partition is None else start.get(partition, 1)
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, offset)}
    moment = datetime.fromtimestamp(start, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"deliver_policy": "by_start_time", "opt_start_time": moment}


async def seats(link: Link, names: Names, topic: str, deadline: float) -> dict[str, dict[int, dict[int, Any]]]:
    """What JetStream says of all consumers of groups: by group, turn and partition."""
    found: dict[str, dict[int, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    offset = 0
    while True:
        try:
            page = await link.call(f"CONSUMER.LIST.{names.stream(topic)}", {"offset": offset}, deadline)
        except Refusal as refusal:
            if refusal.number == NO_STREAM:
                raise TopicNotFound(f"There is no topic {topic} here, or it was deleted.") from None
            raise ConnectorError(f"The groups of {topic} cannot be listed: {refusal}.") from refusal
        consumers = page.get("consumers") or []
        for info in consumers:
            seat = Seat.parse(info["name"])
            if seat is not None:
                found[seat.group][seat.turn][seat.partition] = info
        offset += len(consumers)
        if not consumers or offset >= page["total"]:
            return found


def _current(turns: Mapping[int, Mapping[int, Any]], partitions: int) -> int | None:
    """The largest whole turn."""
    return max((turn for turn, there in turns.items() if len(there) >= partitions), default=None)


async def seated(link: Link, names: Names, topic: Topic, group: str, deadline: float) -> dict[int, Any] | None:
    """A group's consumers by partition; None when there is no such group."""
    turns = (await seats(link, names, topic.name, deadline)).get(group, {})
    turn = _current(turns, topic.partitions)
    return None if turn is None else turns[turn]


async def occupied(
    link: Link,
    names: Names,
    topic: Topic,
    group: str,
    deadline: float,
    start: Start = EARLIEST,
    lease: float = LEASE,
) -> dict[int, Any]:
    """A group's consumers, made to begin at `start` where there is no such group."""
    there = await seated(link, names, topic, group, deadline)
    if there is None:
        works = [
            _make(link, names, topic, Seat(group, 0, number), start, lease, deadline)
            for number in range(topic.partitions)
        ]
        await asyncio.gather(*works)
        there = await seated(link, names, topic, group, deadline)
        if there is None:
            raise TopicNotFound(f"The group {group!r} of {topic.name} was deleted while it was made.")
    return there


async def _make(
    link: Link, names: Names, topic: Topic, seat: Seat, start: Start, lease: float, deadline: float
) -> bool:
    """Whether it was not there before."""
    config = {
        "name": str(seat),
        "durable_name": str(seat),
        "ack_policy": "explicit",
        "ack_wait": int(lease * _NS),
        "max_ack_pending": _OWED,
        "max_waiting": 4096,
        "filter_subject": names.subject(topic.name, seat.partition),
        **starting(start, seat.partition),
    }
    return await _say(link, names, topic, config, deadline)


async def _say(link: Link, names: Names, topic: Topic, config: dict[str, Any], deadline: float) -> bool:
    stream = names.stream(topic.name)
    body = {"stream_name": stream, "config": config, "action": "create"}
    try:
        await link.call(f"CONSUMER.CREATE.{stream}.{config['name']}", body, deadline)
    except Refusal as refusal:
        if refusal.number == TAKEN:
            return False
        if refusal.number == NO_STREAM:
            raise TopicNotFound(f"There is no topic {topic.name} here, or it was deleted.") from None
        raise ConnectorError(
            f"The group {config['name'].partition('=')[0]} of {topic.name} cannot be made: {refusal}."
        ) from refusal
    return True


async def move(link: Link, names: Names, topic: Topic, group: str, start: Start, deadline: float) -> None:
    """Have a group begin anew at `start`; raises TopicNotFound."""
    for times in count(1):
        turns = (await seats(link, names, topic.name, deadline)).get(group, {})
        now = _current(turns, topic.partitions)
        if now is None:
            raise TopicNotFound(f"Topic {topic.name} has no group {group!r}: it was deleted.")
        wait = lease_of(turns[now].values())
        turn = max(turns) + 1
        works = [
            _make(link, names, topic, Seat(group, turn, number), start, wait, deadline)
            for number in range(topic.partitions)
        ]
        if all(await asyncio.gather(*works)):
            old = [str(Seat(group, each, number)) for each in turns for number in turns[each]]
            await asyncio.gather(*(_remove(link, names, topic.name, name, deadline) for name in old))
            return
        await once_more(f"The group {group!r} of {topic.name}", times, deadline)


async def _remove(link: Link, names: Names, topic: str, consumer: str, deadline: float) -> bool:
    try:
        await link.call(f"CONSUMER.DELETE.{names.stream(topic)}.{consumer}", None, deadline)
    except Refusal as refusal:
        if refusal.number in (NO_STREAM, NO_CONSUMER):
            return False
        raise ConnectorError(f"The consumer {consumer} of {topic} cannot be deleted: {refusal}.") from refusal
    return True


async def delete(link: Link, names: Names, topic: str, group: str, deadline: float) -> bool:
    """Forget a group; whether there was one."""
    turns = (await seats(link, names, topic, deadline)).get(group, {})
    every = [str(Seat(group, turn, number)) for turn in turns for number in turns[turn]]
    return any(await asyncio.gather(*(_remove(link, names, topic, name, deadline) for name in every)))


async def infos(link: Link, names: Names, topic: Topic, deadline: float) -> dict[str, GroupInfo]:
    """How far each group is."""
    found = {}
    for group, turns in (await seats(link, names, topic.name, deadline)).items():
        turn = _current(turns, topic.partitions)
        if turn is not None:
            found[group] = told(turns[turn])
    return found


def told(consumers: Mapping[int, Any]) -> GroupInfo:
    """How far a group is, of what JetStream says of its consumers."""
    floor = {number: int(info["ack_floor"]["stream_seq"]) for number, info in sorted(consumers.items())}
    undelivered = sum(int(info["num_pending"]) for info in consumers.values())
    owed = {number: int(info["num_ack_pending"]) for number, info in consumers.items()}
    reached = {number: _reached(info["delivered"]) for number, info in consumers.items()}
    return GroupInfo(floor, undelivered, sum(owed.values()), owed, reached)


def _reached(delivered: Mapping[str, Any]) -> Reached:
    return Reached(int(delivered["consumer_seq"]), int(delivered["stream_seq"]))
