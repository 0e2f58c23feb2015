"""A server of events: the loop that receives requests, does them, and answers those who wait.

One thread owns the sockets and all topics, so nothing here needs a lock. What a connection held goes when it does;
heartbeats end those of the stopped and the cut off (`proxyfab.server.line`).
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable

from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError
from proxyfab.server.connections import LOOK
from proxyfab.server.events.verbs import Verbs
from proxyfab.server.events.waiting import Reply
from proxyfab.server.line import Line
from proxyfab.server.options import Options
from proxyfab.server.poll import Poll
from proxyfab.wire.messages import NOBODY, Message, decode

_BURST = 32
_LONGEST = 1.0
MEMORY = 1 << 30


class EventServer:
    """Topics in memory for zmq:// brokers. `run` returns when `stop` was called, from a handler or another thread.

    Args:
        options: Where to listen, and whom to let in.
        memory: Bytes of records at most.
    """

    def __init__(self, options: Options, memory: int = MEMORY) -> None:
        self.incarnation = os.urandom(6).hex()
        self.line = Line(options)
        self.verbs = Verbs(memory, self.incarnation)
        self._peers: dict[bytes, int] = {}
        self._poll = Poll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._counted = 0.0

    def open(self) -> list[str]:
        """Bind; returns the endpoints, with the ports that were chosen."""
        self.line.open()
        return self.line.endpoints

    def run(self) -> None:
        """Serve until `stop`, and close."""
        self.line.watch(self._poll)
        self._poll.add(self._wake, self._woken)
        try:
            while not self._stopping:
                self._step()
        finally:
            self.close()

    def stop(self) -> None:
        """End soon. May be called from anywhere."""
        self._stopping = True
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End all connections."""
        self.line.close()
        self._poll.close()
        with contextlib.suppress(OSError):
            os.close(self._wake)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _woken(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _step(self) -> None:
        line = self.line
        self._poll.wait(0 if line.rung else self._pause())
        if line.rung:
            for _ in range(_BURST):
                received = line.receive()
                if received is None:
                    break
                self._hear(*received)
        if line.tolled:
            self._mourn()
        if line.knocked:
            line.admit()
        self.verbs.waiters.serve()
        now = time.monotonic()
        line.connections.look(now)
        if now - self._counted > _LONGEST:
            self._counted = now
            self.verbs.topics.count()
        line.settle()

    def _pause(self) -> float:
        """Seconds until there is something to do without being told."""
        longest = LOOK if self.line.connections.counted else _LONGEST
        return min(longest, max(self.verbs.waiters.next() - time.monotonic(), 0.0))

    # -- peers -------------------------------------------------------------------------------------------------------

    def _hear(self, who: bytes, descriptor: int, parts: list[memoryview]) -> None:
        if self._peers.get(who) != descriptor:
            self._mourn()  # an earlier connection may have had this descriptor, or this name
            self._drop(who)
            self._peers[who] = descriptor
            self.line.meet(who, descriptor)
        try:
            message = decode(parts)
        except IntegrityError as error:
            self._send(who, NOBODY, error)
            return
        if message.verb == "hello" and message.flag("beats"):
            self.line.connections.beats(descriptor)
        self._handle(who, message)

    def _mourn(self) -> None:
        gone = set(self.line.gone())
        if gone:
            for who in [who for who, descriptor in self._peers.items() if descriptor in gone]:
                self._drop(who)

    def _drop(self, who: bytes) -> None:
        """Let go of everything that is held for a peer that has gone."""
        if self._peers.pop(who, None) is not None:
            self.line.part(who)
            self.verbs.drop(who)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _handle(self, who: bytes, message: Message) -> None:
        answer = self._answering(who, message.request)
        found: Reply | Exception | None
        try:
            found = self.verbs.do(who, message, answer)
        except Exception as error:  # noqa: BLE001  # whatever it was, the others are served
            found = error
        if found is not None and message.request != NOBODY:
            answer(found)

    def _answering(self, who: bytes, request: bytes) -> Callable[[Reply | Exception], None]:
        return lambda found: self._send(who, request, found)

    def _send(self, who: bytes, request: bytes, found: Reply | Exception) -> None:
        """Send an answer; what was held for a peer that has gone, or does not read, is held no more."""
        try:
            sent = self._say(who, request, found)
        except (IntegrityError, ValueError, TypeError, OverflowError) as fault:  # no message can say this
            sent = self._say(who, request, fault)
        if not sent:
            self._drop(who)

    def _say(self, who: bytes, request: bytes, found: Reply | Exception) -> bool:
        if isinstance(found, Reply):
            return self.line.send(who, "ok", request, found.fields, found.body)
        if not isinstance(found, ProxyfabError):  # a mistake of ours ends one request; the log has it
            traceback.print_exception(found, limit=-8)
            found = ConnectorError(f"The broker made a mistake: {type(found).__name__}: {found}")
        return self.line.send(who, "error", request, {"kind": type(found).__name__, "text": str(found)[:4096]})
