"""A channel over ZeroMQ: a DEALER, to servers elsewhere and for whatever a side channel cannot do.

Its heartbeats are ZeroMQ's own, and a monitor tells what becomes of the connection.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import zmq

from proxyfab.connectors.zmq.channel import Channel, Filling
from proxyfab.errors import IntegrityError
from proxyfab.wire.messages import MAX_BODY, MAX_MESSAGE, Message, decode, encode
from proxyfab.zeromq.connection import PATIENCE, SLICE, Broken, Connection

_MORE = int(zmq.SNDMORE)
_COPIED = 16 << 10


class Dealer(Channel):
    """A DEALER. Belongs to one thread at a time.

    Args:
        endpoint: As ZeroMQ writes it.
        options: Further options of the socket: CURVE keys.
        patience: Seconds until the server has to have answered.
    """

    def __init__(self, endpoint: str, options: dict[int, bytes], patience: float = PATIENCE) -> None:
        super().__init__(endpoint)
        self._connection = Connection(endpoint, options, MAX_MESSAGE, patience)
        self._socket = self._connection.socket
        self._slice = SLICE

    # -- messages ------------------------------------------------------------------------------------------------

    def send(self, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()) -> None:
        header = encode(verb, request, fields)
        try:
            if not body:
                self._socket.send(header)
            elif sum([view.nbytes for view in body]) > _COPIED:
                self._socket.send_multipart([header, *body], copy=False)
            else:
                self._socket.send(header, _MORE)
                for view in body[:-1]:
                    self._socket.send(view, _MORE)
                self._socket.send(body[-1])
        except zmq.Again:  # its queue has no limit: there is no connection any more, and there will be none
            self.check()
            raise Broken("has closed the connection") from None

    def _next(self, until: float) -> Message | None:
        """The next header. In between, a look whether the connection still stands."""
        while True:
            self._limit(until - time.monotonic())
            try:
                head = bytes(self._socket.recv())
            except zmq.Again:
                self.check()
                if time.monotonic() >= until:
                    raise Broken("did not answer in time", again=False, late=True) from None
            else:
                return decode([head]) if head else None  # an empty one: the server has looked whether we are there

    def _limit(self, left: float) -> None:
        """Have the next `recv` end with its slice, or with the time, if that is earlier."""
        slice = SLICE if left * 1000 >= SLICE else int(max(left, 0) * 1000) + 1
        if slice != self._slice:
            self._slice = slice
            self._socket.setsockopt(zmq.RCVTIMEO, slice)

    def _skip(self) -> None:
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv_into(bytearray())

    # -- bodies --------------------------------------------------------------------------------------------------

    def _whole(self, message: Message, sizes: Sequence[int]) -> list[memoryview]:
        if len(sizes) == 1 and sizes[0] <= MAX_BODY:
            return [self._small(sizes[0])]
        filling = Filling(sizes)
        self._fill(message, filling)
        return filling.finish()

    def _small(self, size: int) -> memoryview:
        """The body of an answer that has one object in it."""
        whole, received = memoryview(bytearray(size)), 0
        while self._socket.getsockopt(zmq.RCVMORE):
            received += self._socket.recv_into(whole[received:] if received else whole)
            if received > size:
                raise IntegrityError(f"An answer's body has {received} bytes, and says {size}.")
        if received < size:
            raise IntegrityError("An answer's body is shorter than it says.")
        return whole

    def _fill(self, chunk: Message, filling: Filling) -> int:  # noqa: ARG002 - its bytes are in the socket still
        received = 0
        while self._socket.getsockopt(zmq.RCVMORE):
            received += filling.take(self._socket.recv_into(filling.target))
        return received

    # -- the connection ------------------------------------------------------------------------------------------

    def check(self) -> None:
        self._connection.check()

    def close(self) -> None:
        self._connection.close()
