"""The driver of `protocol` over a real connector: requests become calls, pauses become time.

Promises: every call ends: at the connector's own deadlines, or when the patience it was given is over. What is found
out about other processes is true for good: a session is dead when it is gone, or when its process was of this machine
and is not there any more.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from proxyfab import abc
from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError, ProxyfabError
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
Answer: TypeAlias = tuple[Any, ProxyfabError | None]
"""To a request, or what went wrong."""
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

    def run_all(self, many: Sequence[Generator[Request, Any, R]]) -> list[R | ProxyfabError]:
        """Drive several side by side, to what each answers or raises: what they want done at once is done at once."""
        ends: dict[int, R | ProxyfabError] = {}
        answers: dict[int, Answer] = dict.fromkeys(range(len(many)), (None, None))
        while answers:
            asked: dict[int, Request] = {}
            for number, (answer, error) in answers.items():
                try:
                    asked[number] = many[number].send(answer) if error is None else many[number].throw(error)
                except StopIteration as done:
                    ends[number] = done.value
                except ProxyfabError as failed:
                    ends[number] = failed
            answers = self._do_all(asked)
        return [ends[number] for number in range(len(many))]

    def _do_all(self, asked: dict[int, Request]) -> dict[int, Answer]:
        answers: dict[int, Answer] = {}
        batches: dict[Any, Any] = {Swap: self._swap_all, Read: self._read_all, Pause: self._pause_all}
        for kind, do in batches.items():
            some = {number: request for number, request in asked.items() if isinstance(request, kind)}
            try:
                answers |= zip(some, zip(do([*some.values()]), [None] * len(some), strict=True), strict=True)
            except ConnectorError as error:
                answers |= dict.fromkeys(some, (None, error))
            except ProxyfabError:  # of one of them; what was done to others is found out
                answers |= {number: self._do_alone(request) for number, request in some.items()}
        return answers | {number: self._do_alone(asked[number]) for number in asked.keys() - answers.keys()}

    def _do_alone(self, request: Request) -> Answer:
        try:
            return self._do(request), None
        except ProxyfabError as error:
            return None, error

    def _swap_all(self, swaps: list[Swap]) -> list[bool]:
        wanted = [abc.Swap(Key.parse(key), _frames(old), _frames(new), ttl) for key, old, new, ttl in swaps]
        return self._connector.compare_and_set_many(wanted) if wanted else []

    def _read_all(self, reads: list[Read]) -> list[bytes | None]:
        found = self._connector.get_many([Key.parse(read.key) for read in reads]) if reads else []
        return [None if frames is None else frames.tobytes() for frames in found]

    def _pause_all(self, pauses: list[Pause]) -> list[bool]:
        """All of them at once, as long as the longest."""
        longest = max((pause for pause in pauses if self._has_time(pause)), key=_seconds, default=None)
        may = [self._has_time(pause) for pause in pauses]
        if longest is not None:
            time.sleep(_seconds(longest))
        return may

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
            return self._pause_all([request])[0]
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

    def _has_time(self, pause: Pause) -> bool:
        longest = self._patience if pause.why == HELD else _LONGEST
        return time.monotonic() - self._began + _seconds(pause) <= longest

    def _evict(self, key: Key) -> bool:
        if self._evicted is not None:
            self._evicted.append(key)
            return False
        try:
            self._store.evict(key)
        except ConnectorError:
            return False  # it expires
        return True


def _seconds(pause: Pause) -> float:
    return _BACKOFF.get(pause.why, _SILENT).pause(pause.number)


def _frames(data: bytes | None) -> Frames | None:
    return None if data is None else Frames([data])
