"""Near: a client fetches results straight from the workers of its own host, and past the sockets.

Dask's clients have the scheduler fetch results, unless told otherwise, as they cannot know which workers they reach.
Here a client finds out: a worker that says at an address of this host that it sees the same shared memory is near.

What is small comes with the scheduler's answer, as ever, since that costs no word more.

Promises: what no near worker has, or a near worker does not give, comes through the scheduler as ever; a client that
was told whether to go to workers directly does as told; when this ends the client is as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import psutil
from distributed.comm import get_address_host
from distributed.core import send_recv
from distributed.utils_comm import gather_from_workers

from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask import family
from proxyfab.integrations.dask.home import GATHER
from proxyfab.integrations.dask.worker import SIGHT

_PATIENCE = 1.0
"""Seconds for a worker of this host to answer; one that is too busy for that is asked again the next time."""


class Near:
    """The transport's end at a client.

    Args:
        client: Of Dask's, connected.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lane: family.Lane | None = None
        self._ask: Callable[..., Awaitable[dict[str, Any]]] = client.scheduler.gather
        self._known: dict[str, bool] = {}
        self._hosts = _own_hosts()

    def attach(self) -> bool:
        """Take part, in the event loop of the client; whether shared memory allows it."""
        try:
            self._lane = family.join()
        except (ProxyfabError, OSError):
            return False
        self._lane.announce(self._client.rpc)
        # Clients inside tasks share the scheduler's door with their worker, and go to workers directly anyway.
        if self._client.direct_to_workers is None and getattr(self._client.scheduler, "pool", None) is self._client.rpc:
            self._client.scheduler.gather = self.gather
        return True

    def detach(self) -> None:
        """Undo `attach`; what was asked may still be answered."""
        if self._lane is not None:
            lane, self._lane = self._lane, None
            vars(self._client.scheduler or self).pop("gather", None)
            lane.retract(self._client.rpc)
            family.leave()

    async def gather(self, keys: Collection[Any], **words: Any) -> dict[str, Any]:
        """As the scheduler's `gather` answers."""
        if self._lane is None:
            return await self._ask(keys=keys, **words)
        answer: dict[str, Any] = await getattr(self._client.scheduler, GATHER)(keys=keys, **words)
        holders = answer.pop("holders")
        if answer["status"] != "OK" or not holders:
            return answer
        near = await self._near({address for each in holders.values() for address in each})
        wanted = {key: found for key, each in holders.items() if (found := near.intersection(each))}
        data, *_ = await gather_from_workers(wanted, rpc=self._client.rpc) if wanted else ({},)
        data.update(answer["data"])
        rest = [key for key in keys if key not in data]
        if rest:
            answer = await self._ask(keys=rest, **words)
            data.update(answer.get("data", {}))
        return {**answer, "data": data} if answer["status"] == "OK" else answer

    async def _near(self, addresses: Collection[str]) -> set[str]:
        asked = list(addresses)
        found = await asyncio.gather(*map(self._is_near, asked))
        return {address for address, near in zip(asked, found, strict=True) if near}

    async def _is_near(self, address: str) -> bool:
        """Whether a worker is, and can be reached now."""
        if self._known.get(address) is False or get_address_host(address) not in self._hosts:
            return False
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._try(address)
        except (OSError, TimeoutError):  # gone, or too busy
            return False

    async def _try(self, address: str) -> bool:
        """Connect first: fetching from one that has just ended would wait for half a minute."""
        comm = await self._client.rpc.connect(address, timeout=_PATIENCE)
        try:
            if address not in self._known:
                lane = self._lane
                self._known[address] = lane is not None and await send_recv(comm, op=SIGHT) == lane.sight
        finally:
            self._client.rpc.reuse(address, comm)
        return self._known[address]


def _own_hosts() -> frozenset[str]:
    """Addresses of this host's interfaces."""
    return frozenset(each.address for every in psutil.net_if_addrs().values() for each in every)
