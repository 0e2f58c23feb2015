"""Where the streams of other sites come in: one listener, and a thread for each that is being greeted.

Promises: strangers are few at a time and not for long; who is let in is handed on with what he said he is for.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.link.doors import Hello, open_door
from proxyfab.link.identity import Identity

_GREETING = 10.0
_STRANGERS = 64
"""Connections that are being greeted at most; others wait in the kernel's queue."""
_BACKLOG = 256
_AGAIN = 0.05


class Greeter:
    """Lets other sites' connections in, wherever they came.

    Args:
        identity: Who this site is, and whom it knows.
        take: Gets who was let in, and what he is for.
    """

    def __init__(self, identity: Identity, take: Callable[[ssl.SSLSocket, Hello], None]) -> None:
        self._identity = identity
        self._take = take
        self._room = threading.Semaphore(_STRANGERS)
        self.refused = 0
        """How many were not let in."""
        self.trouble = ""
        """Why the last one was not."""

    def greet(self, plain: socket.socket) -> None:
        """Take a connection, in a thread of its own; waits while too many are being greeted."""
        self._room.acquire()
        threading.Thread(target=self._greet, args=(plain,), name="proxyfab-greeting", daemon=True).start()

    def _greet(self, plain: socket.socket) -> None:
        try:
            connection, hello = open_door(self._identity, plain, timeout=_GREETING)
            self._take(connection, hello)
        except ProxyfabError as error:
            self.refused += 1
            self.trouble = str(error)
            plain.close()
        finally:
            self._room.release()


class Listener:
    """A TCP port that other sites dial.

    Args:
        greeter: Lets them in.
        address: Host and port; port 0 is any.
    """

    def __init__(self, greeter: Greeter, address: tuple[str, int]) -> None:
        self._greeter = greeter
        self._ended = threading.Event()
        host, port = address
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConnectorError(
                f"Cannot listen for other sites at {host}:{port}: {error.strerror or error}."
            ) from error
        self._thread = threading.Thread(target=self._run, name="proxyfab-listener", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                if self._ended.wait(_AGAIN):
                    return
                continue  # it broke off, or no descriptor is left for it
            self._greeter.greet(plain)

    def close(self) -> None:
        """Listen no more."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5.0)
