"""The flow of an object's bytes in chunks, with credit: what is under way is bounded, however slow the other side is.

A sender may be `window` bytes ahead of what the receiver said it has. Both sides are arithmetic: no clock, no socket.

Rules:
1. Bytes go in order, each once; a chunk that is not the next one is an IntegrityError.
2. A receiver says where it stands after each quarter of a window, so that a sender that is not slower never waits.
3. A receiver cannot grant more than what was sent and the window: credit follows from what it has, not from its wishes.
"""

from __future__ import annotations

from typing import NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.wire.messages import CHUNK

WINDOW = 16 << 20
"""Bytes under way at most for one object."""
_STEPS = 4
ANSWERS = 64
"""Messages that a server keeps for a connection of ZeroMQ; one more, and it ends the connection."""
PIPELINED = ANSWERS * 3 // 8
"""Requests without an answer on one connection at most: ZeroMQ may count half of `ANSWERS`, less one, although they
have left, and some room is for what the server says by itself.
"""


class Piece(NamedTuple):
    """A part of an object to send now."""

    offset: int
    length: int


class Sending:
    """The sender's side of one object.

    Args:
        size: Bytes of the object.
        window: How far it may be ahead of the receiver.
        chunk: Bytes of a piece at most.
    """

    __slots__ = ("chunk", "received", "sent", "size", "window")

    def __init__(self, size: int, window: int = WINDOW, chunk: int = CHUNK) -> None:
        self.size, self.window, self.chunk = size, window, chunk
        self.sent = 0
        self.received = 0

    @property
    def done(self) -> bool:
        """Whether everything was sent."""
        return self.sent >= self.size

    def next(self) -> Piece | None:
        """What to send now; None when credit or object are at their end. What is returned counts as sent."""
        length = min(self.chunk, self.size - self.sent)
        if not length or self.sent - self.received + length > max(self.window, length):
            return None
        piece = Piece(self.sent, length)
        self.sent += length
        return piece

    def ack(self, received: int) -> None:
        """The receiver has everything before `received`; an older word than the last is passed over.

        Raises:
            IntegrityError: It says that it has what was never sent.
        """
        if received > self.sent:
            raise IntegrityError(f"A receiver claims {received} bytes of which {self.sent} were sent.")
        self.received = max(self.received, received)


class Receiving:
    """The receiver's side of one object.

    Args:
        size: Bytes of the object.
        window: The sender's.
    """

    __slots__ = ("_said", "_step", "received", "size")

    def __init__(self, size: int, window: int = WINDOW) -> None:
        self.size = size
        self.received = 0
        self._said = 0
        self._step = max(window // _STEPS, 1)

    @property
    def done(self) -> bool:
        """Whether everything is here."""
        return self.received >= self.size

    def take(self, offset: int, length: int) -> int | None:
        """A chunk has come: where to say that we stand, or None when it is too early for that, or all is here.

        Raises:
            IntegrityError: It is not the next one, is empty, or goes beyond the object's end.
        """
        if offset != self.received or length <= 0 or offset + length > self.size:
            raise IntegrityError(
                f"A chunk of {length} bytes at {offset} came where {self.received} of {self.size} bytes were there."
            )
        self.received += length
        if self.done or self.received - self._said < self._step:
            return None
        self._said = self.received
        return self.received
