"""The driver of `protocol` over a real connector: requests become calls, pauses become time.

Promises: every call ends: at the connector's own deadlines, or when the patience it was given is over. What is found
out about other processes is true for good: a session is dead when it is gone, or when its process was of this machine
and is not there any more.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Protocol, TypeVar

from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.osio.owner import Writer, running, this_process
from proxyfab.patterns.ownership.protocol import (
    HELD,
    LOST,
    Evict,
    Look,
    Now,
    Pause,
    Read,
    ReadMany,
    Renew,
    Request,
    Seen,
    Swap,
)
from proxyfab.retry import Backoff
from proxyfab.wire.remains import SIGN

R = TypeVar("R")
_LONGEST = 10.0
"""Seconds that others may be faster, or a place be silent."""
_BACKOFF = {
    LOST: Backoff(first=0.001, longest=0.05),
    HELD: Backoff(first=0.005, factor=1.5, longest=0.25),
}
_BATCH = 1000
_SILENT = Backoff(first=0.02, longest=1.0)


def presence() -> bytes:
    """What a session's object says: which process it stands for."""
    return SIGN + this_process().writer.pack(0).encode()


def _lives(body: Frames | None) -> bool | None:
    """Whether the process of a session does; None when that cannot be told from here."""
    if body is None:
        return False
    try:
        return running(Writer.unpack(body.tobytes().removeprefix(SIGN).decode()))
    except ValueError:
        return None


class Place(Protocol):
    """What is needed of a store."""

    @property
    def connector(self) -> Any: ...
    def evict(self, key: Key) -> bool: ...


class Desk:
    """Does one change. Not for several threads.

    Args:
        store: Where records, sessions and data lie.
        patience: Seconds to wait for claims of others to end.
        evicted: Gets the keys of data that nothing names any more, instead of having them evicted one by one.
    """

    def __init__(self, store: Place, patience: float = 0.0, evicted: list[Key] | None = None) -> None:
        self._store = store
        self._connector = store.connector
        self._patience = patience
        self._evicted = evicted
        self._began = time.monotonic()
        self._expiries: dict[str, float] = {}

    def run(self, steps: Generator[Request, Any, R]) -> R:
        """Drive it to its end, and answer what it does."""
        error: ConnectorError | None = None
        answer: Any = None
        try:
            while True:
                request = steps.send(answer) if error is None else steps.throw(error)
                answer, error = None, None
                try:
                    answer = self._do(request)
                except ConnectorError as failed:
                    error = failed
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the steps return

    def _do(self, request: object) -> Any:
        if isinstance(request, Swap):
            return self._connector.compare_and_set(
                Key.parse(request.key), _frames(request.old), _frames(request.new), ttl=request.ttl
            )
        if isinstance(request, Renew):
            return self._renew([Key.parse(text) for text in request.keys], request.ttl)
        if isinstance(request, ReadMany):
            many = self._connector.get_many([Key.parse(text) for text in request.keys])
            return [None if found is None else found.tobytes() for found in many]
        if isinstance(request, Read):
            found = self._connector.get(Key.parse(request.key))
            return None if found is None else found.tobytes()  # a copy: it is small, and the next swap needs it
        if isinstance(request, Look):
            return self._look(request)
        if isinstance(request, Pause):
            return self._pause(request)
        if isinstance(request, Now):
            return time.monotonic()
        assert isinstance(request, Evict)
        return self._evict(Key.parse(request.key))

    def _renew(self, keys: list[Key], ttl: float) -> list[bool]:
        there: list[bool] = []
        for start in range(0, len(keys), _BATCH):  # others of this place wait between two of them, not behind all
            there += self._connector.renew_many(keys[start : start + _BATCH], ttl)
        return there

    def _look(self, request: Look) -> Seen:
        keys = [Key.parse(text) for text in request.sessions]
        lives = dict(zip(request.sessions, map(_lives, self._connector.get_many(keys)), strict=True))
        dead = frozenset(text for text, life in lives.items() if life is False)
        renewed = (text for text, life in lives.items() if life or (life is None and self._renewed(text)))
        return Seen(dead, frozenset(renewed if request.closely else ()))

    def _renewed(self, session: str) -> bool:
        stat = self._connector.stat(Key.parse(session))
        expires = 0.0 if stat is None or stat.expires is None else stat.expires
        return expires > self._expiries.setdefault(session, expires) + 0.1

    def _pause(self, request: Pause) -> bool:
        pause = _BACKOFF.get(request.why, _SILENT).pause(request.number)
        longest = self._patience if request.why == HELD else _LONGEST
        if time.monotonic() - self._began + pause > longest:
            return False
        time.sleep(pause)
        return True

    def _evict(self, key: Key) -> None:
        if self._evicted is not None:
            self._evicted.append(key)
            return
        try:
            self._store.evict(key)
        except ConnectorError:
            pass  # it expires


def _frames(data: bytes | None) -> Frames | None:
    return None if data is None else Frames([data])
