"""What a server offers beside ZeroMQ, and how it is reached.

Only who spoke to the server itself goes beside: who came through a tunnel or a proxy stays there, as what is beside the
server need not be beside the other end. The server says a namespace and a port, never a path or a host.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from proxyfab.errors import AccessDenied
from proxyfab.osio.machine import sight_of
from proxyfab.osio.namespace import is_name
from proxyfab.osio.shared import default_root
from proxyfab.osio.sockets import SIDE, tune, user_of
from proxyfab.wire.messages import Message
from proxyfab.wire.side import TOKEN


class Offer(NamedTuple):
    """A side channel that this client may use."""

    incarnation: str
    token: bytes
    path: str
    """Of a Unix socket; `""` for TCP."""
    port: int

    @classmethod
    def of(cls, welcome: Message, address: str, way: str) -> Offer | None:
        """What a server's answer to hello offers to a client that reached it at an address.

        Args:
            welcome: The answer.
            address: Of the server, as the client knows it.
            way: `1`, `tcp` or `0`, as the client wants it.
        """
        offer = welcome.fields.get("side")
        if way == "0" or offer.__class__ is not dict:
            return None
        token, space, port = offer.get("token"), offer.get("space"), offer.get("port")
        if token.__class__ is not bytes or len(token) != TOKEN or not _is_direct(offer.get("at"), address):
            return None
        incarnation, root = welcome.text("incarnation"), default_root()
        seen = way == "1" and offer.get("sight") == sight_of(root) != ""
        if seen and space.__class__ is str and space.startswith("~") and is_name(space):
            return cls(incarnation, token, f"{root}/{space}/{SIDE}", 0)
        if port.__class__ is int and 1023 < port < 65536 and not address.startswith("/"):
            return cls(incarnation, token, "", port)
        return None


def _is_direct(at: object, address: str) -> bool:
    """Whether a server listens where it was reached: at that port, or that path."""
    return isinstance(at, list) and (address if address.startswith("/") else address.rpartition(":")[2]) in at


def connect(offer: Offer, address: str, patience: float) -> socket.socket:
    """A connection to what was offered.

    Raises:
        OSError: Nobody is there.
        AccessDenied: The socket is another user's.
    """
    if not offer.path:
        made = socket.create_connection((address.rpartition(":")[0].strip("[]"), offer.port), patience)
        tune(made)
        return made
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(patience)
        made.connect(offer.path)
        if user_of(made) != os.geteuid():
            raise AccessDenied(f"{offer.path} belongs to another user.")
        tune(made)
    except BaseException:
        made.close()
        raise
    return made
