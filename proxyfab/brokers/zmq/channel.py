"""One connection to a server of events, used by one call at a time: sends a request, receives its answer.

Rules:
1. It connects once (`zeromq.connection`); what is sent on it goes to the server that said hello on it.
2. A call that ends in any other way than by its answer, or by being late, leaves the channel to be closed. An answer
   that comes later than its call's end is passed over.
3. One request may be under way beside calls: `begin` sends it, and `finish` receives its answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import zmq

from proxyfab.errors import ConnectorError, IntegrityError
from proxyfab.wire.messages import MAX_MESSAGE, NOBODY, REQUEST, Message, decode, encode
from proxyfab.zeromq.answers import error_named
from proxyfab.zeromq.connection import PATIENCE, SLICE, Broken, Connection

_MORE = int(zmq.SNDMORE)
_COPIED = 64 << 10
_FRESH = 0.5
"""Seconds since the last answer in which a connection is taken to stand."""


class Unsent(Broken):
    """The connection had ended before anything of a request was on its way."""


class Channel:
    """A connection. Belongs to one thread at a time.

    Args:
        endpoint: As ZeroMQ writes it.
        options: Further options of the socket: CURVE keys.
        patience: Seconds in which it has to come about.
    """

    def __init__(self, endpoint: str, options: dict[int, bytes], patience: float = PATIENCE) -> None:
        self.endpoint = endpoint
        self._connection = Connection(endpoint, options, MAX_MESSAGE, patience, server="broker")
        self._socket = self._connection.socket
        self._slice = SLICE
        self._heard = 0.0
        self.pace = 0.0
        """Seconds that the server took to let us in."""
        self._begun = b""
        self._came: Message | None = None
        """The answer to what was begun, if it came amid a call."""
        try:
            asked = time.monotonic()
            welcome = self.ask("hello", {"beats": True}, (), asked + patience)
            self.pace = time.monotonic() - asked
            if welcome.text("serves", "") != "events":
                raise ConnectorError(
                    f"A node server for objects answers at {endpoint}, and no broker for topics: open it with "
                    f"Store('zmq://{endpoint.partition('://')[2]}'), or give the address of a broker (`proxyfab broker "
                    "zmq://...`)."
                )
            self.incarnation = welcome.text("incarnation")
        except BaseException:
            self.close()
            raise

    def ask(self, verb: str, fields: dict[str, Any], body: Sequence[bytes | memoryview], until: float) -> Message:
        """What the server answers.

        Raises:
            ProxyfabError: What it says went wrong; the channel can be used again.
            Broken: It does not answer; the channel cannot.
        """
        request = os.urandom(REQUEST)
        self._send(verb, request, fields, body)
        return self._answer(request, until)

    def begin(self, verb: str, fields: dict[str, Any]) -> None:
        """Send a request whose answer `finish` receives; raises as `tell`."""
        self._begun, self._came = os.urandom(REQUEST), None
        self._send(verb, self._begun, fields, ())

    @property
    def begun(self) -> bool:
        """Whether there is an answer to be received."""
        return bool(self._begun)

    def finish(self, until: float) -> Message:
        """The answer to what was begun; raises as `ask`. Where that is only late, it can be received later on."""
        message, self._came = self._came, None
        if message is None:
            request, self._begun = self._begun, b""
            try:
                return self._answer(request, until)
            except Broken as broken:
                if broken.late:
                    self._begun = request
                raise
        self._begun = b""
        return self._read(message)

    def forget(self) -> None:
        """What has come of what was begun is nobody's business any more; what has not, was not done yet."""
        if self._came is not None:
            self._begun, self._came = b"", None

    def _answer(self, request: bytes, until: float) -> Message:
        while True:
            message = self._next(until)
            if message is not None and message.request == self._begun:
                self._came = message
            elif message is not None and message.request in (request, NOBODY):
                return self._read(message)

    def _read(self, message: Message) -> Message:
        self._heard = time.monotonic()
        if message.verb == "error":
            text = f"{message.text('text', '')} (Broker at {self.endpoint}.)"
            raise error_named(message.text("kind", ""), text)
        return message

    def tell(self, verb: str, fields: dict[str, Any]) -> None:
        """Send what needs no answer."""
        self._send(verb, NOBODY, fields, ())

    def _send(self, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[bytes | memoryview]) -> None:
        header = encode(verb, request, fields)
        try:
            self._socket.send(header, _MORE if body else 0)
        except zmq.Again:  # its queue has no limit: there is no connection any more, and there will be none
            try:
                self._connection.check()
            except Broken as broken:
                raise Unsent(str(broken), again=broken.again) from None
            raise Unsent("has closed the connection") from None
        if not body:
            return
        try:
            for view in body[:-1]:
                self._socket.send(view, _MORE, copy=len(view) < _COPIED)
            self._socket.send(body[-1], copy=len(body[-1]) < _COPIED)
        except zmq.Again:
            self._connection.check()
            raise Broken("has closed the connection") from None

    def _next(self, until: float) -> Message | None:
        while True:
            self._limit(until - time.monotonic())
            try:
                frames = self._socket.recv_multipart(copy=False)
            except zmq.Again:
                self._connection.check()
                if time.monotonic() >= until:
                    raise Broken("did not answer in time", again=False, late=True) from None
                continue
            parts = [frame.buffer for frame in frames]
            try:
                return decode(parts) if parts[0] else None  # an empty one: the server has looked whether we are there
            except IntegrityError as error:
                raise Broken(f"said what cannot be read: {error}", again=False) from error

    def _limit(self, left: float) -> None:
        """Have the next `recv` end with its slice, or with the time, if that is earlier."""
        slice = SLICE if left * 1000 >= SLICE else int(max(left, 0) * 1000) + 1
        if slice != self._slice:
            self._slice = slice
            self._socket.setsockopt(zmq.RCVTIMEO, slice)

    def look(self) -> None:
        """Whether the connection still stands, unless an answer came just now; raises Broken."""
        if time.monotonic() - self._heard > _FRESH:
            self._connection.check()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
