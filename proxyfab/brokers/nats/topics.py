"""Topics as streams: making, describing and deleting them, and making room in a full one. In the loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from proxyfab.brokers.nats.groups import infos, occupied
from proxyfab.brokers.nats.link import STATUS, Link, Refusal, status_of
from proxyfab.brokers.nats.naming import Names, lowest, pack, unpack
from proxyfab.errors import ConfigurationError, ConnectorError, TopicNotFound
from proxyfab.events.engine import same_topic
from proxyfab.events.model import Description, Extent, Topic

NO_STREAM = 10059
STREAM_TAKEN = 10058
_NS = 1_000_000_000
_LEAST = 0.1


class Desk(NamedTuple):
    """What is needed to ask about topics."""

    link: Link
    names: Names


def missing(topic: str) -> TopicNotFound:
    """The error where there is no such topic."""
    return TopicNotFound(f"There is no topic {topic} here; make it with ensure(Topic({topic!r})).")


def unwilling(desk: Desk, what: str, refusal: Refusal) -> ConnectorError | ConfigurationError:
    """The error of a request that JetStream refused for reasons of its own."""
    said = f"{desk.link.place.label} does not {what}: {refusal} ({refusal.number})"
    if "limit" in str(refusal) or "resource" in str(refusal):
        return ConnectorError(f"{said}. Give its JetStream more room.")
    return ConfigurationError(f"{said}.")


async def look(desk: Desk, topic: str, deadline: float) -> tuple[Topic, dict[str, Any]]:
    """A topic, and what JetStream says of its stream; raises TopicNotFound."""
    try:
        body = {"subjects_filter": ">"}
        info = await desk.link.call(f"STREAM.INFO.{desk.names.stream(topic)}", body, deadline)
    except Refusal as refusal:
        if refusal.number == NO_STREAM:
            raise missing(topic) from None
        raise unwilling(desk, f"describe {topic}", refusal) from refusal
    return unpack(info["config"], topic), info


async def ensure(desk: Desk, topic: Topic, deadline: float) -> Topic:
    """Make a topic, or tell what it is."""
    try:
        return same_topic((await look(desk, topic.name, deadline))[0], topic)
    except TopicNotFound:
        pass
    await ensure_bucket(desk, topic.name, deadline)
    try:
        await desk.link.call(f"STREAM.CREATE.{desk.names.stream(topic.name)}", _config(desk, topic), deadline)
    except Refusal as refusal:
        if refusal.number == STREAM_TAKEN:  # somebody was faster
            return same_topic((await look(desk, topic.name, deadline))[0], topic)
        raise unwilling(desk, f"make the topic {topic.name}", refusal) from refusal
    for group in topic.groups:
        await occupied(desk.link, desk.names, topic, group, deadline)
    return topic


def _config(desk: Desk, topic: Topic) -> dict[str, Any]:
    place = desk.link.place
    age = 0 if topic.retention is None else int(max(topic.retention, _LEAST) * _NS)
    window = int(max(topic.window, _LEAST) * _NS)
    return {
        "name": desk.names.stream(topic.name),
        "subjects": desk.names.subjects(topic),
        "storage": place.storage,
        "num_replicas": place.replicas,
        "max_bytes": -1 if topic.max_bytes is None else topic.max_bytes,
        "max_age": age,
        "discard": "new" if topic.full == "reject" else "old",
        "duplicate_window": min(window, age) if age else window,
        "allow_direct": True,
        "metadata": pack(topic),
    }


async def ensure_bucket(desk: Desk, topic: str, deadline: float) -> None:
    """Make the bucket of a topic's values, or of the broker's."""
    bucket, place = desk.names.bucket(topic), desk.link.place
    config = {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "storage": place.storage,
        "num_replicas": place.replicas,
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "discard": "new",
    }
    try:
        await desk.link.call(f"STREAM.CREATE.KV_{bucket}", config, deadline)
    except Refusal as refusal:
        if refusal.number != STREAM_TAKEN:
            raise unwilling(desk, f"keep values beside {topic or 'the broker'}", refusal) from refusal


async def delete(desk: Desk, topic: str, deadline: float) -> bool:
    """Delete a topic's stream and bucket; whether there was one."""
    found = [await _gone(desk, name, deadline) for name in (desk.names.stream(topic), f"KV_{desk.names.bucket(topic)}")]
    return found[0]


async def _gone(desk: Desk, stream: str, deadline: float) -> bool:
    try:
        await desk.link.call(f"STREAM.DELETE.{stream}", None, deadline)
    except Refusal as refusal:
        if refusal.number == NO_STREAM:
            return False
        raise unwilling(desk, f"delete {stream}", refusal) from refusal
    return True


async def listed(desk: Desk, deadline: float) -> list[str]:
    """The names of all topics."""
    found: list[str] = []
    offset = 0
    while True:
        page = await desk.link.call("STREAM.NAMES", {"offset": offset, "subject": f"{desk.names.ns}.>"}, deadline)
        names = page.get("streams") or []
        found += [topic for name in names if (topic := desk.names.topic(name)) is not None]
        offset += len(names)
        if not names or offset >= page["total"]:
            return sorted(found)


async def describe(desk: Desk, name: str, deadline: float) -> Description:
    """What a topic is and holds."""
    topic, info = await look(desk, name, deadline)
    state = info["state"]
    counts, subjects = state.get("subjects") or {}, desk.names.subjects(topic)
    if topic.partitions == 1 and counts.keys() <= {*subjects}:
        extents = {0: Extent(int(state["first_seq"]) or 1, int(state["last_seq"]))}
        if not state["messages"]:
            extents = {0: Extent(int(state["last_seq"]) + 1, int(state["last_seq"]))}
    else:
        work = [_extent(desk, topic, number, state, deadline) for number in range(topic.partitions)]
        extents = dict(enumerate(await asyncio.gather(*work)))
    records = sum(int(counts.get(subject, 0)) for subject in subjects)  # what is gathered has more than records
    return Description(topic, extents, records, int(state["bytes"]))


async def _extent(desk: Desk, topic: Topic, partition: int, state: dict[str, Any], deadline: float) -> Extent:
    subject = desk.names.subject(topic.name, partition)
    if subject in (state.get("subjects") or {}):
        first = await _found(desk, topic.name, {"next_by_subj": subject, "seq": 1}, deadline)
        last = await _found(desk, topic.name, {"last_by_subj": subject}, deadline)
        if first and last:
            return Extent(first, last)
    untouched = state["first_seq"] <= 1 and not state.get("num_deleted")  # nothing was ever taken out of the stream
    end = 0 if untouched else int(state["last_seq"])
    return Extent(end + 1, end)


async def _found(desk: Desk, topic: str, wanted: dict[str, Any], deadline: float) -> int:
    import msgspec

    subject = f"{desk.link.api}.DIRECT.GET.{desk.names.stream(topic)}"
    message = await desk.link.ask(subject, msgspec.json.encode(wanted), deadline)
    if status_of(message) == STATUS:
        raise missing(topic)
    return int(message.headers.get("Nats-Sequence", 0))


async def make_room(desk: Desk, name: str, share: float, deadline: float) -> bool:
    """Take out that share of what every group has acknowledged, oldest first; whether there was anything."""
    topic, info = await look(desk, name, deadline)
    groups = await infos(desk.link, desk.names, topic, deadline)
    first, taken = int(info["state"]["first_seq"]), 0
    for partition in range(topic.partitions):
        floor = lowest(each.floor[partition] for each in groups.values())
        if floor < first:
            continue
        upto = first + max(1, int((floor + 1 - first) * share))
        taken += await _cut(desk, name, partition, upto, deadline)
    return taken > 0


async def cut(desk: Desk, name: str, upto: Mapping[int, int], deadline: float) -> int:
    """Take out the oldest records of partitions, up to these offsets; how many."""
    topic, _ = await look(desk, name, deadline)
    if any(not 0 <= number < topic.partitions for number in upto):
        raise ConfigurationError(f"Topic {name} has {topic.partitions} partitions; {list(upto)} are not all there.")
    taken = 0
    for number, offset in upto.items():
        try:
            taken += await _cut(desk, name, number, offset + 1, deadline) if offset > 0 else 0
        except Refusal as refusal:
            raise unwilling(desk, f"cut {name}", refusal) from refusal
    return taken


async def _cut(desk: Desk, name: str, partition: int, before: int, deadline: float) -> int:
    body = {"filter": desk.names.subject(name, partition), "seq": before}
    return int((await desk.link.call(f"STREAM.PURGE.{desk.names.stream(name)}", body, deadline))["purged"])
