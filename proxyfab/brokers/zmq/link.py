"""The way to a server of events: its address, its keys, and connections that calls lend one another.

Rules:
1. Each call has a connection to itself, so a thread that waits delays no other; a few idle ones are kept.
2. A request is repeated on a new connection only where it may be done twice, or was not sent.
3. A forked child leaves its parent's connections alone and makes its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import zmq

from proxyfab.brokers.zmq.channel import Channel, Unsent
from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.wire.messages import Message
from proxyfab.zeromq.connection import PATIENCE, Broken
from proxyfab.zeromq.guard import Guard

_IDLE = 8
_TRIES = 3


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
        self.closed = False
        on_fork(self)

    def after_fork(self) -> None:
        """Connections are the parent's, who goes on using them."""
        self._idle = []

    def open(self, until: float) -> Channel:
        """A new connection; raises Broken, ConnectorError and AccessDenied."""
        self.check()
        patience = min(PATIENCE, max(0.05, until - time.monotonic()))
        try:
            return Channel(self.endpoint, self._guard.options(), patience)
        except zmq.ZMQError as error:
            raise ConnectorError(f"Connecting to {self.endpoint} failed: {error.strerror}.") from error

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
    ) -> Message:
        """What the server answers.

        Args:
            verb: The request.
            fields: Its fields.
            body: What it carries.
            timeout: Seconds, if not the link's.
            twice: Whether it may be sent again where an answer was lost.

        Raises:
            ProxyfabError: What the server says went wrong, or that it is not reached.
        """
        self.check()
        timeout = self.timeout if timeout is None else timeout
        until = time.monotonic() + timeout
        number = 0
        while True:
            number += 1
            channel = None
            try:
                channel = self._take(until)
                return self._ask(channel, verb, fields, body, until)
            except Broken as broken:
                undone = channel is None or twice or isinstance(broken, Unsent)
                if number == _TRIES or not (broken.again and undone) or time.monotonic() >= until:
                    raise self.failed(verb, broken) from broken
            except zmq.ZMQError as error:
                raise ConnectorError(f"{verb} at {self.endpoint} failed: {error.strerror}.") from error

    def _ask(
        self, channel: Channel, verb: str, fields: dict[str, Any], body: Sequence[bytes | memoryview], until: float
    ) -> Message:
        try:
            message = channel.ask(verb, fields, body, until)
        except ProxyfabError:
            self._keep(channel)  # it is an answer
            raise
        except BaseException:
            channel.close()
            raise
        self._keep(channel)
        return message

    def failed(self, what: str, broken: Broken) -> ConnectorError:
        """What to tell of a connection that did not do."""
        return ConnectorError(
            f"{what} at {self.endpoint} failed: the broker {broken}. Check that it runs (`proxyfab broker "
            f"zmq://{self.address}`); what a broker over ZeroMQ held is gone when it has ended."
        )

    def _take(self, until: float) -> Channel:
        while True:
            try:
                channel = self._idle.pop()
            except IndexError:
                break  # and not from in here, where what fails would tell of this, too
            try:
                channel.look()
            except Broken:
                channel.close()
            except BaseException:
                channel.close()
                raise
            else:
                return channel
        return self.open(until)

    def _keep(self, channel: Channel) -> None:
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
