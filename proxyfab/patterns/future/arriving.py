"""Waiting for one outcome in the thread that wants it, and the reference that does so when it is resolved."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, TypeVar

from proxyfab import background
from proxyfab.abc import check_timeout
from proxyfab.coroutines import in_thread
from proxyfab.errors import KeyNotFound, ResolveTimeout
from proxyfab.keys import Key
from proxyfab.patterns.future.board import Board
from proxyfab.patterns.future.brokered import board_of
from proxyfab.patterns.future.hub import arrival
from proxyfab.patterns.future.outcome import open_outcome
from proxyfab.patterns.future.promise import Listener
from proxyfab.proxy import Kind
from proxyfab.ref import Ref, mode_of
from proxyfab.wire.payload import Payload

T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
_ANEW = 3
_MOMENT = 0.001


def arrived(board: Board, key: Key, timeout: float | None, lease: float | None, bring: Callable[[Key], R | None]) -> R:
    """What `bring(key)` answers as soon as there is an outcome.

    Args:
        board: Where it is announced.
        key: The future's.
        timeout: Seconds; None for ever.
        lease: Seconds of silence after which who has promised it is given up; None: nobody is listened to.
        bring: Gets the outcome, or what is wanted of it; None where it has gone.

    Raises:
        ResolveTimeout: There was none within `timeout` seconds.
        KeyNotFound: There was one, and it has gone.
    """
    check_timeout(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    for _ in range(_ANEW):
        if not _waited(board, key, deadline, lease):
            raise late(key, board.url, timeout or 0.0)
        found = bring(key)
        if found is not None:
            return found  # not at the first look: another thread's get, begun before the put, may have been joined
    raise gone(key, board.url)


def _waited(board: Board, key: Key, deadline: float | None, lease: float | None) -> bool:
    if lease is None:
        return board.wait(key, None if deadline is None else max(deadline - time.monotonic(), 0.0))
    listener = Listener(board, key, lease)
    left = inf if deadline is None else max(deadline - time.monotonic(), 0.0)
    while True:
        if board.wait(key, min(max(listener.pause, _MOMENT), left)):
            return True
        if deadline is None:
            listener.listen()
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if listener.pause <= 0:  # beside this thread: a place that is stopped is to hold up nobody past his deadline
            with suppress(ResolveTimeout):
                background.aside(listener.listen, f"Listening for {key} in {board.url}").result(left)
            left = max(deadline - time.monotonic(), _MOMENT)


def late(key: Key, url: str, seconds: float) -> ResolveTimeout:
    """The error of a deadline."""
    return ResolveTimeout(
        f"The future {key.id} in {url} was not set within {round(max(seconds, 0.0), 3):g} s. Look whether the process "
        "that is to set it is alive and has got it; if it only takes longer, wait longer (timeout=)."
    )


def raisable(get: Callable[[], R]) -> R:
    """What `get()` answers or raises, but for what no coroutine can raise, and whose await would never end."""
    try:
        return get()
    except StopIteration as error:
        raise RuntimeError("The future's exception is a StopIteration, which nobody can await.") from error


def gone(key: Key, url: str) -> KeyNotFound:
    """The error of an outcome that was there once."""
    return KeyNotFound(
        f"The future {key.id} in {url} was set, and what it was set to has expired or was evicted since."
    )


class FutureRef(Ref[T_co]):
    """A reference to what a future will hold: resolving waits for it, `limit` seconds at most, and raises its error.

    A proxy that was resolved, and a token, are of the plain reference to what lies under the key.
    """

    __slots__ = ("_board", "_landed", "lease", "limit")

    def __init__(
        self, board: Board, key: Key, limit: float | None, kind: Kind | None, lease: float | None = None
    ) -> None:
        super().__init__(board.url, key, source=board.source, kind=kind)
        self._board = board
        self._landed: Ref[T_co] | None = None
        self.limit = limit
        self.lease = lease

    def __call__(self) -> T_co:
        return self.resolve()

    def __repr__(self) -> str:
        what = self.kind.name.replace(":", ".") if self.kind else "object"
        return f"<Ref to {what}, {self.key} in {self.url}>"  # of a size that nobody knows yet

    def resolve(self, timeout: float | None = None) -> T_co:
        return open_outcome(self._payload(timeout), mode_of(self.url))  # type: ignore[no-any-return]  # as of any Ref

    def _fetch(self) -> Payload:
        return self._in_time(self.limit)

    def _in_time(self, timeout: float | None) -> Payload:
        return arrived(self._board, self._key, timeout, self.lease, self._board.fetch)

    @property
    def _key(self) -> Key:
        assert self.key is not None, "a future has a key"
        return self.key

    def prefetch(self) -> None:
        """Wait for it in a thread of its own, so that nobody else's prefetching waits along."""
        if self._ahead is None:
            self._ahead = background.aside(self._fetch, f"Waiting for {self.key} in {self.url}")

    async def _aresolve(self) -> T_co:
        import asyncio  # not at the top: it takes as long to import as all of proxyfab

        limit = asyncio.timeout(self.limit)
        try:
            async with limit:
                await arrival(self._board, self._key, self.lease)
        except TimeoutError:
            if not limit.expired():  # it is the place's own
                raise
            raise late(self._key, self.url, self.limit or 0.0) from None
        return await in_thread(lambda: raisable(self.resolve))

    def reduce_proxy(self, kind: Kind | None, resolved: bool, target: Any) -> tuple[Any, ...]:
        if not resolved:
            return load_proxy, self._promised()
        if self._board.broker:
            return (self._place() or self._stored(target)).current(target).reduce_proxy(kind, False, None)
        ref = self.current(target)
        if ref is self:
            ref = Ref(self.url, self.key, nbytes=self.nbytes, kind=kind)
        return ref.reduce_proxy(kind, False, None)

    def _promised(self) -> tuple[Any, ...]:
        key, broker = self._key, self._board.broker
        name, mask = self.kind or ("", 0)
        state = (self.url, key.id, key.where, self.limit, name, mask, self.lease)
        return (*state, broker) if broker else state

    def _place(self) -> Ref[T_co] | None:
        """The plain reference to what has come, where that does not lie under the future's key; None if it has gone."""
        if self._landed is None:
            self._landed = self._board.landed(self._key)
        return self._landed

    def _stored(self, target: Any) -> Ref[Any]:
        return self.store.ref(target)  # type: ignore[no-any-return]  # a Store's

    def exists(self) -> bool:
        return self._board.exists(self._key)

    def evict(self) -> bool:
        self._ahead = self._landed = None
        return self._board.evict(self._key)

    def to_token(self, *, seal: object = None) -> str:
        place = self._place() if self._board.broker else None
        return super().to_token(seal=seal) if place is None else place.to_token(seal=seal)

    def __reduce__(self) -> tuple[Any, ...]:
        return load, self._promised()


def load(
    url: str, id: str, where: str, limit: float | None, name: str, mask: int, lease: float | None, broker: str = ""
) -> FutureRef[Any]:
    """Unpickle a FutureRef; opens and imports nothing."""
    return FutureRef(board_of(url, broker), Key(id, where), limit, Kind(name, mask) if name else None, lease)


def load_proxy(*state: Any) -> Any:
    """Unpickle a proxy of a FutureRef."""
    return load(*state).proxy()
