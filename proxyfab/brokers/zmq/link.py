"""The way to a server of events: its address, its keys, and connections that calls lend one another.

Rules:
1. Each call has a connection to itself, so a thread that waits delays no other; a few idle ones are kept.
2. A request is repeated on a new connection only where it may be done twice, or was not sent.
3. Who waits goes on at his deadline: an answer that is late is passed over, and a connection that he had to have made
   is the next one's. That nobody is there he is told once a connection was silent for too long, or was not made.
4. A forked child leaves its parent's connections alone and makes its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import zmq

from proxyfab.background import Beginnings
from proxyfab.brokers.zmq.channel import Channel, Unsent
from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.grace import grace
from proxyfab.wire.messages import Message
from proxyfab.zeromq.connection import PATIENCE, Broken
from proxyfab.zeromq.guard import Guard

_IDLE = 8
_TRIES = 3
OPENING = 2 * PATIENCE
"""Seconds that a connection may take; who has less has it made beside himself."""


class Link:
    """Thread-safe and fork-safe.

    Args:
        address: `host:port`, or the path of a socket.
        key: The server's public key, if the URL says it.
        identity: Id of the client's own key.
        timeout: Seconds that a call has.
    """

    def __init__(self, address: str, key: str, identity: str, timeout: float) -> None:
        self.address, self.timeout = address, timeout
        self.endpoint = f"ipc://{address}" if address.startswith("/") else f"tcp://{address}"
        self._guard = Guard(address, key, identity)
        self._idle: list[Channel] = []
        self._openings = Beginnings(self._open_beside, f"Connecting to {self.endpoint}")
        self._pace = math.inf
        self.trouble: Broken | None = None
        """Why a connection ended, or was not made, since which the server has said nothing to this link."""
        self.closed = False
        on_fork(self)

    def after_fork(self) -> None:
        """Connections are the parent's, who goes on using them."""
        self._idle = []
        self._openings = Beginnings(self._open_beside, f"Connecting to {self.endpoint}")

    def open(self, until: float) -> Channel:
        """A new connection; raises Broken, ConnectorError and AccessDenied."""
        self.check()
        patience = min(PATIENCE, max(0.05, until - time.monotonic()))
        try:
            channel = Channel(self.endpoint, self._guard.options(), patience)
        except Broken as broken:
            self.trouble = broken
            raise
        except zmq.ZMQError as error:
            raise ConnectorError(f"Connecting to {self.endpoint} failed: {error.strerror}.") from error
        self._pace = min(self._pace, channel.pace)  # another one may have been made while the server hung
        return channel

    def leaves(self, timeout: float) -> float:
        """When who waits for so many seconds goes on, whatever the server does, in monotonic seconds.

        A mere look, with no time at all, is answered.
        """
        if timeout <= 0:
            return math.inf
        return time.monotonic() + timeout + grace(self._pace)

    def check(self) -> None:
        """Raises ConnectorError when it was closed."""
        if self.closed:
            raise ConnectorError(f"zmq://{self.address} was closed; open a new one.")

    def call(
        self,
        verb: str,
        fields: dict[str, Any],
        body: Sequence[bytes | memoryview] = (),
        *,
        timeout: float | None = None,
        twice: bool = True,
        leaves: float = math.inf,
    ) -> Message:
        """What the server answers.

        Args:
            verb: The request.
            fields: Its fields.
            body: What it carries.
            timeout: Seconds, if not the link's.
            twice: Whether it may be sent again where an answer was lost.
            leaves: When who waits goes on, in monotonic seconds; then it must change nothing.

        Raises:
            Broken: It is `late`: `leaves` has passed, and the server is not known to be away.
            ProxyfabError: What the server says went wrong, or that it is not reached.
        """
        self.check()
        timeout = self.timeout if timeout is None else timeout
        until = min(time.monotonic() + timeout, leaves)
        number = 0
        while True:
            number += 1
            channel = None
            try:
                channel = self._take(until, leaves)
                return self._ask(channel, verb, fields, body, until, leaves < math.inf)
            except Broken as broken:
                if broken.late and leaves < math.inf:
                    self.late(verb, broken)
                undone = channel is None or twice or isinstance(broken, Unsent)
                if number == _TRIES or not (broken.again and undone) or time.monotonic() >= until:
                    raise self.failed(verb, broken) from broken
            except zmq.ZMQError as error:
                raise ConnectorError(f"{verb} at {self.endpoint} failed: {error.strerror}.") from error

    def _ask(
        self,
        channel: Channel,
        verb: str,
        fields: dict[str, Any],
        body: Sequence[bytes | memoryview],
        until: float,
        late: bool,
    ) -> Message:
        try:
            message = channel.ask(verb, fields, body, until)
        except ProxyfabError:
            self._keep(channel)  # it is an answer
            raise
        except Broken as broken:
            if not (broken.late and late):
                self.trouble = broken
                channel.close()
            else:
                self._put(channel)
            raise
        except BaseException:
            channel.close()
            raise
        self._keep(channel)
        return message

    def late(self, what: str, broken: Broken) -> NoReturn:
        """Raise what to tell of a wait whose time is over."""
        if self.trouble is not None:
            raise self.failed(what, self.trouble) from broken
        raise broken

    def failed(self, what: str, broken: Broken) -> ConnectorError:
        """What to tell of a connection that did not do."""
        return ConnectorError(
            f"{what} at {self.endpoint} failed: the broker {broken}. Check that it runs (`proxyfab broker "
            f"zmq://{self.address}`); what a broker over ZeroMQ held is gone when it has ended."
        )

    def _take(self, until: float, leaves: float) -> Channel:
        while True:
            try:
                channel = self._idle.pop()
            except IndexError:
                channel = None
            if channel is None:  # and not in there, where what fails would tell of that, too
                if leaves - time.monotonic() > OPENING:
                    return self.open(until)
                self.begin(self._openings, leaves)
                continue
            try:
                channel.look()
            except Broken as broken:
                self.trouble = broken
                channel.close()
            except BaseException:
                channel.close()
                raise
            else:
                return channel

    def begin(self, openings: Beginnings, leaves: float) -> None:
        """Have a connection made; raises Broken where it is late, and as what makes it does."""
        if not openings.wait(max(leaves - time.monotonic(), 0.0)):
            raise Broken("did not open a connection in time", again=False, late=True)

    def _open_beside(self) -> None:
        """A connection for whoever wants it, made while who wanted it may leave."""
        self._keep(self.open(time.monotonic() + PATIENCE))

    def _keep(self, channel: Channel) -> None:
        self.trouble = None
        self._put(channel)

    def _put(self, channel: Channel) -> None:
        if self.closed or len(self._idle) >= _IDLE:
            channel.close()
            return
        self._idle.append(channel)
        self._tidy()

    def _tidy(self) -> None:
        if self.closed:  # meanwhile, by another thread
            self.close()

    def close(self) -> None:
        """End the connections; a call that is under way ends its own."""
        self.closed = True
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread was faster
                break
