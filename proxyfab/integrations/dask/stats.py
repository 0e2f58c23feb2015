"""stats: what was kept off Dask's scheduler and its sockets, asked of all who take part, at once."""

from __future__ import annotations

from typing import Any

from proxyfab.integrations.dask import family
from proxyfab.integrations.dask.figures import total
from proxyfab.integrations.dask.scheduler import STATS


def stats(client: Any = None) -> Any:
    """What has been done so far.

    Args:
        client: Of Dask's; the present one if None.

    Returns:
        `"arguments"`: objects and bytes that this client put, or found by content, and `fallbacks` to plain Dask.
        `"scheduler"`: what stands for objects in the store. `"client"` and `"workers"` (by address): values past the
        sockets: `lent` (the peer copies them out of this process's memory; `on_loan` at this moment), `published` (in
        shared memory; `live` wait for their reader), `received`, `lost`, `fallbacks` (by sockets, though meant for
        shared memory), and bytes of each. `"total"`: of client and workers. An awaitable of all that from an
        asynchronous client.
    """
    if client is None:
        from distributed import default_client

        client = default_client()
    return client.sync(_stats, client)


async def _stats(client: Any) -> dict[str, Any]:
    workers = await client._run(family.told, on_error="ignore")
    here = family.told()
    link = getattr(client, "_proxyfab", None)
    return {
        "arguments": {} if link is None else link.stats(),
        "scheduler": await getattr(client.scheduler, STATS)() or {},
        "client": here,
        "workers": workers,
        "total": total([here, *workers.values()]),
    }
