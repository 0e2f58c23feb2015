"""The service that nats-server asks who may enter (its auth callout), and what it answers: a user with rights, or no.

Rules:
1. An answer is for one connection: its user key, its server, and a time after which the server asks again.
2. The server tells a client no more than that it may not enter; why is told to who runs the service.
3. Whatever goes wrong is a no, and ends nothing but that one request.
4. Several services share the requests: whichever is free takes one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client

from proxyfab.brokers.nats.place import Place
from proxyfab.errors import AccessDenied, IntegrityError, ProxyfabError
from proxyfab.events.access import nats_permissions
from proxyfab.events.people import People, grants_of
from proxyfab.server.auth.claims import SERVER, Signer, read
from proxyfab.server.auth.identity import Book, Entered, Said

SUBJECT = "$SYS.REQ.USER.AUTH"
LIFE = 3600.0
"""Seconds after which a connection has to prove again who it is."""
_QUEUE = "proxyfab-auth"
_AT_ONCE = 8
"""Requests that are looked at at the same time: passwords take processor time."""
_WAITING = 1024
_REPLIES = {"max": 1, "ttl": 120_000_000_000}
_PAUSE = 0.2
_END = 3.0
"""Seconds that are left for what was asked before the end."""


class Decision(NamedTuple):
    """What was decided.

    Attributes:
        principal: Who entered; "" for nobody.
        server: Where.
        host: From where.
        why: Why not.
        seconds: How long it took.
    """

    principal: str
    server: str
    host: str
    why: str
    seconds: float


class Callout:
    """Decides. Thread-safe.

    Args:
        signer: Of the key that servers know as the issuer.
        book: Who there is.
        life: Seconds that an answer is good for at most.
    """

    def __init__(self, signer: Signer, book: Book, life: float = LIFE) -> None:
        self._signer = signer
        self._book = book
        self._life = life

    def decide(self, request: bytes) -> tuple[bytes, Decision]:
        """The answer to a server's request, and what was decided; raises IntegrityError for what is no request."""
        started = time.monotonic()
        claims = read(request, SERVER)
        try:
            asked = claims["nats"]
            server, user = asked["server_id"], str(asked["user_nkey"])
            if asked.get("type") != "authorization_request":
                raise KeyError("type")
            place, name, host = str(server["id"]), str(server["name"]), str(asked["client_info"].get("host", ""))
            said = _said(asked.get("connect_opts") or {})
        except (KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"These claims are no request of a server: {error} is missing.") from error
        answer: dict[str, Any] = {}
        principal = why = ""
        try:
            people, identities = self._book()
            entered = identities.enter(said)
            answer["jwt"] = self._user(people, entered, user, name)
            principal = entered.principal
        except AccessDenied as error:
            why = str(error)
        except ProxyfabError as error:
            why = f"this service is at fault: {error}"
        if why:
            answer["error"] = "refused"
        text = self._signer.sign(
            {
                "aud": place,
                "sub": user,
                "iat": int(time.time()),
                "nats": {"type": "authorization_response", "version": 2, **answer},
            }
        )
        return text.encode(), Decision(principal, name, host, why, time.monotonic() - started)

    def _user(self, people: People, entered: Entered, user: str, server: str) -> str:
        principal = people.principals[entered.principal]
        if principal.servers and server not in principal.servers:
            raise AccessDenied(f"{entered.principal}: not known at {server}, but at {', '.join(principal.servers)}")
        now = time.time()
        until = min(entered.until, now + self._life)
        if until <= now:
            raise AccessDenied(f"{entered.principal}: its token has ended")
        rights = nats_permissions(grants_of(entered.principal, principal), namespace=people.namespace, reach=True)
        allowed = rights.get(entered.principal)
        if allowed is None:
            raise AccessDenied(f"{entered.principal}: it may do nothing")
        return self._signer.sign(
            {
                "aud": principal.account,
                "sub": user,
                "name": entered.principal,
                "iat": int(now),
                "exp": int(until + 1),
                "nats": {
                    "type": "user",
                    "version": 2,
                    "pub": allowed["publish"],
                    "sub": allowed["subscribe"],
                    "resp": _REPLIES,
                    "subs": -1,
                    "data": -1,
                    "payload": -1,
                },
            }
        )


def _said(options: dict[str, Any]) -> Said:
    return Said(str(options.get("user", "")), str(options.get("pass", "")), str(options.get("auth_token", "")))


class Service:
    """Answers servers' requests until it is told to stop.

    Args:
        place: The server to answer at, and as whom to enter there.
        callout: What decides.
        tell: Called with each decision, and with what else there is to say.
    """

    def __init__(self, place: Place, callout: Callout, tell: Callable[[Decision | str], None]) -> None:
        self._place = place
        self._callout = callout
        self._tell = tell
        self._working: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._last = ""

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve; `ready` is called once requests are taken. Where no server is there yet, it is waited for.

        Raises:
            AccessDenied: The server does not let this service in, or the secret to enter with is missing.
        """
        while not stop.is_set():
            gone = asyncio.Event()
            client = await self._enter(stop, gone)
            if client is None:
                return
            try:
                await client.subscribe(SUBJECT, queue=_QUEUE, cb=self._asked, pending_msgs_limit=_WAITING)
                await client.flush()
                self._last = ""
                ready()
                await _either(stop, gone)
                if self._working and not gone.is_set():
                    await asyncio.wait(self._working, timeout=_END)
            except (TimeoutError, OSError, nats.errors.Error) as error:
                self._lost(error)
            finally:
                await _end(client)
            await _either(stop, seconds=_PAUSE)

    async def _enter(self, stop: asyncio.Event, gone: asyncio.Event) -> Client | None:
        """A connection, `gone` is set when it is over; None when it is to stop before there is one."""

        async def over() -> None:
            gone.set()

        while not stop.is_set():
            client = Client()
            try:
                await client.connect(
                    servers=[f"nats://{host}" for host in self._place.hosts],
                    name="proxyfab auth",
                    allow_reconnect=False,
                    connect_timeout=3,
                    error_cb=self._complain,
                    closed_cb=over,
                    **self._place.login(),
                )
                return client
            except (TimeoutError, OSError, nats.errors.Error) as error:
                await _end(client)
                if "authorization" in str(error).lower():
                    raise AccessDenied(
                        f"{self._place.label} does not let the service itself in as {self._place.user!r}: {error}. Is "
                        f"its password the one that the server has for the callout?"
                    ) from error
                self._lost(error)
                await _either(stop, seconds=_PAUSE)
        return None

    def _lost(self, error: Exception) -> None:
        said = f"{self._place.label} is not there: {str(error) or type(error).__name__}"
        if said != self._last:  # once, however often it is tried
            self._last = said
            self._tell(said)

    async def _asked(self, message: Any) -> None:
        task = asyncio.create_task(self._answer(message))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _answer(self, message: Any) -> None:
        try:
            async with self._turns:
                answer, decision = await asyncio.to_thread(self._callout.decide, bytes(message.data))
            await message.respond(answer)
        except IntegrityError as error:
            self._tell(f"a request that is none: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the next request is another one
            self._tell(f"a request failed: {type(error).__name__}: {error}")
        else:
            self._tell(decision)

    async def _complain(self, error: Exception) -> None:
        self._lost(error)


async def _end(client: Client) -> None:
    with contextlib.suppress(Exception):
        await client.close()


async def _either(*events: asyncio.Event, seconds: float | None = None) -> None:
    waiting = [asyncio.create_task(each.wait()) for each in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def line(told: Decision | str) -> str:
    """What was told, for people."""
    if isinstance(told, str):
        return told
    spent = f"{told.seconds * 1000:.0f} ms"
    if told.why:
        return f"refused at {told.server}, from {told.host}, after {spent}: {told.why}"
    return f"entered at {told.server}, from {told.host}, after {spent}: {told.principal}"


def record(told: Decision | str) -> str:
    """The same as JSON."""
    return json.dumps({"said": told} if isinstance(told, str) else told._asdict())
