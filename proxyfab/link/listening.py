"""Where the streams of other sites come in: one listener, and a thread for each that is being greeted.

Promises: strangers are few at a time and not for long; who is let in is handed on with what he said he is for. Of too
many the slowest go: whoever opens connections and says nothing keeps nobody else out.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable

from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.link.doors import Hello, open_door
from proxyfab.link.identity import Identity
from proxyfab.waiting import Flag

_GREETING = 10.0
_STRANGERS = 64
"""Connections that are being greeted at most; for one more, the one that has taken longest is ended."""
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
        self._lock = threading.Lock()
        self._strangers: dict[int, socket.socket] = {}
        """Another handle of each connection that is being greeted, the longest first."""
        self._numbers = itertools.count()
        self.refused = 0
        """How many were not let in."""
        self.trouble = ""
        """Why the last one was not."""

    def greet(self, plain: socket.socket) -> None:
        """Take a connection, in a thread of its own."""
        number = next(self._numbers)
        try:
            handle = plain.dup()  # TLS takes the other one's descriptor away
        except OSError:  # none is left
            plain.close()
            return
        with self._lock:
            self._strangers[number] = handle
            slow = [self._strangers.pop(min(self._strangers))] if len(self._strangers) > _STRANGERS else []
        for each in slow:
            _end(each)
        threading.Thread(target=self._greet, args=(number, plain), name="proxyfab-greeting", daemon=True).start()

    def _greet(self, number: int, plain: socket.socket) -> None:
        try:
            try:
                connection, hello = open_door(self._identity, plain, timeout=_GREETING)
            finally:
                with self._lock:
                    handle = self._strangers.pop(number, None)
                if handle is not None:
                    handle.close()
            self._take(connection, hello)
        except ProxyfabError as error:
            self.refused += 1
            self.trouble = str(error)
            plain.close()


def _end(handle: socket.socket) -> None:
    """End a connection that another thread waits for."""
    with handle, contextlib.suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


class Listener:
    """A TCP port that other sites dial.

    Args:
        greeter: Lets them in.
        address: Host and port; port 0 is any.
    """

    def __init__(self, greeter: Greeter, address: tuple[str, int]) -> None:
        self._greeter = greeter
        self._ended = Flag()
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
