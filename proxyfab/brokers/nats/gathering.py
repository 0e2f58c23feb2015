"""Topics that are gathered from servers below: streams with sources over domains. In the loop's thread.

Rules:
1. A server's stream takes the records of the same stream on each server right below it, in their order.
2. A producer's value must not overtake what it sent: `ended` before the last records would end a stream too early. So
   the values `producers/*` of a server are written into its own stream, as `pf.<topic>.~.<server>.<name>` behind the
   records that they speak of, travel up in it, and become values again only where they arrived.
3. A server that is started again may leave its sources alone for 40 seconds; taking them away and giving them back
   makes it begin at once, where it was.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from proxyfab.brokers.nats import topics
from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.brokers.nats.link import Refusal
from proxyfab.brokers.nats.naming import pack
from proxyfab.brokers.nats.topics import Desk
from proxyfab.errors import ConfigurationError
from proxyfab.events.broker import TIMEOUT
from proxyfab.events.topology import Held

QUIET = 5.0
"""Seconds after which a source that says nothing, not even that there is nothing, is not at work."""

_PAUSE = 0.1


class Flow(NamedTuple):
    """What comes into a stream from another one.

    Attributes:
        stream: Into which.
        server: From where; this one for values that become values again.
        heard: Seconds since something was heard; None for never.
        lag: Records that are still to come; None where that is not known.
        error: What JetStream says is wrong.
        at: The last record of the other stream that is here; 0 where the server does not tell.
    """

    stream: str
    server: str
    heard: float | None
    lag: int | None
    error: str = ""
    at: int = 0

    @property
    def quiet(self) -> bool:
        """Whether nothing moves; because of the link, or because of nothing."""
        return self.heard is None or self.heard > QUIET


def gather(broker: NatsBroker, held: Held, *, timeout: float = TIMEOUT) -> None:
    """Make a gathered topic on one server, or bring it up to date.

    Args:
        broker: Opened at that server, or through another with `?domain=`.
        held: What it is there.
        timeout: Seconds.
    """
    broker._run(lambda deadline: _gather(broker._desk, held, deadline), timeout)


def flows(broker: NatsBroker, held: Held, *, timeout: float = TIMEOUT) -> list[Flow]:
    """What comes into a gathered topic, and into the values beside it."""
    return broker._run(lambda deadline: _flows(broker._desk, held, deadline), timeout)


def nudge(broker: NatsBroker, stream: str, *, timeout: float = TIMEOUT) -> None:
    """Have a stream's sources begin anew, where they were."""
    broker._run(lambda deadline: _nudge(broker._desk, stream, deadline), timeout)


def last(broker: NatsBroker, stream: str, *, timeout: float = TIMEOUT) -> int:
    """The number of the last record of a stream."""

    async def work(deadline: float) -> int:
        try:
            return int((await broker._desk.link.call(f"STREAM.INFO.{stream}", None, deadline))["state"]["last_seq"])
        except Refusal as refusal:
            raise topics.unwilling(broker._desk, f"describe {stream}", refusal) from refusal

    return broker._run(work, timeout)


def recovered(
    broker: NatsBroker, held: Held, wanted: Collection[tuple[str, str]], timeout: float
) -> set[tuple[str, str]]:
    """Those of a gathered topic's flows, by stream and server, through which something comes within some seconds."""
    until = time.monotonic() + timeout
    while True:
        moving = {flow[:2] for flow in flows(broker, held) if not flow.quiet}
        if moving.issuperset(wanted) or time.monotonic() > until:
            return moving.intersection(wanted)
        time.sleep(_PAUSE)


def absent(broker: NatsBroker, held: Held, seen: Collection[Flow]) -> list[Flow]:
    """Flows that a gathered topic should have and has not: who began them anew did not come to the end."""
    stream, bucket = broker._desk.names.stream(held.topic.name), broker._desk.names.bucket(held.topic.name)
    wanted = [(stream, server) for server in held.below] + [(stream, held.server)] * held.lift
    wanted += [(f"KV_{bucket}", held.server)] * bool(held.known)
    there = {flow[:2] for flow in seen}
    return [Flow(*each, None, None) for each in wanted if each not in there]


async def _gather(desk: Desk, held: Held, deadline: float) -> None:
    topic = held.topic
    known = await topics.ensure(desk, topic, deadline)
    if known.partitions != topic.partitions:
        raise ConfigurationError(
            f"{topic.name} on {held.server} has {known.partitions} partitions, not {topic.partitions}: delete it there."
        )
    stream, bucket = desk.names.stream(topic.name), f"KV_{desk.names.bucket(topic.name)}"
    fresh = topics._config(desk, topic)
    for name in ("storage", "num_replicas"):  # these stay as they are
        del fresh[name]
    await _update(desk, stream, {**fresh, "metadata": pack(topic), "sources": _records(desk, held)}, deadline)
    await _update(desk, bucket, _values(desk, held), deadline)


def _lifted(desk: Desk, held: Held, server: str) -> str:
    return f"{desk.names.ns}.{held.topic.name}.~.{server}"


def _records(desk: Desk, held: Held) -> list[dict[str, Any]]:
    """The sources of a topic's stream."""
    stream, bucket = desk.names.stream(held.topic.name), desk.names.bucket(held.topic.name)
    found: list[dict[str, Any]] = [{"name": stream, "external": {"api": f"$JS.{below}.API"}} for below in held.below]
    if held.lift:
        ours = {"src": f"$KV.{bucket}.producers.*", "dest": f"{_lifted(desk, held, held.server)}.{{{{wildcard(1)}}}}"}
        found.append({"name": f"KV_{bucket}", "subject_transforms": [ours]})
    return found


def _values(desk: Desk, held: Held) -> dict[str, Any]:
    """What is different about the bucket beside a gathered topic."""
    stream, bucket = desk.names.stream(held.topic.name), desk.names.bucket(held.topic.name)
    back = [
        {"src": f"{_lifted(desk, held, server)}.*", "dest": f"$KV.{bucket}.producers.{{{{wildcard(1)}}}}"}
        for server in held.known
    ]
    return {"sources": [{"name": stream, "subject_transforms": back}] if back else []}


async def _update(desk: Desk, stream: str, change: dict[str, Any], deadline: float) -> None:
    try:
        known = (await desk.link.call(f"STREAM.INFO.{stream}", None, deadline))["config"]
        if any(known.get(name) != value for name, value in change.items() if value or known.get(name)):
            await desk.link.call(f"STREAM.UPDATE.{stream}", {**known, **change}, deadline)
    except Refusal as refusal:
        raise topics.unwilling(desk, f"gather into {stream}", refusal) from refusal


async def _flows(desk: Desk, held: Held, deadline: float) -> list[Flow]:
    found = []
    for stream in (desk.names.stream(held.topic.name), f"KV_{desk.names.bucket(held.topic.name)}"):
        try:
            info = await desk.link.call(f"STREAM.INFO.{stream}", None, deadline)
        except Refusal as refusal:
            if refusal.number != topics.NO_STREAM:
                raise topics.unwilling(desk, f"describe {stream}", refusal) from refusal
            raise topics.missing(held.topic.name) from None
        found += [_flow(stream, held.server, each) for each in info.get("sources") or []]
    return found


def _flow(stream: str, here: str, said: dict[str, Any]) -> Flow:
    api = (said.get("external") or {}).get("api", "")
    heard = said["active"] / 1e9 if said.get("active", -1) >= 0 else None
    quiet = heard is None or heard > QUIET
    error = (said.get("error") or {}).get("description", "")
    return Flow(
        stream,
        api.split(".")[1] if api else here,
        heard,
        None if quiet else int(said.get("lag", 0)),
        error,
        int(said.get("seq") or 0),
    )


async def _nudge(desk: Desk, stream: str, deadline: float) -> None:
    try:
        known = (await desk.link.call(f"STREAM.INFO.{stream}", None, deadline))["config"]
        if known.get("sources"):
            await desk.link.call(f"STREAM.UPDATE.{stream}", {**known, "sources": []}, deadline)
            await desk.link.call(f"STREAM.UPDATE.{stream}", known, deadline)
    except Refusal as refusal:
        raise topics.unwilling(desk, f"begin the sources of {stream} anew", refusal) from refusal
