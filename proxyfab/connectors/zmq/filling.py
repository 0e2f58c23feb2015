"""A put through shared memory: the server grants room, the client fills it, the server takes it over.

If the client ends in between, the server takes the room back. If an answer is lost, the call is repeated: whether the
server has taken the object over is asked first.
"""

from __future__ import annotations

import time
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.link import Link
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.zeromq.connection import Broken

SHARED = 256 << 10
"""Bytes from which on two round trips and a copy in shared memory are cheaper than a copy through sockets."""


class Filling:
    """One put. Belongs to one call.

    Args:
        link: To the server.
        fields: What is to be put, as the server needs to know it.
        frames: Its bytes.
        timeout: Seconds for each answer.
    """

    def __init__(self, link: Link, fields: dict[str, Any], frames: Frames, timeout: float) -> None:
        self._link, self._fields, self._frames, self._timeout = link, fields, frames, timeout
        self._asked = False

    def once(self, channel: Channel, request: bytes) -> bool:
        """One attempt; False when the server grants no room here."""
        if self._asked:
            try:
                self._commit(channel, request)
            except ConnectorError:  # it was not taken over, and the room has been taken back
                pass
            else:
                return True
        channel.send("grant", request, self._fields)
        place = channel.answer(request, time.monotonic() + self._timeout).fields.get("place")
        if place is None:
            return False
        space = self._link.known().space
        try:
            self._link.place(space).put(self._frames, key=Key(str(place), space))
        except ConnectorError as error:
            channel.check()
            raise Broken(f"granted shared memory that cannot be written: {error}", again=False) from error
        self._asked = True
        self._commit(channel, request)
        return True

    def _commit(self, channel: Channel, request: bytes) -> None:
        second = request[::-1]
        channel.send("commit", second, {"grant": request})
        channel.answer(second, time.monotonic() + self._timeout)
