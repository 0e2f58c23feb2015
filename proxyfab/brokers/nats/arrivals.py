"""What a server sends, cut into messages for who listens; everything else is handed on untouched. Sans-IO.

nats-py reads through a stream of 32 KiB, copies what comes five times, and wakes a task for each message. Here bytes
are received into one room, in which a message's payload is found and copied once; it is given to who listens at once.

Rules:
1. Only messages are understood (`MSG`, `HMSG`). Whatever else a line says, and whatever makes no sense, goes on to
   `other`: pings, errors and news of the server are nats-py's business.
2. Order is kept: when `other` gets a line, all messages before it were given to who listens.
3. The room grows for a message that is larger, and is small again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

ROOM = 256 << 10
_FREE = 64 << 10
"""Bytes that there is room for at least."""
_END = b"\r\n"
_LONGEST = 64 << 10
"""Bytes of a line."""
_PREFIX = "NATS/1.0"
_MESSAGE = frozenset(b"MH")


class Message:
    """As it came.

    Attributes:
        subject: Where it was sent to.
        reply: Where an answer goes; "" for nowhere.
        data: Its payload.
    """

    __slots__ = ("_head", "_headers", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, head: bytes, data: bytes) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._head = head
        self._headers: dict[str, str] | None = None

    @classmethod
    def of(cls, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> Message:
        """One that somebody else has read."""
        made = cls(subject, reply, b"", data)
        made._headers = dict(headers)
        return made

    @property
    def headers(self) -> dict[str, str]:
        """By name; `Status` and `Description` are those of a message that has a status instead of a payload."""
        if self._headers is None:
            self._headers = _headers(self._head)
        return self._headers


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    first, *lines = head.decode(errors="replace").split("\r\n")
    status, _, text = first.removeprefix(_PREFIX).strip().partition(" ")
    if status:
        found["Status"] = status
    if text:
        found["Description"] = text.strip()
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


class Arrivals:
    """One connection's.

    Args:
        message: Called with each message, and the number of the subscription that it is for.
        other: Called with each line that is no message.
    """

    def __init__(self, message: Callable[[int, Message], None], other: Callable[[bytes], None]) -> None:
        self._message = message
        self._other = other
        self._buffer = bytearray(ROOM)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._size = 0
        """Of the message that the next line announced; 0 when it is not known."""

    def room(self) -> memoryview:
        """Where to put what comes next."""
        held = self._end - self._start
        wanted = max(self._size, held + _FREE)
        if len(self._buffer) - self._start < wanted or (not held and len(self._buffer) > ROOM):
            if wanted > len(self._buffer) or wanted <= ROOM < len(self._buffer):
                fresh = bytearray(max(wanted, ROOM))
            else:
                fresh = self._buffer
            fresh[:held] = self._view[self._start : self._end].tobytes()
            if fresh is not self._buffer:
                self._buffer, self._view = fresh, memoryview(fresh)
            self._start, self._end = 0, held
        return self._view[self._end :]

    def took(self, nbytes: int) -> None:
        """So many bytes are there now, behind those that were."""
        self._end += nbytes
        while self._start < self._end and self._next():
            pass
        if self._start == self._end:
            self._start = self._end = 0

    def _next(self) -> bool:
        """Deal with one line, or one message; whether there was a whole one."""
        start = self._start
        if self._size > self._end - start:
            return False
        stop = self._buffer.find(_END, start, self._end)
        if stop < 0:
            if self._end - start <= _LONGEST:
                return False
            return self._pass(self._end)
        if self._view[start] not in _MESSAGE:
            return self._pass(stop + 2)
        verb, *words = self._view[start:stop].tobytes().split()
        headed = verb == b"HMSG"
        try:
            subject, number, size = words[0], int(words[1]), int(words[-1])
            head = int(words[-2]) if headed else 0
        except (ValueError, IndexError):
            return self._pass(stop + 2)
        if not (headed or verb == b"MSG") or not 0 <= head <= size or len(words) - headed not in (3, 4):
            return self._pass(stop + 2)
        begin = stop + 2
        self._size = begin + size + 2 - start
        if self._size > self._end - start:
            return False
        self._start, self._size = begin + size + 2, 0
        reply = words[2] if len(words) - headed == 4 else b""
        view = self._view
        data = view[begin + head : begin + size].tobytes()
        self._message(number, Message(subject.decode(), reply.decode(), view[begin : begin + head].tobytes(), data))
        return True

    def _pass(self, upto: int) -> bool:
        line = self._view[self._start : upto].tobytes()
        self._start = upto
        self._other(line)
        return True
