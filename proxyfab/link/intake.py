"""What the other side of a link asks, until it is answered: how much of it is worked on, waits, or is refused. Sans-IO.

Whoever asks decides how fast he asks, and whether he reads. So what is asked waits here, and is only worked on while
what was answered before leaves: a site that asks for ever, or never reads, costs what these limits say.

Rules:
1. What is at work is little: the one who answers has others to serve. What takes long (`defer`) does not count, or
   waiting for objects would hold up getting them; who answers has a limit of his own for that.
2. What waits is bounded by number and by bytes; the rest is refused at once.
3. What was given up (`forget`) is not answered any more, wherever it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.link.session import Want

_AT_WORK = 500
_BYTES_AT_WORK = 128 << 10
_WAITING = 100_000
_BYTES_WAITING = 32 << 20


class _Asked(NamedTuple):
    want: Want
    nbytes: int


class Intake:
    """Not thread-safe: the link has a lock."""

    def __init__(self) -> None:
        self._waiting: deque[_Asked] = deque()
        self._open: set[int] = set()
        """All that was asked and neither answered nor given up."""
        self._at_work: dict[int, int] = {}
        """Bytes of each question that is worked on."""
        self._bytes_waiting = self._bytes_at_work = 0

    @property
    def waits(self) -> bool:
        """Whether something waits to be worked on."""
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, transfer: int) -> bool:
        return transfer in self._open

    def add(self, wants: Sequence[Want], nbytes: int) -> list[Want]:
        """Questions came, in a letter of so many bytes. Returns those that are too many, to be refused.

        Raises:
            IntegrityError: A number is used twice.
        """
        each = nbytes // max(len(wants), 1) + 1
        refused: list[Want] = []
        for want in wants:
            if want.transfer in self._open:
                raise IntegrityError(f"A site asks twice by the number {want.transfer}.")
            self._open.add(want.transfer)
            if len(self._waiting) >= _WAITING or self._bytes_waiting + each > _BYTES_WAITING:
                refused.append(want)
            else:
                self._waiting.append(_Asked(want, each))
                self._bytes_waiting += each
        return refused

    def next(self) -> list[Want]:
        """What is to be worked on now; nothing, while there is enough at work."""
        found: list[Want] = []
        if len(self._at_work) > _AT_WORK // 2 or self._bytes_at_work > _BYTES_AT_WORK // 2:
            return found  # some together are less work than one by one
        while self._waiting and len(self._at_work) < _AT_WORK and self._bytes_at_work < _BYTES_AT_WORK:
            want, nbytes = self._waiting.popleft()
            self._bytes_waiting -= nbytes
            if want.transfer in self._open:
                self._at_work[want.transfer] = nbytes
                self._bytes_at_work += nbytes
                found.append(want)
        return found

    def defer(self, transfer: int) -> None:
        """A question takes long."""
        self._bytes_at_work -= self._at_work.pop(transfer, 0)

    def forget(self, transfer: int) -> bool:
        """A question is answered, or given up. Whether it was open."""
        self.defer(transfer)
        found = transfer in self._open
        self._open.discard(transfer)
        return found
