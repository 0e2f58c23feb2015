"""One stream of a link: a connected socket and the one thread that reads and writes it.

One thread, because a TLS connection is not to be used by two at once. It takes the next item only when the kernel has
room for it (TCP_NOTSENT_LOWAT), so that a stream that is held up holds no more than it must; bytes of objects are
received where they are to lie.

Promises: nothing waits longer than the socket's own limits; the owner is told once of the end, after everything that
came. Leaves sockets' making, greeting and encryption to who opens them.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections import deque
from typing import Protocol

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError
from proxyfab.link.frames import HEADING, Heading, heading_of_letter, heading_of_segment, read_heading
from proxyfab.link.sending import SEGMENT, Item, Letter, Segment
from proxyfab.osio import sockets

LOW = 32 << 10
"""Bytes that the kernel has and did not send, below which it says that it has room: 4 ms of one of eight streams that
share 0.5 Gbit/s. With more, the first stream that looks takes what others could send at once."""
_TURN = 1 << 20
"""Bytes read before it is looked whether there is something to send, and the other way round."""
_REST = 16
"""Turns in which what came before the end is read: no buffer of a kernel holds more."""
_TOGETHER = 8 << 10
"""Bytes of letters that are written at once: a stream that was idle sends 14 KB. More is for others that are free."""
_SLOW = 100_000
AGAIN, _SLOWLY = 1, 8
"""Bytes a second below which a stream is slow, and seconds after which TCP sends again at the latest what was not
acknowledged. If all streams do that each second, a link goes on as soon as a cut heals; one of 64 kbit/s is full of it.
"""
_HASTE = 0.25
"""Seconds in which a stream should have sent what it took, unless that is `_LEAST` bytes."""
_LEAST = 4 << 10
_PAUSE = 0.5
"""Milliseconds in which others may take what a stream could only queue: little beside a round trip that is long."""
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Owner(Protocol):
    """The link, as its streams see it. Called from each stream's own thread; must not wait for the network."""

    def next(self, stream: int, most: int) -> Item | None:
        """What to send now, if there is something; of an object so many bytes at most."""

    def ample(self) -> bool:
        """Whether there is more than enough to send for all streams."""

    def source(self, segment: Segment) -> tuple[Frames, int] | None:
        """The bytes of a segment and the size of its object; None when it has gone."""

    def target(self, segment: Segment, size: int) -> memoryview | None:
        """Where the bytes of a segment are to lie; None when nobody wants them."""

    def landed(self, stream: int, segment: Segment) -> None:
        """A segment is there, or the first part of one of which no more comes."""

    def letter(self, stream: int, text: memoryview) -> None:
        """A letter came."""

    def over(self, stream: int, why: str) -> None:
        """A stream has ended."""


class Stream:
    """A socket that is part of a link. `start` makes its thread.

    Args:
        number: Its number in the link.
        connection: The socket; it is closed with this.
        owner: Who says what to send and gets what comes.
    """

    def __init__(self, number: int, connection: socket.socket, owner: Owner) -> None:
        self.number = number
        self._connection = connection
        self._owner = owner
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bells = threading.Lock()
        self._open = True
        self._why = "it was closed"
        self._out: deque[memoryview] = deque()
        self._head = memoryview(bytearray(HEADING))
        self._heading: Heading | None = None
        """Of what is being received; None while a heading is."""
        self._into = self._head
        self._done = 0
        self._pauses = self._paused = False
        """Whether others are left the time to take what waits, and whether they were."""
        self._low, self._slow = LOW, False
        self._rested = False
        """Whether nothing was there to send when it was last looked."""
        self._thread = threading.Thread(target=self._run, name=f"proxyfab-link-{number}", daemon=True)

    def start(self) -> None:
        """Begin to send and to receive."""
        self._connection.setblocking(False)
        self._thread.start()

    def ring(self) -> None:
        """There is something to send, perhaps. From any thread."""
        with self._bells:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def close(self, why: str = "it was closed") -> None:
        """End it, from any thread."""
        if self._open:
            self._why, self._open = why, False
            self.ring()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until its thread has ended, unless that is the one that asks. Returns whether it has."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        try:
            while self._open:
                if not (self._receive() | self._send()):
                    self._rested = not self._out
                    poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._out else 0))
                    poll.poll(_PAUSE if self._pauses else None)
                    self._pauses, self._paused = False, self._pauses
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._bell)
            self._read_rest()
        except IntegrityError as error:
            self._why = f"the other side does not keep to the protocol: {error}"
        except (OSError, ValueError) as error:  # of ssl, too
            self._why = str(error) or type(error).__name__
            self._read_rest()
        finally:
            self._end()

    def _read_rest(self) -> None:
        """Read what came before the end and lies here: else it, or what it says has arrived, would be sent again."""
        with contextlib.suppress(IntegrityError, OSError, ValueError):  # the stream ends, and why is known
            for _ in range(_REST):
                if not self._receive():
                    break

    def _end(self) -> None:
        self._open = False
        self._connection.close()
        with self._bells:
            os.close(self._bell)
            self._bell = -1
        heading = self._heading
        if heading is not None and heading.segment is not None and self._done:
            self._owner.landed(self.number, heading.segment._replace(length=self._done))
        self._owner.over(self.number, self._why)

    def _send(self) -> bool:
        """Write what there is room for. Returns whether anything was written."""
        written = 0
        while written < _TURN:
            if not self._out and (self._leaves_it() or not self._load()):
                break
            if self._rested:
                self._rested = False
                sockets.freshen(self._connection)
            view = self._out[0]
            try:
                sent = self._connection.send(view)
            except _NOT_NOW:
                break
            written += sent
            if sent < view.nbytes:
                self._out[0] = view[sent:]
            else:
                self._out.popleft()
        return written > 0

    def _leaves_it(self) -> bool:
        """Whether to look again a little later: of what is little, others may be able to send some at once.

        This one would queue it behind what its window does not let out, for a round trip or more.
        """
        queues = not self._paused and not self._owner.ample() and sockets.unsent(self._connection) > 0
        self._pauses, self._paused = queues, False
        return queues

    def _most(self) -> int:
        """Bytes of a segment at most, and of what the kernel is to hold unsent: little where a stream is slow.

        What a stream took goes before what is asked for next, and goes also when nobody waits for it any more.
        """
        rate, most = sockets.rate(self._connection), SEGMENT
        while most > _LEAST and most > rate * _HASTE:
            most //= 2
        if (rate < _SLOW) is not self._slow:
            self._slow = rate < _SLOW
            sockets.insist(self._connection, _SLOWLY if self._slow else AGAIN)
        low = min(most, LOW)
        if low != self._low:
            self._low = low
            with contextlib.suppress(OSError):
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, low)
        return most

    def _load(self) -> bool:
        """Take what is next. Letters go together, with each other and with the heading behind them."""
        words, most = bytearray(), self._most()
        while len(words) < _TOGETHER:
            item = self._owner.next(self.number, most)
            if item is None:
                break
            if isinstance(item, Letter):
                words += heading_of_letter(item.length)
                words += item.text
                continue
            found = self._owner.source(item)
            if found is None:
                raise OSError("an object went while it was being sent")
            frames, size = found
            words += heading_of_segment(item, size)
            self._out.extend([memoryview(words), *(view for view in frames.views if view.nbytes)])
            return True
        if words:
            self._out.append(memoryview(words))
        return bool(words)

    def _receive(self) -> bool:
        """Read what came. Returns whether anything did."""
        read = 0
        while read < _TURN:
            try:
                received = self._connection.recv_into(self._into[self._done :])
            except _NOT_NOW:
                break
            if not received:
                raise ConnectionResetError("the other side closed it")
            read += received
            self._done += received
            if self._done == self._into.nbytes:
                self._filled()
        return read > 0

    def _filled(self) -> None:
        """What was being received is there: act on it, and see what comes next."""
        heading, view = self._heading, self._into
        self._heading, self._into, self._done = None, self._head, 0
        if heading is None:
            self._expect(read_heading(view))
        elif heading.segment is not None:
            self._owner.landed(self.number, heading.segment)
        else:
            self._owner.letter(self.number, view)

    def _expect(self, heading: Heading) -> None:
        if heading.length == 0:
            self._owner.letter(self.number, memoryview(b""))
            return
        self._heading = heading
        if heading.segment is None:
            self._into = memoryview(bytearray(heading.length))
            return
        target = self._owner.target(heading.segment, heading.size)
        self._into = memoryview(bytearray(heading.length)) if target is None else target
