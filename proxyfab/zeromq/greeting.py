"""Which security mechanism a ZeroMQ server wants, as its greeting says.

For a refusal that libzmq tells no reason of: where the server closes first, a client learns that its connection ended
and not why (ZMTP 3.1, https://rfc.zeromq.org/spec/37/). One connection of its own, nothing said but the signature.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

_SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f\x03"
"""A signature and a major version: with these a server says the rest of its greeting."""
_GREETING = 64
_MECHANISM = slice(12, 32)


def mechanism(endpoint: str, patience: float) -> str | None:
    """What it wants: NULL, PLAIN or CURVE; None if nobody there greets as ZeroMQ does within `patience` seconds.

    Args:
        endpoint: `tcp://host:port`.
        patience: Seconds for all of it.
    """
    until = time.monotonic() + patience
    address = urlsplit(endpoint)
    greeting = b""
    try:
        with socket.create_connection((address.hostname, address.port), patience) as speaking:
            speaking.sendall(_SIGNATURE)
            while len(greeting) < _GREETING:
                speaking.settimeout(max(0.001, until - time.monotonic()))
                more = speaking.recv(_GREETING - len(greeting))
                if not more:
                    return None
                greeting += more
    except (OSError, ValueError):
        return None
    if not (greeting[0] == 0xFF and greeting[9] & 1):
        return None
    return greeting[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")
