"""What a producer answers with for an event: where it lies, as soon as the broker has it.

Rules:
1. Events share the fate of their frame, so that a receipt is two words: its frame's draft, and a number in it.
2. A draft is settled once, and then keeps none of its bytes. Who waits is woken by its `gathering`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, Protocol

import msgspec

from proxyfab.errors import ResolveTimeout
from proxyfab.events.model import Position
from proxyfab.keys import Key
from proxyfab.store import Store
from proxyfab.wire.events import Written


class Waking(Protocol):
    """What a draft's waiters are woken by: its gathering."""

    @property
    def topic(self) -> str: ...
    def wait_for(self, drafts: list[Draft], timeout: float | None) -> bool: ...
    def tell(self, draft: Draft, settled: Callable[[], None]) -> bool: ...


class Draft:
    """Events for one partition: gathered, on their way under one id, settled. Changed under its gathering's lock.

    Attributes:
        events: What `wire.events.joined` makes a frame of; empty when settled.
        nbytes: Of these; about, and never less.
        kept: Objects that were stored for them.
        counted: Whether it takes room from others.
        born: Monotonic seconds when the first came.
        sealed: When nothing more could come.
        tried: Whether the broker may have it although nobody says so: then its objects stay.
        first: The number of the first, when it is on its way.
        body: The frame, likewise.
    """

    __slots__ = (
        "body",
        "born",
        "count",
        "counted",
        "error",
        "events",
        "first",
        "gathering",
        "kept",
        "nbytes",
        "partition",
        "position",
        "sealed",
        "stores",
        "told",
        "tried",
    )

    def __init__(self, gathering: Waking, partition: int) -> None:
        self.gathering = gathering
        self.partition = partition
        self.events: list[Written] = []
        self.count = 0
        self.counted = True
        self.nbytes = 0
        self.stores: list[str] = []
        self.kept: list[tuple[Store, Key]] = []
        self.born = time.monotonic()
        self.sealed = 0.0
        self.tried = False
        self.first = -1
        self.body = b""
        self.position: Position | None = None
        self.error: BaseException | None = None
        self.told: list[Callable[[], object]] = []

    @property
    def done(self) -> bool:
        """Whether its fate is known."""
        return self.position is not None or self.error is not None

    def place(self, url: str) -> int:
        """Where a store stands among those of this frame."""
        stores = self.stores
        if url not in stores:
            stores.append(url)
        return stores.index(url)


class Receipt(msgspec.Struct, gc=False, eq=False):
    """That an event was taken. Thread-safe.

    Nobody has to look at it: what could not be delivered is also told by the producer's next `send`, `flush` or
    `close`.
    """

    _draft: Any
    _index: int

    def done(self) -> bool:
        """Whether the broker has acknowledged it, or never will."""
        return bool(self._draft.done)

    def result(self, timeout: float | None = None) -> Position:
        """Where the event lies, once the broker has it.

        Args:
            timeout: Seconds; None for as long as the producer tries.

        Raises:
            ResolveTimeout: It has not been acknowledged by then; it is still tried.
            BackPressureError: It was dropped for newer ones, or the topic is full.
            ConnectorError: The broker could not be reached for so long that the producer gave up.
            ProxyfabError: The broker refused it.
        """
        draft: Draft = self._draft
        if not draft.done and not draft.gathering.wait_for([draft], timeout):
            raise ResolveTimeout(
                f"An event for topic {draft.gathering.topic} was not acknowledged within {timeout} s; it is still "
                "tried."
            )
        return self._position()

    def _position(self) -> Position:
        draft: Draft = self._draft
        if draft.position is None:
            assert draft.error is not None
            raise draft.error.with_traceback(None)
        return draft.position._replace(event=self._index)

    def __await__(self) -> Generator[Any, None, Position]:
        return self._arrive().__await__()

    async def _arrive(self) -> Position:
        import asyncio  # not at the top: most who send never need it

        loop, draft = asyncio.get_running_loop(), self._draft
        came: asyncio.Future[None] = loop.create_future()

        def arrive() -> None:
            if not came.done():
                came.set_result(None)

        def settled() -> None:
            try:
                loop.call_soon_threadsafe(arrive)
            except RuntimeError:  # the loop was closed: nobody waits any more
                pass

        if not draft.gathering.tell(draft, settled):
            await came
        return self._position()
