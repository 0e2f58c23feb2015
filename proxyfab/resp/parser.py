"""Replies of Redis, received in place: what a server sends goes from the socket into the memory where it will stay.

A parser class in redis-py's sense (`Connection(parser_class=)`), which that library's own handshakes and ours use
through `read_response`; and below it `bulk_length`, `read_into` and `end_bulk`, with which large values are received
without a copy between. Understands RESP2 and RESP3.

Promises: no read outlives `deadline`; a peer that speaks something else is an InvalidResponse; memory is taken for what
a bulk reply announces, at most `LARGEST`, and the kernel gives it page by page as bytes arrive.
"""

from __future__ import annotations

import socket
import struct
from time import monotonic
from typing import Any, Protocol, TypeAlias

import hiredis
from redis import exceptions
from redis._parsers import BaseParser  # where redis.connection has it from

from proxyfab.osio.warm import received

Reply: TypeAlias = Any  # bytes, memoryview, int, float, bool, None, Push, an exception, or a list or dict of these
BUFFER = 64 * 1024
LARGEST = 512 * 2**20
_SMALL = 16 * 1024
_DOLLAR = ord("$")
_OK = b"+OK\r\n"
_MORE = object()
_WHOLE = socket.MSG_WAITALL


class _Connected(Protocol):
    _sock: Any


class Push(list[Reply]):
    """What a server says unasked (RESP3)."""


class InPlaceParser(BaseParser):
    """Belongs to one connection, as redis-py's parsers do. Not thread-safe.

    Args:
        socket_read_size: What redis-py hands to every parser; not used.
    """

    def __init__(self, socket_read_size: int = BUFFER) -> None:  # noqa: ARG002  # redis-py's interface
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._sock: Any = None
        self._flags: int = _WHOLE
        self._armed = self._limit = 0.0
        self.deadline = 0.0
        self._reader: Any = None

    # -- what redis-py calls -----------------------------------------------------------------------------------------

    def on_connect(self, connection: _Connected) -> None:
        self._sock = connection._sock
        self._start = self._end = 0
        self._armed = self._limit = 0.0
        self._reader = None

    def on_disconnect(self) -> None:
        self._sock = None

    def can_read(self, timeout: float = 0) -> bool:  # noqa: ARG002  # as above
        """Whether something lies in the buffer."""
        return self._start < self._end

    def read_response(self, *_: object, **__: object) -> Reply:
        """The next reply; bytes are never decoded."""
        return self.read()

    # -- whole replies -----------------------------------------------------------------------------------------------

    def read(self) -> Reply:
        """The next reply, of any kind; an error is returned, not raised."""
        if self._buffer.startswith(_OK, self._start, self._end):
            self._start += len(_OK)
            return b"OK"
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            length = _number(rest)
            return None if length < 0 else self._bulk(length)
        if kind == b":":
            return _number(rest)
        if kind == b"+":
            return rest
        if kind == b"-":
            return self._error(rest)
        return self._rare(kind, rest)

    def _rare(self, kind: bytes, rest: bytes) -> Reply:
        if kind in (b"*", b"~", b">"):
            count = _number(rest)
            if count < 0:
                return None
            items = [self.read() for _ in range(count)]
            return Push(items) if kind == b">" else items
        if kind == b"%":
            return {_hashable(self.read()): self.read() for _ in range(_number(rest))}
        if kind == b"_":
            return None
        if kind == b"#":
            return rest == b"t"
        if kind in (b",", b"("):
            try:
                return float(rest) if kind == b"," else int(rest)
            except ValueError:
                raise _not_redis(rest) from None
        if kind in (b"=", b"!"):
            length = _number(rest)
            if length < 0:
                raise _not_redis(kind + rest)
            text = bytes(self._bulk(length))
            return text[4:] if kind == b"=" else self._error(text)
        raise _not_redis(kind + rest)

    def _error(self, text: bytes) -> Exception:
        error: Exception = self.parse_error(text.decode(errors="replace"))  # type: ignore[no-untyped-call]  # redis-py
        return error

    def _bulk(self, length: int) -> bytes | memoryview:
        while length <= _SMALL and self._end - self._start < length + 2:
            self._fill()
        if self._end - self._start >= length + 2:
            data = bytes(self._view[self._start : self._start + length])
            self._start += length
            self.end_bulk()
            return data
        if not 0 <= length <= LARGEST:
            raise _not_redis(b"$%d" % length)
        target = received.take(length)
        self.read_into(target)
        self.end_bulk()
        return target

    def buffered(self) -> bytes | None:
        """The bulk reply that comes next, if it was received whole already; None, and nothing is read, if not."""
        if self._start == self._end:
            self._fill()
        buffer, start = self._buffer, self._start
        found = buffer.find(b"\r\n", start, self._end)
        if found < 0 or buffer[start] != _DOLLAR:
            return None
        begin, length = found + 2, _number(buffer[start + 1 : found])
        end = begin + length
        if length < 0 or end + 2 > self._end or buffer[end : end + 2] != b"\r\n":
            return None
        self._start = end + 2
        return bytes(self._view[begin:end])

    def many(self, count: int) -> list[Reply]:
        """So many replies of a batch, small ones, through hiredis: it makes objects faster than Python can.

        What arrived behind them stays with hiredis until the next call, so the whole of a batch is read so.
        """
        reader: Any = self._reader or hiredis.Reader(
            notEnoughData=_MORE, protocolError=exceptions.InvalidResponse, replyError=self.parse_error
        )
        self._reader = reader
        if self._start < self._end:
            reader.feed(self._buffer, self._start, self._end - self._start)
            self._start = self._end = 0
        found: list[Reply] = []
        take, add = reader.gets, found.append
        while len(found) < count:
            reply = take()
            if reply is _MORE:
                reader.feed(self._buffer, 0, self._receive(self._view, 0))
            else:
                add(reply)
        return found

    # -- in place ----------------------------------------------------------------------------------------------------

    def bulk_length(self) -> int:
        """Bytes of the bulk reply that comes next, 0 for none; the caller reads them and calls `end_bulk`."""
        line = self._line()
        if line[:1] == b"$":
            length = _number(line[1:])
            if length < 0:
                raise _not_redis(line)
            return length
        if line[:1] == b"-":
            raise self._error(line[1:])
        raise _not_redis(line)

    def read_bytes(self, length: int) -> bytes:
        """The next bytes, few of them."""
        while self._end - self._start < length:
            self._fill()
        data = bytes(self._view[self._start : self._start + length])
        self._start += length
        return data

    def read_into(self, target: memoryview) -> None:
        """Fill `target` with the next bytes: from the buffer what is there, the rest straight from the socket."""
        length = len(target)
        have = min(self._end - self._start, length)
        target[:have] = self._view[self._start : self._start + have]
        self._start += have
        while have < length:
            have += self._receive(target[have:], self._flags)

    def end_bulk(self) -> None:
        """Pass over the end of a bulk reply."""
        while self._end - self._start < 2:
            self._fill()
        if self._buffer[self._start : self._start + 2] != b"\r\n":
            raise _not_redis(bytes(self._buffer[self._start : self._start + 2]))
        self._start += 2

    # -- the socket --------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether bytes were received that nobody asked for yet."""
        return self._start < self._end

    def wholly(self, possible: bool) -> None:
        """Whether the kernel can wait for all that was asked for, and keep the time, in one call (TLS cannot)."""
        self._flags = _WHOLE if possible else 0

    def first(self, until: float) -> None:
        """Receive what comes first, if nothing did yet, by so many monotonic seconds; the rest has until `deadline`.

        Raises:
            redis.exceptions.TimeoutError: Nothing came; it can be received later on.
        """
        if self._start == self._end:
            allowed, self.deadline = self.deadline, min(until, self.deadline)
            try:
                self._fill()
            finally:
                self.deadline = allowed

    def arm(self) -> None:
        """Let the socket send in time (with TLS: receive, too). The limit is set anew only where that matters."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise exceptions.TimeoutError("the deadline passed")
        if 0.98 * self._armed <= left <= 1.02 * self._armed + 0.001:
            return
        self._armed = left
        if not self._flags:
            self._sock.settimeout(left)
            return
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(left))

    def _limited(self) -> None:
        """Let the socket receive in time, or look at the time before; so it is not set for each short wait."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise exceptions.TimeoutError("the deadline passed")
        if not 0.0 < self._limit <= 1.02 * left + 0.001:
            self._limit = left
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(left))

    def _line(self) -> bytes:
        while (found := self._buffer.find(b"\r\n", self._start, self._end)) < 0:
            if self._end - self._start == BUFFER:
                raise _not_redis(bytes(self._view[:40]))
            self._fill()
        line = bytes(self._view[self._start : found])
        self._start = found + 2
        return line

    def _fill(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and BUFFER - self._end < _SMALL + 2:
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
        self._end += self._receive(self._view[self._end :], 0)

    def _receive(self, into: memoryview, flags: int) -> int:
        if not self._flags:
            self.arm()
        count = -1
        while count < 0:
            if self._flags:
                self._limited()
            try:
                count = self._sock.recv_into(into, 0, flags) if flags else self._sock.recv_into(into)
            except TimeoutError:
                raise exceptions.TimeoutError("the deadline passed") from None
            except BlockingIOError:  # by then; or its limit was that of a shorter wait
                self._limit = 0.0
        if count == 0:
            raise exceptions.ConnectionError("the server closed the connection")
        return count


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), max(int(seconds % 1 * 1e6), 1))


def _number(text: bytes | bytearray) -> int:
    try:
        return int(text)
    except ValueError:
        raise _not_redis(bytes(text)) from None


def _hashable(reply: Reply) -> Reply:
    if isinstance(reply, (list, dict)):
        raise _not_redis(repr(reply).encode())
    return bytes(reply) if isinstance(reply, memoryview) else reply


def _not_redis(what: bytes) -> exceptions.InvalidResponse:
    return exceptions.InvalidResponse(f"what answers does not speak Redis's protocol: {bytes(what[:40])!r}")


def checked(reply: Reply) -> Reply:
    """The reply, raised if it is an error."""
    if isinstance(reply, exceptions.RedisError):
        raise reply
    return reply
