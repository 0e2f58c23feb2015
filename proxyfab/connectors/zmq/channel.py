"""One connection to a node server, used by one call at a time: sends a request, receives its answer, notices the end.

Rules:
1. A channel connects once. When it breaks it is closed and another one is made, so that whatever is sent on it goes to
   the server that said hello on it, and never to the next one at the same address.
2. A call that ends in any other way than by its answer leaves the channel closed: a late answer has no reader.
3. Bytes are received into the memory where they stay.

Leaves to `dealer` and `stream` what carries the messages.
"""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Container, Sequence
from typing import Any

from proxyfab.errors import CapacityError, IntegrityError, ProxyfabError
from proxyfab.osio.memory import allocate
from proxyfab.wire.flow import WINDOW, Receiving, Sending
from proxyfab.wire.messages import NOBODY, Message
from proxyfab.zeromq.answers import error_named

_FRESH = 0.5
"""Seconds since the last answer in which a connection is taken to stand."""
_VIEWS = 1000
_NOTHING = memoryview(b"")


class Channel(abc.ABC):
    """A connection. Belongs to one thread at a time.

    Args:
        endpoint: As ZeroMQ writes it; for errors.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.heard = 0.0
        """When the last answer came, in monotonic seconds."""
        self.until = math.inf
        """When the first answer of a call has to be there, whatever that asks for; set by who lends the channel."""
        self.pace = 0.0
        """Seconds that the server took to answer to hello."""
        self.welcome = Message("", NOBODY, {})
        """What the server answered to hello."""

    # -- what carries the messages -------------------------------------------------------------------------------

    @abc.abstractmethod
    def send(self, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()) -> None:
        """Send a message; the body must not change before the answer is there. Raises Broken where nobody is."""

    @abc.abstractmethod
    def _next(self, until: float) -> Message | None:
        """The next message, None for one that says nothing; Broken when there is none in time, or never will be."""

    @abc.abstractmethod
    def _whole(self, message: Message, sizes: Sequence[int]) -> list[memoryview]:
        """Objects of these sizes that came with their answer."""

    @abc.abstractmethod
    def _fill(self, chunk: Message, filling: Filling) -> int:
        """Receive a chunk; returns how large it was."""

    @abc.abstractmethod
    def _skip(self) -> None:
        """Pass over the body of a message that nobody waits for."""

    @abc.abstractmethod
    def check(self) -> None:
        """Look at what happened to the connection.

        Raises:
            Broken: It has ended, or was not made.
            AccessDenied: The server refused it.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End the connection."""

    # -- requests ------------------------------------------------------------------------------------------------

    def answer(self, request: bytes, until: float, others: Container[bytes] = ()) -> Message:
        """What the server answers to a request, or to one of some others; its body, if any, is to be received next.

        Raises:
            ProxyfabError: What the server said went wrong.
            Broken: It will not answer.
        """
        until = min(until, self.until)
        while True:
            message = self._next(until)
            if message is None:
                continue
            mine = message.request == request or message.request in others
            if message.verb == "error" and (mine or message.request == NOBODY):
                raise _error(message, self.endpoint)
            if mine:
                self.heard = time.monotonic()
                self.until = math.inf
                return message
            self._skip()

    def receive(self, message: Message, sizes: Sequence[int], timeout: float) -> list[memoryview]:
        """The body of an answer, each object into memory of its own.

        Args:
            message: The answer's header.
            sizes: Bytes of each object, as the answer says; their sum is the body.
            timeout: Seconds that may pass without a byte.
        """
        if message.count("size") != sum(sizes):
            raise IntegrityError("An answer's body is not as large as what it says is in it.")
        if "chunks" not in message.fields:
            return self._whole(message, sizes)
        filling = Filling(sizes)
        self._await(message.request, filling)
        receiving = Receiving(sum(sizes), WINDOW)
        while not receiving.done:
            chunk = self.answer(message.request, time.monotonic() + timeout)
            stands = receiving.take(chunk.count("o"), self._fill(chunk, filling))
            if stands is not None:
                self.send("ack", message.request, {"n": stands})
        return filling.finish()

    def _await(self, request: bytes, filling: Filling) -> None:  # noqa: B027 - who asks where bytes go needs nothing
        """The chunks that come next are to be filled in."""

    def upload(self, request: bytes, fields: dict[str, Any], body: Sequence[memoryview], timeout: float) -> Message:
        """Send a large object in chunks, as fast as the server takes them."""
        size = sum([view.nbytes for view in body])
        self.send("upload", request, {**fields, "size": size})
        sending, rest = Sending(size), _Rest(body)
        while True:
            message = self.answer(request, time.monotonic() + timeout)
            if message.verb == "credit":
                sending.ack(message.count("n"))
            elif message.verb != "go":
                return message
            while (piece := sending.next()) is not None:
                part = rest.take(piece.length)
                if len(part) > _VIEWS:
                    part = [memoryview(b"".join(part))]  # a copy of a chunk: a message may not have so many frames
                self.send("data", request, {"o": piece.offset}, part)

    def look(self) -> None:
        """`check`, unless an answer came just now."""
        if time.monotonic() - self.heard > _FRESH:
            self.check()


class Filling:
    """Buffers that are filled one behind the other, each with memory of its own."""

    __slots__ = ("_at", "_buffers", "_index")

    def __init__(self, sizes: Sequence[int]) -> None:
        try:
            self._buffers = [allocate(size) for size in sizes]
        except (OSError, MemoryError, OverflowError) as error:
            raise CapacityError(f"There is no memory for an object of {max(sizes)} bytes: {error}") from error
        self._index = 0
        self._at = 0
        self._pass_full()

    @property
    def target(self) -> memoryview:
        """Where the next bytes belong, which are of one object; empty when nothing is missing."""
        return memoryview(bytearray()) if self._done else self._buffers[self._index][self._at :]

    def take(self, nbytes: int) -> int:
        """So many bytes were received at `target`.

        Raises:
            IntegrityError: They are more than belong there.
        """
        if self._done or nbytes > self._buffers[self._index].nbytes - self._at:
            if nbytes:
                raise IntegrityError(f"A frame of {nbytes} bytes came where less was to come.")
            return 0
        self._at += nbytes
        self._pass_full()
        return nbytes

    def places(self, nbytes: int) -> list[memoryview]:
        """Where the next bytes belong, which may be of several objects; they count as received.

        Raises:
            IntegrityError: They are more than what is missing.
        """
        found: list[memoryview] = []
        while nbytes:
            part = self.target[:nbytes]
            if not part.nbytes:
                raise IntegrityError(f"A chunk has {nbytes} bytes more than were to come.")
            found.append(part)
            nbytes -= self.take(part.nbytes)
        return found

    def finish(self) -> list[memoryview]:
        """The objects, each of which is whole."""
        if not self._done:
            raise IntegrityError("An answer's body is shorter than it says.")
        return self._buffers

    @property
    def _done(self) -> bool:
        return self._index >= len(self._buffers)

    def _pass_full(self) -> None:
        while not self._done and self._at >= self._buffers[self._index].nbytes:
            self._index, self._at = self._index + 1, 0


class _Rest:
    """What is still to be sent of several views; of any number of them a part costs what is in it."""

    __slots__ = ("_view", "_views")

    def __init__(self, body: Sequence[memoryview]) -> None:
        self._views = iter(body)
        self._view = memoryview(b"")

    def take(self, nbytes: int) -> list[memoryview]:
        """The next bytes, which are there; copies nothing."""
        found: list[memoryview] = []
        view = self._view
        while view.nbytes <= nbytes:
            if view.nbytes:
                nbytes -= view.nbytes
                found.append(view)
            view = next(self._views, _NOTHING)
            if view is _NOTHING:
                self._view = view
                return found
        if nbytes:
            found.append(view[:nbytes])
        self._view = view[nbytes:]
        return found


def _error(message: Message, endpoint: str) -> ProxyfabError:
    """What a server answered that went wrong, as the error it is."""
    text = f"{message.text('text', '')} (Node server at {endpoint}.)"
    return error_named(message.text("kind", ""), text)
