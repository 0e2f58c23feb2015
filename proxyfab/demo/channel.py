"""Channel: the control flow between two processes: messages over a socket pair, every byte counted.

A message is a small header, which anyone may read, and a body, which only its addressee opens. To pass a message on one
need not know what is in its body, nor have the packages that could open it. Every wait has the channel's deadline.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, NamedTuple

Header = dict[str, Any]
_SIZES = struct.Struct("<IQ")


class Hangup(ConnectionError):
    """The process at the other end is gone."""


class Silence(TimeoutError):
    """The process at the other end neither spoke nor listened before the deadline."""


class Message(NamedTuple):
    """A header with a `kind`, and the bytes for the addressee."""

    header: Header
    body: bytes | bytearray = b""

    @property
    def kind(self) -> str:
        """What the message is: preparing, ready, go, calibration, frame, image, end or report."""
        return str(self.header["kind"])


class Channel:
    """One end. One thread may send while another receives.

    Args:
        fd: A connected stream socket, which the channel owns from now on.
        peer: Who is at the other end, for messages.
        deadline: Seconds for any single wait.

    Attributes:
        sent: Bytes sent so far, frames of the protocol included.
        received: Bytes received so far.
    """

    def __init__(self, fd: int, peer: str, deadline: float) -> None:
        self.peer = peer
        self.deadline = deadline
        self.sent = 0
        self.received = 0
        self._socket = socket.socket(fileno=fd)
        self._socket.settimeout(deadline)

    def fileno(self) -> int:
        """For `selectors`."""
        return self._socket.fileno()

    def send(self, header: Header, body: bytes | bytearray = b"") -> None:
        """Send one message.

        Raises:
            Hangup: Nobody is there any more.
            Silence: The other end does not take it.
        """
        text = json.dumps(header, separators=(",", ":")).encode()
        try:
            self._socket.sendall(_SIZES.pack(len(text), len(body)) + text)
            if body:
                self._socket.sendall(body)
        except TimeoutError as error:
            raise Silence(f"{self.peer} took no message for {self.deadline:g} s.") from error
        except OSError as error:
            raise Hangup(f"{self.peer} hung up.") from error
        self.sent += _SIZES.size + len(text) + len(body)

    def receive(self) -> Message:
        """The next message.

        Raises:
            Hangup: Nobody is there any more.
            Silence: Nothing, or only a part of a message, came before the deadline.
        """
        header_size, body_size = _SIZES.unpack(self._exactly(_SIZES.size))
        header = json.loads(self._exactly(header_size))
        body = self._exactly(body_size) if body_size else b""
        self.received += _SIZES.size + header_size + body_size
        return Message(header, body)

    def _exactly(self, size: int) -> bytearray:
        block = bytearray(size)
        rest = memoryview(block)
        while rest:
            try:
                count = self._socket.recv_into(rest)
            except TimeoutError as error:
                raise Silence(f"{self.peer} said nothing for {self.deadline:g} s.") from error
            except OSError as error:
                raise Hangup(f"{self.peer} hung up.") from error
            if not count:
                raise Hangup(f"{self.peer} hung up.")
            rest = rest[count:]
        return block

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
