"""Blocking calls for event loops: in a thread, so that the loop goes on.

Where a connector has coroutines of its own (`abc.SupportsAsync`) only what takes the processor goes this way, and of
that only what is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")
QUICK = 64 << 10
"""Bytes below which encoding and decoding are done in the loop: a thread would take longer."""


async def in_thread(call: Callable[[], R]) -> R:
    """What `call()` returns, done in a thread of the loop's executor."""
    import asyncio  # not at the top: it would double the time to import proxyfab

    return await asyncio.to_thread(call)


async def aside(call: Callable[[], R], nbytes: int) -> R:
    """What `call()` returns, which handles so many bytes: done at once where they are few."""
    return call() if nbytes < QUICK else await in_thread(call)
