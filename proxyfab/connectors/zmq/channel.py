"""One connection to a node server, used by one call at a time: sends a request, receives its answer, notices the end.

Rules:
1. A channel connects once. When it breaks it is closed and another one is made, so that whatever is sent on it goes to
   the server that said hello on it, and never to the next one at the same address.
2. A call that ends in any other way than by its answer leaves the channel closed: a late answer has no reader.
3. Bytes are received into the memory where they stay.
"""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from proxyfab import errors
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.context import contexts
from proxyfab.errors import AccessDenied, CapacityError, ConnectorError, IntegrityError, ProxyfabError
from proxyfab.osio.memory import allocate
from proxyfab.wire.flow import WINDOW, Receiving, Sending
from proxyfab.wire.messages import MAX_BODY, MAX_MESSAGE, NOBODY, Message, decode, encode, pieces

_MORE = int(zmq.SNDMORE)
_FRESH = 0.5
"""Seconds since the last answer in which a connection is taken to stand."""
_SLICE = 200
"""Milliseconds between two looks at whether the connection still stands."""
_HEARTBEAT, _SILENCE = 1000, 3000
_COPIED = 16 << 10
_VIEWS = 1024
PATIENCE = 5.0
"""Seconds in which a connection has to come about."""
_REFUSED: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not let this client's key in; add it with `proxyfab keys`, or --allow",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it has another key than this client was told, or wants none",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "one side wants CURVE and the other does not, or it is no node server",
}


class Broken(Exception):
    """The connection has ended, or the deadline has passed. `again` says whether another connection may do."""

    def __init__(self, text: str, *, again: bool = True) -> None:
        super().__init__(text)
        self.again = again


class Channel:
    """A DEALER. Belongs to one thread at a time.

    Args:
        endpoint: As ZeroMQ writes it.
        options: Further options of the socket: CURVE keys.
        patience: Seconds until the server has to have answered.
    """

    def __init__(self, endpoint: str, options: dict[int, bytes], patience: float = PATIENCE) -> None:
        self.endpoint = endpoint
        self._patience = patience
        self._context = contexts.take()
        self._ready = False
        self._closed = False
        self._guarded = bool(options)
        self.heard = 0.0
        """When the last answer came, in monotonic seconds."""
        self.until = math.inf
        """When the first answer of a call has to be there, whatever that asks for; set by who lends the channel."""
        self.welcome = Message("", NOBODY, {})
        """What the server answered to hello."""
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

    # -- requests ------------------------------------------------------------------------------------------------

    def send(self, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()) -> None:
        """Send a message; the body must not change before the answer is there. Raises Broken where nobody is."""
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

    def answer(self, request: bytes, until: float) -> Message:
        """The header of what the server answers to a request; its body, if any, is to be received next.

        Raises:
            ProxyfabError: What the server said went wrong.
            Broken: It will not answer.
        """
        while True:
            head = self._next(min(until, self.until))
            if not head:  # the server has looked whether we are there
                continue
            message = decode([head])
            if message.verb == "error" and message.request in (request, NOBODY):
                raise _error(message, self.endpoint)
            if message.request == request:
                self.heard = time.monotonic()
                self.until = math.inf
                return message
            self._skip()

    def _next(self, until: float) -> bytes:
        """The next frame. In between, a look whether the connection still stands."""
        while True:
            try:
                return bytes(self._socket.recv())
            except zmq.Again:
                self.check()
                if time.monotonic() >= until:
                    raise Broken("did not answer in time", again=False) from None

    def _skip(self) -> None:
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv_into(bytearray())

    # -- bodies --------------------------------------------------------------------------------------------------

    def receive(self, message: Message, sizes: Sequence[int], timeout: float) -> list[memoryview]:
        """The body of an answer, each object into memory of its own.

        Args:
            message: The answer's header.
            sizes: Bytes of each object, as the answer says; their sum is the body.
            timeout: Seconds that may pass without a byte.
        """
        if message.count("size") != sum(sizes):
            raise IntegrityError("An answer's body is not as large as what it says is in it.")
        if len(sizes) == 1 and sizes[0] <= MAX_BODY and "chunks" not in message.fields:
            return [self._small(sizes[0])]
        filling = _Filling(sizes)
        if "chunks" not in message.fields:
            self._fill(filling)
        else:
            receiving = Receiving(sum(sizes), WINDOW)
            while not receiving.done:
                chunk = self.answer(message.request, time.monotonic() + timeout)
                stands = receiving.take(chunk.count("o"), self._fill(filling))
                if stands is not None:
                    self.send("ack", message.request, {"n": stands})
        if not filling.done:
            raise IntegrityError("An answer's body is shorter than it says.")
        return filling.buffers

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

    def _fill(self, filling: _Filling) -> int:
        received = 0
        while self._socket.getsockopt(zmq.RCVMORE):
            received += filling.take(self._socket.recv_into(filling.target))
        return received

    def upload(self, request: bytes, fields: dict[str, Any], body: Sequence[memoryview], timeout: float) -> Message:
        """Send a large object in chunks, as fast as the server takes them."""
        size = sum([view.nbytes for view in body])
        self.send("upload", request, {**fields, "size": size})
        sending = Sending(size)
        while True:
            message = self.answer(request, time.monotonic() + timeout)
            if message.verb == "credit":
                sending.ack(message.count("n"))
            elif message.verb != "go":
                return message
            while (piece := sending.next()) is not None:
                part = pieces(body, *piece)
                if len(part) > _VIEWS:
                    part = [Frames(part).join()]  # a copy of a chunk, instead of more frames than a message may have
                self.send("data", request, {"o": piece.offset}, part)

    # -- the connection ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at what happened to the connection.

        Raises:
            Broken: It has ended, or was not made.
            AccessDenied: The server refused it.
        """
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

    def _judge(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._ready = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == errno.EAGAIN:
            raise self._silent()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and not self._guarded:
            raise Broken(
                "ended the connection while it was made: it ends, or wants a key that this client was not told"
            )
        elif (why := _REFUSED.get(event)) is not None:
            raise AccessDenied(f"The node server at {self.endpoint} refused this client: {why} ({value}).")
        elif event == zmq.EVENT_DISCONNECTED and not self._ready:
            raise self._silent()  # somebody has accepted the connection, and never spoke
        elif event == zmq.EVENT_DISCONNECTED:
            raise Broken("has closed the connection, or was silent for too long")
        elif event == zmq.EVENT_CLOSED and not self._ready:
            raise Broken("refuses connections: no server listens there")

    def look(self) -> None:
        """`check`, unless an answer came just now."""
        if time.monotonic() - self.heard > _FRESH:
            self.check()

    def close(self) -> None:
        """End the connection."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(AttributeError):  # it was never opened
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
        contexts.give_back(self._context)


class _Filling:
    """Buffers that are filled one behind the other; a frame of a body never spans two objects."""

    __slots__ = ("_at", "_index", "buffers")

    def __init__(self, sizes: Sequence[int]) -> None:
        try:
            self.buffers = [allocate(size) for size in sizes]
        except (OSError, MemoryError, OverflowError) as error:
            raise CapacityError(f"There is no memory for an object of {max(sizes)} bytes: {error}") from error
        self._index = 0
        self._at = 0
        self._pass_full()

    @property
    def done(self) -> bool:
        return self._index >= len(self.buffers)

    @property
    def target(self) -> memoryview:
        return memoryview(bytearray()) if self.done else self.buffers[self._index][self._at :]

    def take(self, nbytes: int) -> int:
        if self.done or nbytes > self.buffers[self._index].nbytes - self._at:
            if nbytes:
                raise IntegrityError(f"A frame of {nbytes} bytes came where less was to come.")
            return 0
        self._at += nbytes
        self._pass_full()
        return nbytes

    def _pass_full(self) -> None:
        while not self.done and self._at >= self.buffers[self._index].nbytes:
            self._index, self._at = self._index + 1, 0


def _error(message: Message, endpoint: str) -> ProxyfabError:
    """What a server answered that went wrong, as the error it is."""
    kind = getattr(errors, message.text("kind", ""), None)
    if not isinstance(kind, type) or not issubclass(kind, ProxyfabError):
        kind = ConnectorError
    return kind(f"{message.text('text', '')} (Node server at {endpoint}.)")
