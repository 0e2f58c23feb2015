"""One connection of the side channel, as the server holds it: reads and writes what can be read and written now.

Rules:
1. Nothing waits, and nothing is copied to be sent later: what a socket does not take is kept as views of where it lies.
2. Who does not read what it is sent is not read from either, so what waits for it is bounded by what it asked for.
3. Bytes that make no sense end this connection and nothing else.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from proxyfab.errors import ProxyfabError
from proxyfab.server.poll import READABLE, WRITABLE, Poll
from proxyfab.wire.messages import NOBODY, Message
from proxyfab.wire.side import Place, Reading, Writing, written

_MOST = 64
"""Views that wait to be sent, from which on nothing more is read from who does not read them."""
_AT_ONCE = 8 << 20
"""Bytes that are read from one connection before others have their turn."""
_PONG = written("pong", NOBODY, {})


class Ears(NamedTuple):
    """Who is told what a connection does."""

    hear: Callable[[Stream, Message], None]
    place: Callable[[Stream, Message, int], list[memoryview]]
    end: Callable[[Stream], None]
    """It has ended, and is closed already."""


class Stream:
    """Belongs to the loop's thread.

    Args:
        connection: Accepted; closed with this.
        who: A name that no other peer has.
        poll: That watches it.
        ears: Who is told.
    """

    def __init__(self, connection: socket.socket, who: bytes, poll: Poll, ears: Ears) -> None:
        connection.setblocking(False)
        self.who = who
        self.heard = self.moved = time.monotonic()
        """When a byte last came, and when one last went."""
        self.nonce = b""
        """Of the client, as soon as it has proved that it knows the token."""
        self.closed = False
        self._socket = connection
        self._poll, self._ears = poll, ears
        place: Place = lambda message, nbytes: ears.place(self, message, nbytes)  # noqa: E731 - typed, and short
        self._reading = Reading(place)
        self._writing = Writing()
        self._events = READABLE
        poll.add(connection.fileno(), self._happened, READABLE)

    @property
    def descriptor(self) -> int:
        """Of its socket."""
        return self._socket.fileno()

    @property
    def stuck(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._writing)

    @property
    def begun(self) -> bool:
        """Whether it is in the middle of a message."""
        return self._reading.begun

    def send(
        self, who: bytes, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()
    ) -> bool:
        """Whether the message is on its way; not when the connection has ended."""
        del who
        if self.closed:
            return False
        nbytes = sum([view.nbytes for view in body]) if body else 0
        self._send([written(verb, request, fields, nbytes), *body], nbytes)
        return not self.closed

    def _send(self, parts: list[memoryview | bytes], nbytes: int = 0) -> None:
        sent = 0
        if not self._writing and len(parts) <= _MOST:
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                pass
            except OSError:
                self._end()
                return
            if sent == len(parts[0]) + nbytes:
                self.moved = time.monotonic()
                return
        if not self._writing:
            self.moved = time.monotonic()
        self._writing.add(parts)
        self._writing.sent(sent)
        self._watch()

    def _happened(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if events & ~WRITABLE and not self.closed and (self._events & READABLE or not events & READABLE):
            self._listen()

    def _flush(self) -> None:
        try:
            self._writing.sent(self._socket.sendmsg(self._writing.batch()))
        except BlockingIOError:
            return
        except OSError:
            self._end()
            return
        self.moved = time.monotonic()
        self._watch()

    def _watch(self) -> None:
        waiting = len(self._writing)
        events = (READABLE if waiting < _MOST else 0) | (WRITABLE if waiting else 0)
        if events != self._events:
            self._events = events
            self._poll.change(self.descriptor, events)

    def _listen(self) -> None:
        received = 0
        while received < _AT_ONCE and self._events & READABLE and not self.closed:
            target = self._reading.target
            try:
                nbytes = self._socket.recv_into(target)
            except BlockingIOError:
                return
            except OSError:
                self._end()
                return
            if not nbytes:
                self._end()
                return
            received += nbytes
            self.heard = time.monotonic()
            if not self._take(nbytes) or nbytes < target.nbytes:
                return

    def _take(self, nbytes: int) -> bool:
        """Hear what is complete with these bytes; whether the connection still stands."""
        try:
            self._reading.took(nbytes)
            while not self.closed and (message := self._reading.next()) is not None:
                if message.verb == "ping" and self.nonce:
                    self._send([_PONG])
                else:
                    self._ears.hear(self, message)
        except ProxyfabError as error:
            fields = {"kind": type(error).__name__, "text": str(error)[:4096]}
            self.send(self.who, "error", NOBODY, fields)
            self._end()
        return not self.closed

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._ears.end(self)

    def close(self) -> None:
        """End it."""
        if self.closed:
            return
        self.closed = True
        self._poll.remove(self.descriptor)
        self._writing = Writing()
        del self._reading  # and what was received of a message; garbage would be collected much later
        with contextlib.suppress(OSError):
            self._socket.close()
