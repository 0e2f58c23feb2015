"""The short way between a socket and who says and hears messages, beside nats-py: what it needs of nats-py for that.

nats-py copies what comes five times and what goes twice, and wakes a task for each message; half of the time of a
stream of frames went there. So this takes its place at the transport. It needs names that nats-py does not promise
(`NEEDED`); where one is missing a session goes nats-py's own way, which is slower and otherwise the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from proxyfab.brokers.nats.arrivals import Arrivals, Message

NEEDED: dict[str, type] = {
    "_transport._io_writer.transport": asyncio.Transport,
    "_transport._io_reader._buffer": bytearray,
    "_ps.buf": bytearray,
    "_subs": dict,
    "_pending": list,
    "_pending_data_size": int,
}
"""Of a connected client of nats-py, and what each is. As in 2.10 to 2.16."""
_told: set[str] = set()


def lacking(client: Any) -> list[str]:
    """Which of these a client does not have, or has otherwise; they are logged once."""
    found = [path for path, kind in NEEDED.items() if not isinstance(_value(client, path), kind)]
    new = set(found) - _told
    if new:
        _told.update(new)
        logging.getLogger("proxyfab").warning(
            "This version of nats-py has no %s as proxyfab knows it: NATS works, and is slower.", ", ".join(sorted(new))
        )
    return found


def _value(client: Any, path: str) -> object:
    found = client
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


class Direct(asyncio.BufferedProtocol):
    """Receives in place of nats-py's stream, which gets what is no message.

    Args:
        stream: That stream's.
        message: Called with each message and its subscription's number.
    """

    def __init__(self, stream: Any, message: Callable[[int, Message], None]) -> None:
        self._stream = stream
        self._arrivals = Arrivals(message, stream.data_received)

    @classmethod
    def take(cls, client: Any, message: Callable[[int, Message], None]) -> None:
        """Take what comes from now on before nats-py does, and what it has not looked at yet."""
        transport = client._transport._io_writer.transport
        reader, parser = client._transport._io_reader, client._ps
        direct = cls(transport.get_protocol(), message)
        before = bytes(parser.buf) + bytes(reader._buffer)
        parser.buf.clear()
        reader._buffer.clear()
        transport.set_protocol(direct)
        direct.received(before)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - a guess
        return self._arrivals.room()

    def buffer_updated(self, nbytes: int) -> None:
        self._arrivals.took(nbytes)

    def received(self, data: bytes) -> None:
        """What the stream had received before."""
        while data:
            room = self._arrivals.room()
            part = data[: len(room)]
            room[: len(part)] = part
            self._arrivals.took(len(part))
            data = data[len(part) :]

    def eof_received(self) -> bool | None:
        ended: bool | None = self._stream.eof_received()
        return ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()
