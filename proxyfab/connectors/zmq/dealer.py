"""A channel over ZeroMQ: a DEALER, to servers elsewhere and for whatever a side channel cannot do.

Its heartbeats are ZeroMQ's own, and a monitor tells what becomes of the connection.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from proxyfab.connectors.zmq.channel import PATIENCE, Broken, Channel, Filling
from proxyfab.connectors.zmq.context import contexts
from proxyfab.connectors.zmq.greeting import mechanism
from proxyfab.errors import AccessDenied, IntegrityError
from proxyfab.wire.messages import MAX_BODY, MAX_MESSAGE, Message, decode, encode

_MORE = int(zmq.SNDMORE)
_SLICE = 200
"""Milliseconds between two looks at whether the connection still stands."""
_HEARTBEAT, _SILENCE = 1000, 3000
_COPIED = 16 << 10
_REFUSED: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not let this client's key in; add it with `proxyfab keys`, or --allow",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it has another key than this client was told, or wants none",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "one side wants CURVE and the other does not, or it is no node server",
}


class Dealer(Channel):
    """A DEALER. Belongs to one thread at a time.

    Args:
        endpoint: As ZeroMQ writes it.
        options: Further options of the socket: CURVE keys.
        patience: Seconds until the server has to have answered.
    """

    def __init__(self, endpoint: str, options: dict[int, bytes], patience: float = PATIENCE) -> None:
        super().__init__(endpoint)
        self._patience = patience
        self._context = contexts.take()
        self._ready = False
        self._closed = False
        self._guarded = bool(options)
        try:
            self._socket = self._context.socket(zmq.DEALER)
            self._open(options)
        except BaseException:
            self.close()
            raise

    def _open(self, options: dict[int, bytes]) -> None:
        usual: dict[int, int] = {
            zmq.LINGER: 0,
            zmq.RECONNECT_IVL: -1,
            zmq.RCVTIMEO: _SLICE,
            zmq.SNDTIMEO: 0,
            zmq.SNDHWM: 0,
            zmq.MAXMSGSIZE: MAX_MESSAGE,
            zmq.HEARTBEAT_IVL: _HEARTBEAT,
            zmq.HEARTBEAT_TIMEOUT: _SILENCE,
            zmq.CONNECT_TIMEOUT: int(self._patience * 1000),
            zmq.HANDSHAKE_IVL: int(self._patience * 1000),
            zmq.IPV6: int("[" in self.endpoint),
        }
        for option, value in [*usual.items(), *options.items()]:
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket()
        self._socket.connect(self.endpoint)
        self._connecting = time.monotonic()

    # -- messages ------------------------------------------------------------------------------------------------

    def send(self, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()) -> None:
        header = encode(verb, request, fields)
        try:
            if not body:
                self._socket.send(header)
            elif sum([view.nbytes for view in body]) > _COPIED:
                self._socket.send_multipart([header, *body], copy=False)
            else:
                self._socket.send(header, _MORE)
                for view in body[:-1]:
                    self._socket.send(view, _MORE)
                self._socket.send(body[-1])
        except zmq.Again:  # its queue has no limit: there is no connection any more, and there will be none
            self.check()
            raise Broken("has closed the connection") from None

    def _next(self, until: float) -> Message | None:
        """The next header. In between, a look whether the connection still stands."""
        while True:
            try:
                head = bytes(self._socket.recv())
            except zmq.Again:
                self.check()
                if time.monotonic() >= until:
                    raise Broken("did not answer in time", again=False) from None
            else:
                return decode([head]) if head else None  # an empty one: the server has looked whether we are there

    def _skip(self) -> None:
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv_into(bytearray())

    # -- bodies --------------------------------------------------------------------------------------------------

    def _whole(self, message: Message, sizes: Sequence[int]) -> list[memoryview]:
        if len(sizes) == 1 and sizes[0] <= MAX_BODY:
            return [self._small(sizes[0])]
        filling = Filling(sizes)
        self._fill(message, filling)
        return filling.finish()

    def _small(self, size: int) -> memoryview:
        """The body of an answer that has one object in it."""
        whole, received = memoryview(bytearray(size)), 0
        while self._socket.getsockopt(zmq.RCVMORE):
            received += self._socket.recv_into(whole[received:] if received else whole)
            if received > size:
                raise IntegrityError(f"An answer's body has {received} bytes, and says {size}.")
        if received < size:
            raise IntegrityError("An answer's body is shorter than it says.")
        return whole

    def _fill(self, chunk: Message, filling: Filling) -> int:  # noqa: ARG002 - its bytes are in the socket still
        received = 0
        while self._socket.getsockopt(zmq.RCVMORE):
            received += filling.take(self._socket.recv_into(filling.target))
        return received

    # -- the connection ------------------------------------------------------------------------------------------

    def check(self) -> None:
        while True:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                break
            self._judge(event["event"], int(event["value"]))
        if not self._ready and time.monotonic() - self._connecting > self._patience:
            raise self._silent()

    def _silent(self) -> Broken:
        return Broken(f"did not answer within {self._patience:g} s", again=False)

    def _refuses(self, event: int, value: int) -> AccessDenied:
        return AccessDenied(f"The node server at {self.endpoint} refused this client: {_REFUSED[event]} ({value}).")

    def _judge(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._ready = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == errno.EAGAIN:
            raise self._silent()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and not self._guarded:
            if mechanism(self.endpoint, self._patience) == "CURVE":
                raise self._refuses(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, value)
            raise Broken("ended the connection while it was made")
        elif event in _REFUSED:
            raise self._refuses(event, value)
        elif event == zmq.EVENT_DISCONNECTED and not self._ready:
            raise self._silent()  # somebody has accepted the connection, and never spoke
        elif event == zmq.EVENT_DISCONNECTED:
            raise Broken("has closed the connection, or was silent for too long")
        elif event == zmq.EVENT_CLOSED and not self._ready:
            raise Broken("refuses connections: no server listens there")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(AttributeError):  # it was never opened
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
        contexts.give_back(self._context)
