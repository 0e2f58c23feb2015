"""A channel over a stream: the side channel that a server offers who may leave ZeroMQ aside (`wire.side`).

A Unix socket on the server's own machine, TCP where that is allowed. The calling thread reads and writes it itself,
with one system call a message. While it waits it says that it is there, and notices a server that is not.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from proxyfab.connectors.zmq.channel import Channel, Filling
from proxyfab.errors import IntegrityError
from proxyfab.fork import on_fork
from proxyfab.wire.messages import NOBODY, Message
from proxyfab.wire.side import PULSE, SILENCE, Reading, Writing, written
from proxyfab.zeromq.connection import Broken

_SLICE = 0.2
"""A wait ends after so many seconds, to look whether the server is there and the time is over."""
_LIMIT = struct.pack("ll", 0, int(_SLICE * 1e6))
_LOOK = socket.MSG_PEEK | socket.MSG_DONTWAIT
_ALL = socket.MSG_WAITALL
_PING = written("ping", NOBODY, {})


class Stream(Channel):
    """A connected stream. Belongs to one thread at a time.

    Args:
        endpoint: Of the server, for errors.
        connection: A socket that is connected to its side channel; closed with this.
    """

    def __init__(self, endpoint: str, connection: socket.socket) -> None:
        super().__init__(endpoint)
        self._socket = connection
        self._reading = Reading(self._place)
        self._filling: Filling | None = None
        self._awaited = NOBODY
        self._said = self._asked = time.monotonic()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _LIMIT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _LIMIT)
        on_fork(self)

    def after_fork(self) -> None:
        """The connection is the parent's, and has to end with it."""
        self._socket.close()

    # -- messages ------------------------------------------------------------------------------------------------

    def send(self, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()) -> None:
        nbytes = sum([view.nbytes for view in body]) if body else 0
        self._send([written(verb, request, fields, nbytes), *body], nbytes)
        self._asked = self._said

    def _send(self, parts: list[memoryview | bytes], nbytes: int = 0) -> None:
        before, self._said = self._said, time.monotonic()
        try:
            sent = self._socket.sendmsg(parts)
            if sent < len(parts[0]) + nbytes:
                self._send_rest(Writing(parts), sent)
        except BlockingIOError:
            self._send_rest(Writing(parts), 0)
        except OSError as error:
            away = time.monotonic() - before > SILENCE  # it took us so long to have something to say
            raise Broken(f"has closed the connection ({error.strerror})", away=away) from error

    def _send_rest(self, writing: Writing, sent: int) -> None:
        while True:
            writing.sent(sent)
            if sent:
                self._said = time.monotonic()
            if not writing:
                return
            try:
                sent = self._socket.sendmsg(writing.batch())
            except BlockingIOError:
                sent = 0
                if time.monotonic() - self._said > SILENCE:
                    raise Broken(f"has read nothing for {SILENCE:g} s") from None

    def _next(self, until: float) -> Message | None:
        while (message := self._reading.next()) is None:
            self._reading.took(self._received(until))
        return None if message.verb == "pong" else message

    def _received(self, until: float) -> int:
        """Bytes that came where the next ones belong, at least one. While none come, a word, and an ear for one."""
        reading, now = self._reading, max(self._said, self.heard)
        while True:
            flags = _ALL if reading.certain else 0
            if until - now < _SLICE:  # else a slice ends before the time does
                self._listen(until - time.monotonic())
                flags = socket.MSG_DONTWAIT
            try:
                received = self._socket.recv_into(reading.target, 0, flags)
            except BlockingIOError:
                received = -1
            except OSError as error:
                raise self._ended(f" ({error.strerror})") from error
            if not received:
                raise self._ended()
            now = time.monotonic()
            if received < 0:
                self._patient(now, until)
            if now - self._said > PULSE:
                self._send([_PING])
            if received > 0:
                self.heard = now
                return received

    def _listen(self, seconds: float) -> None:
        """Until something comes, or so many seconds have passed."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.poll(max(seconds, 0) * 1000)

    def _ended(self, why: str = "") -> Broken:
        """The server has ended the connection: of itself, or because nothing was heard of us."""
        return Broken(f"has closed the connection{why}", away=time.monotonic() - self._said > SILENCE)

    def _patient(self, now: float, until: float) -> None:
        """Raise Broken when the time is over, or the server silent for too long."""
        if now >= until:
            raise Broken("did not answer in time", again=False, late=True)
        if now - max(self.heard, self._asked) > SILENCE:
            raise Broken(f"was silent for {SILENCE:g} s")

    # -- bodies --------------------------------------------------------------------------------------------------

    def _place(self, message: Message, nbytes: int) -> list[memoryview]:
        """Where a body belongs: into objects that are being received, or into new ones."""
        if message.verb == "data" and message.request == self._awaited and self._filling is not None:
            return self._filling.places(nbytes)
        sizes = message.fields.get("sizes")
        if sizes.__class__ is not list:
            return [memoryview(bytearray(nbytes))]
        kept = [size for size in message.items("sizes") if size.__class__ is int and size >= 0]
        if sum(kept) != nbytes:
            raise IntegrityError(f"An answer's body has {nbytes} bytes, and says {sum(kept)}.")
        return [memoryview(bytearray(size)) for size in kept]

    def _await(self, request: bytes, filling: Filling) -> None:
        self._awaited, self._filling = request, filling

    def _whole(self, message: Message, sizes: Sequence[int]) -> list[memoryview]:
        body = list(message.body) or [memoryview(b"")] * len(sizes)
        if [view.nbytes for view in body] != list(sizes):
            raise IntegrityError("An answer's body is shorter than it says.")
        return body

    def _fill(self, chunk: Message, filling: Filling) -> int:  # noqa: ARG002 - its bytes are where they belong
        return chunk.nbytes

    def _skip(self) -> None:
        """It came with its message."""

    # -- the connection ------------------------------------------------------------------------------------------

    def check(self) -> None:
        try:
            if not self._socket.recv(1, _LOOK):
                raise Broken("has closed the connection")
        except BlockingIOError:
            pass
        except OSError as error:
            raise Broken(f"has closed the connection ({error.strerror})") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # a process that was forked amid this may have it for ever
        with contextlib.suppress(OSError):
            self._socket.close()
