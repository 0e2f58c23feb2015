"""A link to one node server: a pool of channels, a deadline for each call, and calls repeated where that helps.

Rules:
1. A call takes a channel for itself: the last one that was used, or a new one. No thread stands between.
2. A repeated call keeps its request, so that the server does it once (`proxyfab.server.answers`). That this process
   was away for a while (stopped, or in C code that lets no other thread run) costs no call its retries.
3. A forked child starts without channels; its parent's are its parent's.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import zmq

from proxyfab.background import Beginnings
from proxyfab.connectors.zmq.beside import Offer, connect
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.dealer import Dealer
from proxyfab.connectors.zmq.locator import endpoint
from proxyfab.connectors.zmq.presence import Presence
from proxyfab.connectors.zmq.stream import Stream
from proxyfab.errors import AccessDenied, ConnectorError, ObjectLost, ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.osio.machine import sight_of
from proxyfab.osio.owner import this_process
from proxyfab.osio.shared import default_root
from proxyfab.registry import load
from proxyfab.retry import Attempts, Patience, budget_of
from proxyfab.trace import Link as Place
from proxyfab.trace import here, span
from proxyfab.wire.messages import REQUEST, VERSION, Message
from proxyfab.wire.side import NONCE, proof
from proxyfab.zeromq.connection import PATIENCE, Broken

R = TypeVar("R")
_AGAIN = 2.0
"""Seconds in which a connection has to come about that takes the place of a broken one."""
_BESIDE = 1.0
"""Seconds in which a side channel has to open, of a server that has just answered."""
_LOOK = "Check that it runs (`proxyfab doctor`), or give calls more time with ?timeout=."
_OPENING = 12.0
"""Seconds that opening a channel may take; who has less opens it beside himself."""
_IDLE = 32
"""Channels that are kept for the next call."""


class Welcome(NamedTuple):
    """What a server said of itself on a new channel."""

    incarnation: str
    address: str
    space: str
    """The namespace in shared memory that both see; `""` where they share none."""
    pid: int
    sees: bool
    """Whether the server can look this process up."""
    site: str = ""
    """Of which site it is the gateway; `""` where it is none."""


class Link:
    """One server, as this process talks to it. Thread-safe and fork-safe.

    Args:
        address: `host:port` or the path of a socket.
        timeout: Seconds a call may take; while bytes of an object come, seconds that it may stand still.
        shared: Whether to look for the objects in shared memory.
        side: Which side channels to use: `1` for any, `tcp`, or `0` for none.
        options: Of the sockets: CURVE keys.
        revive: Starts the server anew, within so many seconds, where it has ended and that is ours to do.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        *,
        shared: bool,
        side: str = "1",
        options: Callable[[], dict[int, bytes]] = dict,
        revive: Callable[[float], object] | None = None,
    ) -> None:
        self.address = address
        self.endpoint = endpoint(address)
        self.timeout = timeout
        self.welcome: Welcome | None = None
        self._shared = shared
        self._side = side
        self._offer: Offer | None = None
        self._refused = ""
        """The incarnation whose side channel this process does not get through to."""
        self._options = options
        self._revive = revive
        self._budget = budget_of(f"zmq://{address}")
        self._places: dict[str, Any] = {}
        self._closed = False
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """Start without channels: those are the parent's."""
        self._idle: deque[Channel] = deque()
        self._turn = threading.Lock()
        self._presence: Presence | None = None
        self._openings = Beginnings(self._open_beside, f"Connecting to {self.endpoint}")
        self.trouble: ConnectorError | None = None
        """Why no channel could be opened beside who waits, since which the server has said nothing."""

    @property
    def guarded(self) -> bool:
        """Whether connections are made with keys."""
        return bool(self._options())

    @property
    def revives(self) -> bool:
        """Whether a server that was killed is started anew from here."""
        return self._revive is not None

    # -- calls ---------------------------------------------------------------------------------------------------

    def ask(self, verb: str, fields: dict[str, Any], body: Sequence[memoryview] = ()) -> Message:
        """A request and its answer, without a body."""

        def once(channel: Channel, request: bytes) -> Message:
            channel.send(verb, request, fields, body)
            return channel.answer(request, time.monotonic() + self.timeout)

        return self.call(verb, once)

    def patience(self, timeout: float | None, outage: float | None = None) -> Patience:
        """A wait's attempts: an outage of the server may last as long as a call may, or for so many seconds."""
        outage = self.timeout if outage is None else outage
        return Patience(self._budget, self._turn, outage=outage, timeout=timeout)

    def call(
        self,
        what: str,
        once: Callable[[Channel, bytes], R],
        *,
        incarnation: str = "",
        timeout: float | None = None,
        attempts: Attempts | None = None,
        ends: float = math.inf,
    ) -> R:
        """What `once(channel, request)` returns, on a channel of its own, repeated where a connection has broken.

        Args:
            what: The operation, for errors.
            once: One attempt.
            incarnation: The server that has to answer; "" for whichever is there.
            timeout: Seconds for this call, if not the link's.
            attempts: Its attempts, if not those of any call; then `once` sees to the time that an answer may take.
            ends: When who waits goes on, whatever the server does, in monotonic seconds.

        Raises:
            Broken: It is `late`: `ends` has passed, and an answer is not overdue for long.
            ObjectLost: Another incarnation answers at that address.
            ConnectorError: None answers, or not in time.
        """
        request = os.urandom(REQUEST)
        timeout = self.timeout if timeout is None else timeout
        waits = attempts is not None
        attempts = attempts or Attempts(self._budget, timeout=timeout)
        while True:
            try:
                first = attempts.number == 1
                until = math.inf if first or waits else time.monotonic() + (attempts.left or 0.0)
                patience = min(PATIENCE, timeout) if first else _AGAIN
                result = self._attempt(once, request, incarnation, patience, until, ends)
            except Broken as broken:
                if broken.late and ends < math.inf:
                    raise
                if broken.away and attempts.left:
                    continue  # it was us, seconds ago: nothing that a retry budget is there to prevent
                error = self._failed(what, broken, attempts)
                pause = attempts.failed(error) if broken.again else None
                if pause is None:
                    raise error from broken
                time.sleep(pause)
                if self._revive is not None:
                    left = attempts.left
                    self._revive(self.timeout if left is None else left)
            except zmq.ZMQError as wrong:
                raise ConnectorError(f"{what} at {self.endpoint} failed: {wrong.strerror}.") from wrong
            else:
                attempts.succeeded()
                return result

    def _attempt(
        self,
        once: Callable[[Channel, bytes], R],
        request: bytes,
        incarnation: str,
        patience: float,
        until: float,
        ends: float,
    ) -> R:
        channel = self._take(patience, ends)
        channel.until = until
        try:
            if incarnation and channel.welcome.fields["incarnation"] != incarnation:
                raise ObjectLost(
                    f"The node server at {self.address} was started anew, and what it held before is lost: "
                    f"incarnation {incarnation} has ended."
                )
            result = once(channel, request)
        except ObjectLost:
            self._keep(channel)
            raise
        except BaseException:  # whatever it was, an answer may still be on its way
            channel.close()
            raise
        self._keep(channel)
        return result

    def _failed(self, what: str, broken: Broken, attempts: Attempts) -> ConnectorError:
        tries = f", {attempts.number} times" if attempts.number > 1 else ""
        return ConnectorError(
            f"{what} at {self.endpoint} failed after {attempts.elapsed:.1f} s{tries}: the node server {broken}. {_LOOK}"
        )

    # -- channels ------------------------------------------------------------------------------------------------

    def _take(self, patience: float, ends: float = math.inf) -> Channel:
        """A channel whose connection stands, as far as is known."""
        while True:
            channel = _last(self._idle)
            if channel is None:
                left = ends - time.monotonic()
                if left > _OPENING:
                    return self._open(patience)
                if not self._openings.wait(max(left, 0.0)):
                    raise Broken("did not open a connection in time", again=False, late=True)
                continue
            try:
                channel.look()
            except Broken:
                channel.close()
            except BaseException:
                channel.close()
                raise
            else:
                return channel

    def _open_beside(self) -> None:
        """A new channel for whoever wants it, opened while who wanted it may leave."""
        try:
            channel = self._open(PATIENCE)
        except Broken as broken:
            self.trouble = ConnectorError(f"The node server at {self.endpoint} {broken}. {_LOOK}")
            raise
        self._keep(channel)

    def _open(self, patience: float) -> Channel:
        """A new channel: beside ZeroMQ where the server offers that, and over ZeroMQ where it does not, or not yet."""
        known = self._offer  # other threads may find out meanwhile that it has ended
        if known is not None:
            try:
                return self._beside(known, patience)
            except (OSError, ProxyfabError):  # it ended, or was started anew: that is for ZeroMQ to tell
                self._offer = None
            except Broken as broken:
                if not broken.again:
                    raise
                self._offer = None
        dealer = self._introduced(Dealer(self.endpoint, self._options(), patience))
        offer = Offer.of(dealer.welcome, self.address, self._side)
        if offer is None or offer.incarnation == self._refused:
            return dealer
        try:
            with span("open side channel", Place(here(), self.address, "zmq")):
                stream = self._beside(offer, _BESIDE)
        except (OSError, ProxyfabError, Broken):  # the span has told it; this incarnation is not asked again
            self._refused = offer.incarnation
            return dealer
        except BaseException:
            dealer.close()
            raise
        self._offer = offer
        dealer.close()
        return stream

    def _beside(self, offer: Offer, patience: float) -> Channel:
        nonce = os.urandom(NONCE)
        stream = Stream(self.endpoint, connect(offer, self.address, patience))
        stream.until = time.monotonic() + patience
        said = {"nonce": nonce, "proof": proof(offer.token, "client", nonce)}
        return self._introduced(stream, said, proof(offer.token, "server", nonce))

    def _introduced(self, channel: Channel, fields: dict[str, Any] | None = None, proven: bytes = b"") -> Channel:
        """A channel on which both sides have said who they are, and the server has proved it where it has to."""
        try:
            request = os.urandom(REQUEST)
            process = this_process()
            writer = process.writer
            said = {
                "version": VERSION,
                "beats": True,
                "name": str(process),
                "process": f"{writer.machine}-{writer.pid}-{writer.start}",
                **(fields or {}),
            }
            asked = time.monotonic()
            channel.send("hello", request, said)
            message = channel.answer(request, asked + self.timeout)
            channel.pace = time.monotonic() - asked
            if message.fields.get("serves") == "events":
                raise ConnectorError(
                    f"A broker for topics answers at {self.endpoint}, and no node server: open it with "
                    f"open_broker('zmq://{self.address}'), look at it with `proxyfab doctor --broker`, or give the "
                    "address of a node server (`proxyfab serve`)."
                )
            if proven and message.fields.get("proof") != proven:
                raise AccessDenied(f"What answers beside the node server at {self.address} does not know its token.")
            self._greet(message)
            channel.welcome = message
        except BaseException:
            channel.close()
            raise
        return channel

    def _greet(self, message: Message) -> None:
        incarnation = message.text("incarnation")
        if self.welcome is None or self.welcome.incarnation != incarnation:
            sight = message.text("sight", "")
            sees = self._shared and sight != "" and sight == sight_of(default_root())
            space = message.text("space", "") if sees else ""
            self.welcome = Welcome(
                incarnation,
                message.text("address"),
                space,
                message.count("pid", 0),
                message.flag("sees"),
                message.text("site", ""),
            )

    def _keep(self, channel: Channel) -> None:
        self.trouble = None
        if self._closed or len(self._idle) >= _IDLE:
            channel.close()
        else:
            self._idle.append(channel)
            self._tidy()

    def known(self, ends: float = math.inf) -> Welcome:
        """What the server says of itself; asks it, if that is not known yet. `ends` is as in `call`."""
        if self.welcome is None:
            timeout = min(self.timeout, max(ends - time.monotonic(), 0.001))
            self.call("hello", lambda _channel, _request: None, timeout=timeout, ends=ends)
        assert self.welcome is not None
        return self.welcome

    def stay(self) -> None:
        """Be present as long as this link is open, where the server cannot look this process up."""
        if self._presence is None and not self.known().sees:
            self._presence = Presence(self.endpoint, self._options(), this_process().writer)

    def place(self, space: str) -> Any:
        """The server's namespace in shared memory."""
        found = self._places.get(space)
        if found is None:
            found = self._places[space] = load("connectors", "shm")(space, directory=default_root())
        return found

    def _tidy(self) -> None:
        if self._closed:  # meanwhile, by another thread
            self.close()

    def close(self) -> None:
        """End the connections; a call that is under way ends its own."""
        self._closed = True
        with suppress(IndexError):  # others take from these, too, or close this link
            while True:
                self._idle.pop().close()
        presence, self._presence = self._presence, None
        if presence is not None:
            presence.close()
        with suppress(KeyError):
            while True:
                self._places.popitem()[1].close()


def _last(idle: deque[Channel]) -> Channel | None:
    """What was put back last; None for nothing. What fails elsewhere does not tell of that, too."""
    try:
        return idle.pop()
    except IndexError:
        return None
