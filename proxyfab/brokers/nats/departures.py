"""Messages on their way to a server: behind one another in one room, which is written when nothing more comes at once.

nats-py joins each message, and then all of them: fresh memory twice, whose pages cost more than the copies. The room
here stays, so a payload is copied once, into memory that is warm.

Promises: messages leave in the order in which they were said, and behind whatever nats-py has to say when they leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

ROOM = 512 << 10
_FREED = 8 << 20


class Departures:
    """One connection's.

    Args:
        write: Takes bytes, and says whether it may still refer to them.
        soon: Calls something when the loop has done what it is at.
    """

    def __init__(self, write: Callable[[memoryview], bool], soon: Callable[[Callable[[], None]], object]) -> None:
        self._write = write
        self._soon = soon
        self._room = bytearray(ROOM)
        self._view = memoryview(self._room)
        self._held = 0

    def add(self, subject: str, body: bytes, reply: str, headers: Mapping[str, str] | None) -> None:
        """Say one more."""
        head = _head(subject, len(body), reply, headers)
        size = len(head) + len(body) + 2
        if self._held + size > ROOM:
            self.leave()
        if size > ROOM:
            for part in (head, body, b"\r\n"):
                self._write(memoryview(part))
            return
        if not self._held:
            self._soon(self.leave)
        at = self._held
        self._room[at : at + len(head)] = head
        at += len(head)
        self._room[at : at + len(body)] = body
        at += len(body)
        self._room[at : at + 2] = b"\r\n"
        self._held = at + 2

    def leave(self) -> None:
        """Write what there is."""
        held, self._held = self._held, 0
        if held and self._write(self._view[:held]):
            self._room = bytearray(ROOM)
            self._view = memoryview(self._room)


def keep_pages() -> None:
    """Have the C library keep some megabytes of what is freed.

    By default glibc gives pages back whenever 128 KiB are free, and frames of 64 KiB come and go all the time: that
    their pages are fetched anew costs more than publishing them. It keeps twice the largest piece that was mapped and
    freed.
    """
    mapped = bytearray(_FREED)
    del mapped


def _head(subject: str, size: int, reply: str, headers: Mapping[str, str] | None) -> bytes:
    if not headers:
        return f"PUB {subject} {reply} {size}\r\n".encode()
    said = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    block = f"NATS/1.0\r\n{said}\r\n".encode()
    return f"HPUB {subject} {reply} {len(block)} {len(block) + size}\r\n".encode() + block
