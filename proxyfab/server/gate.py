"""The gate: who may speak to a server. Beyond this machine nobody may without CURVE and a place on the list.

Rules:
1. A server that binds beyond loopback has a key, or does not start.
2. With a key every connection is encrypted, and only clients whose public key is on the list get in. The list is read
   anew for each, so that to add or to remove one needs no restart.
"""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from proxyfab.errors import AccessDenied, ConfigurationError, ProxyfabError
from proxyfab.keyring import Keyring
from proxyfab.server.options import Options

_DOMAIN = b"proxyfab"
_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"


def stays_here(endpoint: str) -> bool:
    """Whether only processes of this machine can reach an endpoint."""
    scheme, _, rest = endpoint.partition("://")
    if scheme in ("ipc", "inproc"):
        return True
    host = rest.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, an interface or *


def check_binds(options: Options) -> None:
    """Refuse to listen beyond this machine without a key (rule 1).

    Raises:
        ConfigurationError: An endpoint needs `--key`, or is none.
    """
    for endpoint in options.bind:
        scheme, _, where = endpoint.rpartition("://")
        if scheme not in ("ipc", "inproc") and not (scheme == "tcp" and _is_address(where)):
            raise ConfigurationError(
                f"{endpoint!r} is no endpoint: write tcp://HOST:PORT (port 0 is any), or ipc:///path."
            )
    if options.advertise and not _is_address(options.advertise):
        raise ConfigurationError(f"{options.advertise!r} is no address to advertise: write HOST:PORT.")
    open_ones = [endpoint for endpoint in options.bind if not stays_here(endpoint)]
    if open_ones and not options.key:
        raise ConfigurationError(
            f"{open_ones[0]} can be reached from other machines, so the server needs --key: make one with `proxyfab "
            "keys make curve NAME`, let clients in with `proxyfab keys allow`, or bind to 127.0.0.1."
        )


def _is_address(text: str) -> bool:
    """Whether it is host:port; ZeroMQ takes a port from 65536 on for another one."""
    host, _, port = text.rpartition(":")
    return bool(host) and (port == "*" or (port.isascii() and port.isdecimal() and int(port) < 65536))


class Gate:
    """CURVE and the list of those who are let in. Belongs to the loop's thread.

    Args:
        options: Of the server: `key` and `allow`.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._keyring = Keyring()
        self.socket: zmq.Socket[bytes] | None = None
        self.denied = 0

    def open(self, context: zmq.Context[Any], router: zmq.Socket[bytes]) -> None:
        """Guard a socket, before it binds."""
        if not self._options.key:
            return
        public, secret = self._keyring.curve(self._options.key)
        self._allowed()  # an unreadable list is told now
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(_ENDPOINT)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_PUBLICKEY, public)
        router.setsockopt(zmq.CURVE_SECRETKEY, bytes(secret))
        router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)

    def answer(self) -> None:
        """Decide about those who knock."""
        if self.socket is None:
            return
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._judged(parts))

    def _judged(self, parts: list[bytes]) -> list[bytes]:
        request = parts[1] if len(parts) > 1 else b""
        name = ""
        if len(parts) == 7 and parts[0] == _VERSION and parts[5] == b"CURVE" and len(parts[6]) == 32:
            with contextlib.suppress(ProxyfabError, OSError):
                name = self._allowed().get(z85.encode(parts[6]), "")
        if name:
            return [_VERSION, request, b"200", b"welcome", name.encode()[:255], b""]
        self.denied += 1
        return [_VERSION, request, b"400", b"this client's key is not on the list", b"", b""]

    def _allowed(self) -> dict[bytes, str]:
        """Public keys of those who are let in, with their names."""
        if not self._options.allow:
            return {key: name or "-" for key, name in self._keyring.peers(self._options.key).items()}
        try:
            lines = Path(self._options.allow).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise AccessDenied(f"The list of clients {self._options.allow} cannot be read: {why}.") from error
        rows = [line.split() for line in lines if line.strip() and not line.startswith("# ")]  # a key may begin with #
        return {row[0].encode(): row[1] if len(row) > 1 else "-" for row in rows}

    def close(self) -> None:
        """Let nobody in any more."""
        if self.socket is not None:
            self.socket.close(0)
