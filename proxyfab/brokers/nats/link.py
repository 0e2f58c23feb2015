"""A broker's way to its servers: one session at a time, made anew when it is lost, and questions that outlive it.

Rules:
1. Everything but `run`, `post` and `close` belongs to the loop's thread.
2. A question that may be asked twice is asked again on the next session, and once in a while on the same one, until
   its deadline; what cannot be repeated carries an id that the server knows it by.
3. A session that cannot be had is tried for again until the deadline. Being refused ends that at once; who was let in
   before is patient for `_REFUSED` seconds, as who says who may enter may just be starting again, too.
4. Who was never let in is told after `_FIRST` seconds that nobody is there: the address may be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from proxyfab.brokers.nats.arrivals import Message
from proxyfab.brokers.nats.auto import Embedded
from proxyfab.brokers.nats.loop import runner
from proxyfab.brokers.nats.place import Place
from proxyfab.brokers.nats.session import Lost, Session, seen
from proxyfab.errors import AccessDenied, ConnectorError
from proxyfab.fork import on_fork
from proxyfab.retry import Backoff

T = TypeVar("T")
CONNECT = 5.0
AGAIN = 3.0
"""Seconds after which a question is asked once more."""
_PAUSE, _LONGEST = 0.02, 0.5
_PAUSES = Backoff(first=0.001, longest=0.05)
_REFUSED = 10.0
_FIRST = 10.0
STATUS = "503"


class Refusal(Exception):
    """JetStream says no."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class Link:
    """The connection of one broker. Thread-safe and fork-safe.

    Args:
        place: Where to.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.closed = False
        self._embedded = Embedded(place.sync) if place.auto else None
        self._reset()
        on_fork(self)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._holding = False
        self._session: Session | None = None
        self._opening: asyncio.Task[Session] | None = None
        self._entered = False
        self._absent = False
        """Whether what was tried last has ended because nobody is there."""
        self._trouble: AccessDenied | ConnectorError | None = None
        """Why there was none the last time."""
        self.lost: set[Callable[[], None]] = set()
        """Called when the session is lost."""

    def after_fork(self) -> None:
        """The parent's session is the parent's."""
        self._reset()

    # -- from any thread ---------------------------------------------------------------------------------------------

    def run(self, work: Callable[[float], Coroutine[Any, Any, T]], timeout: float) -> T:
        """What `work(deadline)` comes to in the loop; `deadline` in its time."""
        self._hold()
        return runner.run(_timed(work, timeout), timeout)

    def post(self, call: Callable[..., object], *args: object) -> None:
        """Call this in the loop, soon."""
        self._hold()
        runner.post(call, *args)

    def _hold(self) -> None:
        if not self._holding:
            with self._guard:
                if self.closed:  # asked here: another thread may be at it
                    raise ConnectorError(f"{self.place.label} was closed; open a new broker.")
                if not self._holding:
                    runner.hold()
                    runner.closers.add(self._end)
                    self._holding = True

    def close(self) -> None:
        """End it, and the use of a server that was started here."""
        with self._guard:
            if self.closed:
                return
            self.closed = True
            held, self._holding = self._holding, False
        if held:
            runner.closers.discard(self._end)
            with contextlib.suppress(ConnectorError):
                runner.run(self._end(), 2.0)
            runner.release()
        if self._embedded is not None:
            self._embedded.leave()

    # -- in the loop -------------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> AccessDenied | ConnectorError | None:
        """Why no connection could be had, since which there was none; None for unknown."""
        return None if self._trouble is None else type(self._trouble)(str(self._trouble))

    @property
    def max_payload(self) -> int:
        """Bytes of a message at most, as far as is known."""
        return self._session.max_payload if self._session is not None else 1 << 20

    async def session(self, deadline: float) -> Session:
        """One that lives.

        Raises:
            ConnectorError: None could be had in time; AccessDenied: we are refused.
        """
        while self._session is None or not self._session.alive:
            if self.closed:  # by another thread, amid a call of this one
                raise ConnectorError(f"{self.place.label} was closed; open a new broker.")
            if self._opening is None or self._opening.done():
                self._opening = asyncio.get_running_loop().create_task(self._open(deadline))
                self._opening.add_done_callback(seen)
            opening = self._opening
            await asyncio.wait([opening], timeout=max(deadline - now(), 0))
            if not opening.done():
                raise self._trouble or ConnectorError(f"{self.place.label} did not answer in time; check that it runs.")
            try:
                opening.result()
            except ConnectorError:
                if self._absent or now() >= deadline - _PAUSE:  # otherwise it was somebody else's time that was over
                    raise
        return self._session

    async def _open(self, deadline: float) -> Session:
        pause, patient = _PAUSE, now() + (_REFUSED if self._entered else 0.0)
        until = math.inf if self._entered or self._embedded is not None else now() + _FIRST
        self._absent = False
        while True:
            try:
                session = await self._try(max(0.1, min(CONNECT, deadline - now())))
            except (AccessDenied, ConnectorError) as error:
                self._trouble = type(error)(str(error))
                refused = isinstance(error, AccessDenied) and self._embedded is None  # whose token may just change
                self._absent = now() + pause >= until
                if (refused and now() >= patient) or self._absent or now() + pause >= deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
            else:
                self._session, self._trouble, self._entered = session, None, True
                return session

    async def _try(self, seconds: float) -> Session:
        servers, login = [f"nats://{host}" for host in self.place.hosts], None
        if self._embedded is not None:
            address, login = await asyncio.to_thread(self._embedded.join, seconds + CONNECT)
            servers = [f"nats://{address}"]
        session = Session(self.place, servers, self._told)
        await session.open(seconds, self.place.login() if login is None else login)
        return session

    def _told(self) -> None:
        for call in list(self.lost):
            call()

    async def _end(self) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._opening
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, subject: str, body: bytes, deadline: float, *, headers: dict[str, str] | None = None
    ) -> Message:
        """The answer to a question that may be asked twice."""
        while True:
            session = await self.session(deadline)
            try:
                asked = await session.ask(subject, body, headers, until=min(now() + AGAIN, deadline))
            except Lost:
                continue
            await asyncio.wait([asked.answer], timeout=max(0.0, min(AGAIN, deadline - now())))
            if asked.answer.done():
                try:
                    return asked.answer.result()
                except Lost:
                    continue
            session.forget(asked.token)
            if now() >= deadline:
                raise ConnectorError(f"{self.place.label} did not answer in time ({subject}); check that it runs.")

    async def call(self, verb: str, body: dict[str, Any] | None, deadline: float) -> dict[str, Any]:
        """A request to JetStream's administration.

        Raises:
            Refusal: It says no.
            ConnectorError: It cannot be reached, or this server has none.
        """
        said = b"" if body is None else msgspec.json.encode(body)
        while True:
            message = await self.ask(f"{self.api}.{verb}", said, deadline)
            if status_of(message) != STATUS:
                break
            if now() + _LONGEST > deadline:  # one that has just started may say so
                raise ConnectorError(f"{self.place.label} has no JetStream; start it with -js.")
            await asyncio.sleep(0.1)
        answer: dict[str, Any] = msgspec.json.decode(message.data)
        error = answer.get("error")
        if error is not None:
            raise Refusal(int(error.get("err_code", 0)), str(error.get("description", error)))
        return answer

    @property
    def api(self) -> str:
        """What JetStream's subjects begin with."""
        return f"$JS.{self.place.domain}.API" if self.place.domain else "$JS.API"


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def once_more(what: str, times: int, deadline: float) -> None:
    """Pause before the next attempt at what others have changed meanwhile, so many times.

    Raises:
        ConnectorError: The time of the call is over.
    """
    left = deadline - now()
    if left <= 0:
        raise ConnectorError(
            f"{what} was changed by others each time that this call would have, {times} times until its time was over; "
            "change it less often, or from fewer places."
        )
    await asyncio.sleep(min(_PAUSES.pause(times), left))


async def _timed(work: Callable[[float], Coroutine[Any, Any, T]], timeout: float) -> T:
    return await work(now() + timeout)


def status_of(message: Message) -> str:
    """The status that a message has instead of a content; "" for none."""
    return "" if message.data else message.headers.get("Status", "")


def described(message: Message) -> str:
    """What a status says in words."""
    return message.headers.get("Description", "")
