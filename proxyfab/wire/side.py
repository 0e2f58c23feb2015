"""A node server's side channel: the same messages on a stream of bytes, for who may leave ZeroMQ aside. Sans-IO.

    message    length of header, length of body (u32 each, little-endian), header, body

The first message is `hello`, with a nonce and a proof that the client knows the token that the server hands out over
its guarded connection; the answer proves that the server knows it, too.

Rules:
1. Before it has proved that, a client may say nothing else, and nothing with a body.
2. Lengths are checked before memory is taken. A stream that makes no sense is at its end: nobody could find the next
   message in it.
3. Bytes of a body are received where they stay, except those that came in one piece with a header.
"""

from __future__ import annotations

import hmac
import struct
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

from proxyfab.errors import AccessDenied, CapacityError, IntegrityError, ProxyfabError
from proxyfab.wire.messages import MAX_BODY, MAX_HEADER, Message, decode, encode

TOKEN = 16
NONCE = 16
SILENCE = 4.0
"""Seconds without a word after which who is in the middle of something is taken to be gone."""
PULSE = 1.0
"""Seconds after which who waits says that he is there."""
_PREFIX = struct.Struct("<II")
_BUFFER = 16 << 10
_CAREFUL = 512
"""Bytes that are read with a header at most where large bodies come, as what comes with it is copied."""
_LARGE = 64 << 10
_BATCH = 64

Place = Callable[[Message, int], "list[memoryview]"]
"""Where a body is received: views of so many bytes in all."""


def proof(token: bytes, who: str, nonce: bytes) -> bytes:
    """That somebody (`client` or `server`) knows a token."""
    return blake2b(nonce, digest_size=32, key=token, person=who.encode()).digest()


def opened(token: bytes, message: Message) -> bytes:
    """The nonce of a stream's first message, which proves that its sender knows the token.

    Raises:
        AccessDenied: It does not.
    """
    nonce, said = message.fields.get("nonce"), message.fields.get("proof")
    if message.verb == "hello" and isinstance(nonce, bytes) and isinstance(said, bytes) and len(nonce) == NONCE:
        expected = proof(token, "client", nonce)
        if hmac.compare_digest(said, expected):
            return nonce
    raise AccessDenied("A side channel was opened without the token that this server hands out.")


def written(verb: str, request: bytes, fields: dict[str, Any], nbytes: int = 0) -> bytes:
    """What stands in the stream before a body of so many bytes."""
    header = encode(verb, request, fields)
    return _PREFIX.pack(len(header), nbytes) + header


def anywhere(_: Message, nbytes: int) -> list[memoryview]:
    """A place for a body that needs no certain one."""
    return [memoryview(bytearray(nbytes))]


class Reading:
    """Cuts a stream into messages. Give it bytes at `target`, say with `took` how many, and ask for what is `next`.

    Args:
        place: Where bodies are to be received; asked when all messages before have been taken.
    """

    __slots__ = ("_buffer", "_end", "_limit", "_message", "_place", "_start", "_targets")

    def __init__(self, place: Place = anywhere) -> None:
        self._place = place
        self._buffer = memoryview(bytearray(_BUFFER))
        self._limit = _BUFFER
        self._start = self._end = 0
        self._message: Message | None = None
        self._targets: deque[memoryview] = deque()

    @property
    def target(self) -> memoryview:
        """Where the next bytes belong; never empty, once `next` had nothing more."""
        if self._targets:
            return self._targets[0]
        if self._start:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._buffer[self._end : max(self._limit, self._end + 1)]

    @property
    def begun(self) -> bool:
        """Whether a part of a message is here, of which the rest is not."""
        return self._message is not None or self._start < self._end

    @property
    def certain(self) -> bool:
        """Whether as many bytes as `target` has will come."""
        return bool(self._targets)

    def took(self, nbytes: int) -> None:
        """So many bytes have come at `target`."""
        if self._targets:
            self._advance(nbytes)
        else:
            self._end += nbytes

    def next(self) -> Message | None:
        """The next message that is complete.

        Raises:
            IntegrityError: There is none of this version. The stream is at its end.
            CapacityError: There is no memory for it. That ends the stream, too.
        """
        if self._message is None:
            self._message = self._begun()
        if self._message is None or self._targets:
            return None
        message, self._message = self._message, None
        return message

    def _begun(self) -> Message | None:
        """The next message whose header is there, with places for its body and what of that has come."""
        have = self._end - self._start
        if have < _PREFIX.size:
            return None
        length, body = _PREFIX.unpack_from(self._buffer, self._start)
        if not 0 < length <= MAX_HEADER or body > MAX_BODY:
            raise IntegrityError(f"A message announces {length} bytes of header and {body} of body.")
        if have < _PREFIX.size + length:
            self._reach(_PREFIX.size + length)
            return None
        start = self._start + _PREFIX.size
        self._start = start + length
        message = decode([bytes(self._buffer[start : self._start])])
        if not body:
            return message
        try:
            places = self._place(message, body)
        except ProxyfabError:  # some are OSErrors
            raise
        except (MemoryError, OSError) as error:
            raise CapacityError(f"There is no memory for a message of {body} bytes: {error}") from error
        self._targets.extend(view for view in places if view.nbytes)
        self._limit = _CAREFUL if body >= _LARGE else self._buffer.nbytes
        self._hand_over()
        return message._replace(body=tuple(places))

    def _reach(self, nbytes: int) -> None:
        """See to it that so many bytes have room in the buffer."""
        if nbytes > self._buffer.nbytes:
            larger = memoryview(bytearray(_PREFIX.size + MAX_HEADER))
            larger[: self._buffer.nbytes] = self._buffer
            self._buffer = larger
        self._limit = max(self._limit, nbytes)

    def _hand_over(self) -> None:
        """Copy what came of a body with its header."""
        while self._targets and self._start < self._end:
            part = self._buffer[self._start : min(self._start + self._targets[0].nbytes, self._end)]
            self._targets[0][: part.nbytes] = part
            self._advance(part.nbytes)
            self._start += part.nbytes

    def _advance(self, nbytes: int) -> None:
        first = self._targets.popleft()
        if nbytes < first.nbytes:
            self._targets.appendleft(first[nbytes:])


class Writing:
    """Views on their way out, of which a socket may take any part."""

    __slots__ = ("_views",)

    def __init__(self, views: Iterable[memoryview | bytes] = ()) -> None:
        self._views: deque[memoryview] = deque()
        self.add(views)

    def __len__(self) -> int:
        return len(self._views)

    def add(self, views: Iterable[memoryview | bytes]) -> None:
        """Send these behind the others."""
        self._views.extend([memoryview(view) for view in views if len(view)])

    def batch(self) -> list[memoryview]:
        """What to send next, in one call."""
        return [view for view, _ in zip(self._views, range(_BATCH), strict=False)]

    def sent(self, nbytes: int) -> None:
        """So many bytes of it have gone."""
        while nbytes:
            first = self._views.popleft()
            if nbytes < first.nbytes:
                self._views.appendleft(first[nbytes:])
                return
            nbytes -= first.nbytes
