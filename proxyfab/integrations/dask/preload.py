"""Dask's preload: `distributed.client.preload: ["proxyfab.integrations.dask"]`, and no line of code at all.

Also for `dask scheduler --preload` and `dask worker --preload`, where it has the plugins from the beginning.
"""

from __future__ import annotations

from typing import Any

import distributed

from proxyfab.integrations.dask import client as clients
from proxyfab.integrations.dask import scheduler as schedulers


async def dask_setup(role: Any) -> None:
    """Called by Dask with the client, scheduler or worker that starts."""
    if isinstance(role, distributed.Client):
        await clients.dress(role)
    elif isinstance(role, distributed.Scheduler):
        await schedulers.dask_setup(role)
