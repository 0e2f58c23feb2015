"""One connection of a DEALER to a server: made once, watched by a monitor, never made again.

Promises: whatever is sent on it goes to the server that it was made to, and never to the next one at the same address;
who is silent for `SILENCE`, stopped or cut off, has closed it.
"""

from __future__ import annotations

import contextlib
import errno
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from proxyfab.errors import AccessDenied
from proxyfab.zeromq.context import contexts
from proxyfab.zeromq.greeting import mechanism

PATIENCE = 5.0
"""Seconds in which a connection has to come about."""
SLICE = 200
"""Milliseconds between two looks at whether the connection still stands."""
HEARTBEAT, SILENCE = 1000, 3000
LIFE = 4000
"""Milliseconds without a word after which the server is to take this end for dead; it sends no heartbeats itself."""
_REFUSED: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not let this client's key in; add it with `proxyfab keys`, or --allow",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it has another key than this client was told, or wants none",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "one side wants CURVE and the other does not, or it is none of "
    "ours; `proxyfab doctor` tells, and `proxyfab keys trust` notes a server's key",
}


class Broken(Exception):
    """The connection has ended, or the deadline has passed.

    Args:
        text: What the server did.
        again: Whether another connection may do.
        away: Whether this process was stopped or too busy to say that it is there, so that the server gave it up.
        late: Whether only the deadline has passed: as far as is known the connection stands.
    """

    def __init__(self, text: str, *, again: bool = True, away: bool = False, late: bool = False) -> None:
        super().__init__(text)
        self.again, self.away, self.late = again, away, late


class Connection:
    """A DEALER. Belongs to one thread at a time.

    Args:
        endpoint: As ZeroMQ writes it.
        options: Further options of the socket: CURVE keys.
        largest: Bytes of a frame at most.
        patience: Seconds until the server has to have answered.
        server: What is there, for errors.
    """

    def __init__(
        self,
        endpoint: str,
        options: dict[int, bytes],
        largest: int,
        patience: float = PATIENCE,
        server: str = "node server",
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self._server = server
        self._reached = self._ready = False
        self._closed = False
        self._guarded = bool(options)
        self._context = contexts.take()
        try:
            self.socket = self._context.socket(zmq.DEALER)
            self._open(options, largest)
        except BaseException:
            self.close()
            raise

    def _open(self, options: dict[int, bytes], largest: int) -> None:
        usual: dict[int, int] = {
            zmq.LINGER: 0,
            zmq.RECONNECT_IVL: -1,
            zmq.RCVTIMEO: SLICE,
            zmq.SNDTIMEO: 0,
            zmq.SNDHWM: 0,
            zmq.RCVHWM: 0,  # libzmq would die of a heartbeat after it had stopped to read and the server has gone
            zmq.MAXMSGSIZE: largest,
            zmq.HEARTBEAT_IVL: HEARTBEAT,
            zmq.HEARTBEAT_TIMEOUT: SILENCE,
            zmq.HEARTBEAT_TTL: LIFE,
            zmq.CONNECT_TIMEOUT: int(self.patience * 1000),
            zmq.HANDSHAKE_IVL: int(self.patience * 1000),
            zmq.IPV6: int("[" in self.endpoint),
        }
        for option, value in [*usual.items(), *options.items()]:
            self.socket.setsockopt(option, value)
        self._monitor = self.socket.get_monitor_socket()
        self.socket.connect(self.endpoint)
        self._connecting = time.monotonic()

    def check(self) -> None:
        """Look at what happened to the connection.

        Raises:
            Broken: It has ended, or was not made.
            AccessDenied: The server refused it.
        """
        while True:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                break
            self._judge(event["event"], int(event["value"]))
        if not self._ready and time.monotonic() - self._connecting > self.patience:
            raise self._silent()

    def _silent(self) -> Broken:
        if self._reached:
            return Broken(f"did not answer within {self.patience:g} s", again=False)
        text = f"was not reached within {self.patience:g} s: no such name, no such host, or no way to it from here"
        return Broken(text, again=False)

    def _refuses(self, event: int, value: int) -> AccessDenied:
        return AccessDenied(f"The {self._server} at {self.endpoint} refused this client: {_REFUSED[event]} ({value}).")

    def _judge(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._reached = True
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._ready = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == errno.EAGAIN:
            raise self._silent()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and not self._guarded:
            if mechanism(self.endpoint, self.patience) == "CURVE":
                raise self._refuses(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, value)
            raise Broken("ended the connection while it was made")
        elif event in _REFUSED:
            raise self._refuses(event, value)
        elif event == zmq.EVENT_DISCONNECTED and not self._ready:
            raise self._silent()  # somebody has accepted the connection, and never spoke
        elif event == zmq.EVENT_DISCONNECTED:
            raise Broken("has closed the connection, or was silent for too long")
        elif event == zmq.EVENT_CLOSED and not self._ready:
            raise Broken("refuses connections: no server listens there")

    def close(self) -> None:
        """End it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(AttributeError):  # it was never opened
            self.socket.disable_monitor()
            self._monitor.close(0)
            self.socket.close(0)
        contexts.give_back(self._context)
