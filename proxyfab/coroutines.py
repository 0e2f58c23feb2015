"""Blocking calls for event loops: in a thread, so that the loop goes on.

Where a connector has coroutines of its own (`abc.SupportsAsync`) only what takes the processor goes this way, and of
that only what is large.

Promises: who gives up (a timeout, a cancelled task) is free at once, and so is his loop: none waits for a call that
nobody awaits, as one does that ends with a call in its own executor. Such a call goes on by itself, holds up no other,
and when the process ends it shares the last two seconds (`exit`) with all who are not done.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from proxyfab import exit
from proxyfab.beside import beside

if TYPE_CHECKING:
    import asyncio  # not at the top: it would double the time to import proxyfab

R = TypeVar("R")
QUICK = 64 << 10
"""Bytes below which encoding and decoding are done in the loop: a thread would take longer."""
_AT_ONCE = 32
"""Calls of one loop at once that somebody awaits; the others wait their turn."""
_LOOK = 0.005


class _Work(Generic[R]):
    """One call, and where its outcome goes: what `call()` returned, and what it raised."""

    def __init__(self, call: Callable[[], R], loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[tuple[R | None, BaseException | None]] = loop.create_future()
        self.over = False
        self._call = call
        self._loop = loop

    def run(self) -> None:
        """In a thread."""
        outcome: tuple[R | None, BaseException | None] = None, None
        try:
            if not self.answer.cancelled():
                outcome = self._call(), None
        except BaseException as error:  # noqa: BLE001 - handed to whoever awaits it
            outcome = None, error
        finally:
            self.over = True
            _left.discard(self)
            with suppress(RuntimeError):  # the loop was closed, so nobody awaits it
                self._loop.call_soon_threadsafe(self._tell, outcome)
            del outcome  # no circle: the error's traceback holds this frame

    def _tell(self, outcome: tuple[R | None, BaseException | None]) -> None:
        if not self.answer.done():
            self.answer.set_result(outcome)

    async def outcome(self) -> R:
        """What the call returned or raised."""
        from asyncio import CancelledError

        beside(self.run)
        try:
            value, error = await self.answer
        except CancelledError:
            _leave(self)
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error  # no circle, as above
        return value  # type: ignore[return-value]  # it is what the call returned


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
_left: set[_Work[Any]] = set()
"""Calls under way that nobody awaits any more."""
os.register_at_fork(after_in_child=_left.clear)


async def in_thread(call: Callable[[], R], *, waits: bool = False) -> R:
    """What `call()` returns, done in a thread.

    Args:
        call: Sees the context variables of whoever awaits it.
        waits: Whether it may wait for what others do, of whom none must wait for it; then it needs no turn.
    """
    from asyncio import Semaphore, get_running_loop

    loop = get_running_loop()
    work = _Work(call, loop)
    if waits:
        return await work.outcome()
    turn = _turns.get(loop)
    if turn is None:
        turn = _turns[loop] = Semaphore(_AT_ONCE)
    async with turn:
        return await work.outcome()


async def aside(call: Callable[[], R], nbytes: int) -> R:
    """What `call()` returns, which handles so many bytes: done at once where they are few."""
    return call() if nbytes < QUICK else await in_thread(call)


def _leave(work: _Work[Any]) -> None:
    """Nobody awaits it any more."""
    _left.add(work)
    if work.over:  # just now: it may have looked before
        _left.discard(work)
    atexit.unregister(_end)
    atexit.register(_end)  # anew: before all that connectors do at exit


def _end() -> None:
    """At exit: let those go on for a moment who can."""
    with suppress(BaseException):  # an interrupt: whoever ends us is in a hurry
        until = time.monotonic() + exit.left()
        while _left and time.monotonic() < until:
            time.sleep(_LOOK)
