"""One connection to a NATS server, from entering to its loss. It never reconnects: its link makes another one.

Promises: whoever waits for an answer is told at once when the connection is lost (`Lost`), or when the server says that
we may not send what was sent, or listen where the answer goes (AccessDenied). Belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client

from proxyfab.brokers.nats.arrivals import Message
from proxyfab.brokers.nats.departures import Departures, keep_pages
from proxyfab.brokers.nats.direct import Direct, lacking
from proxyfab.brokers.nats.place import Place
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError

_PING = 3.0
"""Seconds between pings; a server that misses two is gone."""
_OLDEST = (2, 11)
_LOOK = 1.0
_MUCH = 1 << 20
"""Bytes that wait to be written, beyond which who says more waits."""
_DENIED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"")
_UNWANTED = ("authorization violation", "authentication", "account", "revoked")


class Lost(Exception):
    """The connection was lost before the answer came."""


class Asked(NamedTuple):
    """A question that was sent."""

    token: str
    answer: asyncio.Future[Message]


class _Client(Client):  # type: ignore[misc]  # nats-py is not typed
    """nats-py's, which tells nobody that it is closed where closing it fails, and leaves its socket open then."""

    def __init__(self, over: Callable[[], None]) -> None:
        super().__init__()
        self._told_over = over

    async def _process_op_err(self, e: Exception) -> None:
        try:
            await super()._process_op_err(e)
        except OSError:
            transport = getattr(self, "_transport", None)
            if transport is not None:
                transport.close()
        finally:
            self._told_over()


class Session:
    """A connection.

    Args:
        place: How to enter.
        servers: Where.
        lost: Called once, when it is over.
    """

    def __init__(self, place: Place, servers: list[str], lost: Callable[[], None]) -> None:
        self.place = place
        self.alive = False
        self.denied: dict[str, str] = {}
        """Subjects, in small letters, that were refused, and what was tried."""
        self._servers = servers
        self._lost = lost
        self._client: Client = _Client(self._over)
        self._waiting: dict[str, tuple[asyncio.Future[Message], str]] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._hearers: dict[int, Callable[[Message], None]] = {}
        self._count = 0
        self._prefix = ""
        self._direct = False
        self._trouble: OSError | None = None
        """Why a server was not reached."""

    @property
    def max_payload(self) -> int:
        """Bytes of a message at most."""
        return int(self._client.max_payload)

    async def open(self, seconds: float, login: dict[str, Any]) -> None:
        """Connect and enter.

        Raises:
            ConnectorError: It cannot be reached; AccessDenied: not by us; ConfigurationError: it is too old.
        """
        connecting = self._client.connect(
            servers=self._servers,
            error_cb=self._heard,
            closed_cb=self._closed,
            name="proxyfab",
            allow_reconnect=False,
            connect_timeout=max(1, round(seconds)),
            reconnect_time_wait=0,
            max_reconnect_attempts=1,
            ping_interval=_PING,
            inbox_prefix=self.place.inbox,
            pending_size=8 << 20,
            **login,
        )
        task = asyncio.get_running_loop().create_task(connecting)
        task.add_done_callback(seen)
        try:
            await asyncio.wait_for(task, seconds)
            self._receive()
            inbox = self._client.new_inbox()
            await self.listen(f"{inbox}.*", self._answered)
        except BaseException as error:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.close(), 2.0)
            self._cut()
            if isinstance(error, Exception):
                raise _translated(error, self.place, self._trouble) from error
            raise
        self._prefix = f"{inbox}."
        version = self._client.connected_server_version
        if (version.major, version.minor) < _OLDEST:
            await self.close()
            raise ConfigurationError(f"{self.place.label} runs nats-server {version!r}; 2.11 or newer is needed.")
        self.alive = True
        self._look()

    def _receive(self) -> None:
        """Receive and send beside nats-py, where it is as we know it."""
        self._direct = not lacking(self._client)
        if self._direct:
            self._writer = self._client._transport._io_writer
            keep_pages()
            self._departures = Departures(self._write, asyncio.get_running_loop().call_soon)
            Direct.take(self._client, self._arrived)

    def _arrived(self, number: int, message: Message) -> None:
        heard = self._hearers.get(number)
        if heard is None:
            return
        if number not in self._client._subs:
            del self._hearers[number]
            return
        with contextlib.suppress(Exception):  # what makes no sense to who listens is lost, and asked for again
            heard(message)

    def _look(self) -> None:
        """Once in a while, whether nats-py has closed it and not said so."""
        if self.alive and self._client.is_closed:
            self._over()
        if self.alive:
            self._looking = asyncio.get_running_loop().call_later(_LOOK, self._look)

    async def ask(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None, *, until: float | None = None
    ) -> Asked:
        """Send a message that is answered. `until` as for `say`."""
        self._count += 1
        token = f"{self._count:x}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer, subject
        try:
            await self.say(subject, body, self._prefix + token, headers, until=until)
        except BaseException:
            self.forget(token)
            raise
        return Asked(token, answer)

    def forget(self, token: str) -> None:
        """Nobody waits for this answer any more."""
        self._waiting.pop(token, None)

    async def say(
        self,
        subject: str,
        body: bytes,
        reply: str = "",
        headers: dict[str, str] | None = None,
        *,
        until: float | None = None,
    ) -> None:
        """Send a message; raises Lost.

        Where much waits to be sent, for a server that takes nothing, wait for that: until the loop's time is `until`,
        or for as long as the connection lasts.
        """
        if not self.alive:
            raise Lost
        if self._client.is_closed:
            self._over()  # nats-py knows, and has not told yet
            raise Lost
        if not self._direct:
            try:
                await self._client.publish(subject, body, reply, headers=headers)
            except (nats.errors.ConnectionClosedError, OSError) as error:
                self._over()
                raise Lost from error
            return
        self._departures.add(subject, body, reply, headers)
        if self._writer.transport.get_write_buffer_size() > _MUCH:
            seconds = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
            try:
                await asyncio.wait_for(self._writer.drain(), seconds)
            except TimeoutError:  # it is on its way as soon as there is room
                return
            except OSError as error:
                self._over()
                raise Lost from error
            if not self.alive:
                raise Lost

    def _write(self, data: memoryview) -> bool:
        """Whether some of it waits. What nats-py has gathered goes first: an answer may go to that subscription."""
        client, transport = self._client, self._writer.transport
        if client._pending_data_size:
            transport.writelines(client._pending)
            client._pending, client._pending_data_size = [], 0
        transport.write(data)
        return bool(transport.get_write_buffer_size())

    async def listen(self, subject: str, heard: Callable[[Message], None]) -> Any:
        """Have `heard(message)` called; the subscription has `unsubscribe` and `drain`."""
        try:
            if not self._direct:
                return await self._client.subscribe(subject, cb=partial(_hear, heard))
            made = await self._client.subscribe(subject)
            self._hearers[made._id] = heard  # nothing comes before it is asked for
            return made
        except (nats.errors.ConnectionClosedError, OSError) as error:
            self._over()
            raise Lost from error

    async def deafen(self, heard: list[Any]) -> None:
        """End what `listen` made. Where the connection has gone meanwhile, it has ended."""
        for each in heard:
            with contextlib.suppress(nats.errors.Error, OSError):
                await each.unsubscribe()

    def inbox(self) -> str:
        """A subject that nobody else has."""
        return str(self._client.new_inbox())

    async def close(self) -> None:
        """End it; what was said leaves before, if that does not take long."""
        if self._looking is not None:
            self._looking.cancel()
        with contextlib.suppress(Exception):
            if self.alive and self._direct:
                self._departures.leave()
            await asyncio.wait_for(self._client.close(), 2.0)
        await self._closed()

    def drop(self) -> None:
        """It is of no use any more: everybody is told, and it is closed beside."""
        asyncio.get_running_loop().create_task(self.close())
        self._over()

    def _answered(self, message: Message) -> None:
        found = self._waiting.pop(message.subject[len(self._prefix) :], None)
        if found is not None and not found[0].done():
            found[0].set_result(message)

    async def _heard(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self._trouble = error
        match = _DENIED.search(str(error).lower())
        if match is None:
            return
        what, subject = match.groups()
        self.denied[subject] = what
        for token, (answer, asked) in list(self._waiting.items()):
            if not answer.done() and (asked.lower() == subject or self._prefix.lower() + "*" == subject):
                answer.set_exception(refused(self.place, what, subject))
                self.forget(token)

    async def _closed(self) -> None:
        self._over()

    def _over(self) -> None:
        was, self.alive = self.alive, False
        if self._looking is not None:
            self._looking.cancel()
        self._cut()
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_exception(Lost())
                answer.exception()  # whether or not somebody waits
        self._waiting.clear()
        if was:
            self._lost()

    def _cut(self) -> None:
        """End the connection at once, and all that waits for room in it: a server that hangs makes none."""
        with contextlib.suppress(AttributeError):  # there is none yet; or nats-py's have other names
            self._client._transport._io_writer.transport.abort()


def seen(opening: asyncio.Task[Any]) -> None:
    """Whether or not anybody still waits for it, what went wrong is nothing for asyncio's log."""
    if not opening.cancelled():
        opening.exception()


async def _hear(heard: Callable[[Message], None], message: Any) -> None:
    """As `Session._arrived` does, of what nats-py has received."""
    with contextlib.suppress(Exception):
        heard(Message.of(message.subject, message.reply, message.data, message.headers or {}))


def refused(place: Place, what: str, subject: str) -> AccessDenied:
    """The error of something that the server does not let us do."""
    return AccessDenied(
        f"{place.label} does not let {place.user or 'us'} {'publish to' if what == 'publish' else 'subscribe to'} "
        f"{subject}; ask its administrator for that permission, or set ?inbox= where answers may go elsewhere only."
    )


def _translated(error: Exception, place: Place, trouble: OSError | None = None) -> Exception:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, nats.errors.NoServersError) and trouble is not None:
        number = trouble.errno or 0
        text = os.strerror(number) if number > 0 else str(trouble).strip() or text
    elif isinstance(error, TimeoutError):
        text = "nothing came of what a NATS server says first: it is not reached, hangs, or is something else"
    if isinstance(error, (AccessDenied, ConfigurationError, ConnectorError)):
        return error
    if any(word in text.lower() for word in _UNWANTED):
        return AccessDenied(
            f"{place.label} refused {place.user or 'us'}: {text}. Set ?user= and PROXYFAB_NATS_PASSWORD, "
            "PROXYFAB_NATS_TOKEN, or ?creds=/path; where the server asks `proxyfab auth serve`, that says why."
        )
    return ConnectorError(f"Cannot connect to {place.label}: {text}; check that a NATS server runs there.")
