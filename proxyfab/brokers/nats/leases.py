"""How long a group's consumers wait for a member that says nothing: as long as the most impatient member wants.

Rules:
1. A consumer has one `ack_wait` for all members. Who wants a shorter one sets it at once where nobody holds or asks for
   anything, and elsewhere says so first (in the consumer's metadata), and sets it when the others have had time to see.
2. Who holds something looks now and then (`every`), and asks for more time as often as what was said needs it. So
   nothing is taken from a member that lives because another one is impatient.
In the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from proxyfab.brokers.nats.link import Link, Refusal
from proxyfab.errors import ConnectorError

WANTED = "pf-lease"
"""The name in a consumer's metadata."""
_NS = 1_000_000_000
_LEAST = 1.0


def lease_of(infos: Collection[Mapping[str, Any]]) -> float:
    """Seconds that members of these consumers can count on, of what JetStream says of them."""
    return min(min(_waits(info), _wanted(info)) for info in infos)


def _waits(info: Mapping[str, Any]) -> float:
    return float(info["config"]["ack_wait"]) / _NS


def _wanted(info: Mapping[str, Any]) -> float:
    try:
        return float((info["config"].get("metadata") or {}).get(WANTED, "inf"))
    except ValueError:  # somebody else's
        return float("inf")


def every(lease: float) -> float:
    """Seconds between two looks of who holds something under a lease."""
    return max(lease / 3, _LEAST)


async def shorten(link: Link, infos: Collection[Mapping[str, Any]], lease: float, deadline: float) -> float:
    """Have consumers wait no longer than `lease`, or say that they will not; seconds until `settle` may, 0 for nothing.

    Raises:
        ConnectorError: It cannot be said.
    """
    long = [info for info in infos if _waits(info) > lease]
    if not long:
        return 0.0
    idle = not any(info.get("num_ack_pending") or info.get("num_waiting") for info in infos)
    for info in long:
        said = {**(info["config"].get("metadata") or {}), WANTED: f"{min(lease, _wanted(info)):g}"}
        await _update(link, info, {"ack_wait": int(lease * _NS)} if idle else {"metadata": said}, deadline)
    return 0.0 if idle else every(max(_waits(info) for info in long)) + _LEAST / 2


async def settle(link: Link, info: Mapping[str, Any], deadline: float) -> None:
    """Have a consumer wait no longer than was said of it."""
    if _wanted(info) < _waits(info):
        await _update(link, info, {"ack_wait": int(_wanted(info) * _NS)}, deadline)


async def _update(link: Link, info: Mapping[str, Any], change: dict[str, Any], deadline: float) -> None:
    stream, name = info["stream_name"], info["name"]
    body = {"stream_name": stream, "config": {**info["config"], **change}, "action": "update"}
    try:
        await link.call(f"CONSUMER.CREATE.{stream}.{name}", body, deadline)
    except Refusal as refusal:
        raise ConnectorError(f"The consumer {name} of {stream} cannot be changed: {refusal}.") from refusal


async def seen(link: Link, stream: str, consumers: Collection[str], deadline: float) -> list[dict[str, Any]]:
    """What JetStream says of consumers; of those that are gone nothing."""

    async def one(name: str) -> dict[str, Any] | None:
        try:
            return await link.call(f"CONSUMER.INFO.{stream}.{name}", None, deadline)
        except Refusal:
            return None

    return [info for info in await asyncio.gather(*map(one, consumers)) if info is not None]
