"""What a relay says over a bare socket."""

from __future__ import annotations

import socket

from proxyfab.link.pairing import Reading
from proxyfab.wire.messages import Message


def said(connection: socket.socket) -> Message:
    """Its next letter; raises ConnectionError where it ended the connection instead."""
    reading = Reading()
    connection.settimeout(20)
    while (letter := reading.next()) is None:
        data = connection.recv(reading.missing)
        if not data:
            raise ConnectionError("closed")
        reading.took(data)
    return letter
