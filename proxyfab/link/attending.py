"""A site at a relay: it calls others there, and is there to be called. What the relay passes on it cannot read.

Promises: no step takes longer than the time there is; a registration that breaks is made anew until the end; nothing is
believed of what a relay says, as whoever it connects us with has to prove who he is (`doors`).
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Container, Iterator

from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError, ResolveTimeout
from proxyfab.link.dialling import Dial, usual
from proxyfab.link.identity import Identity
from proxyfab.link.pairing import KEY, NONCE, TOKEN, Reading, challenged, octets, written
from proxyfab.osio import sockets
from proxyfab.waiting import Flag
from proxyfab.wire.messages import Message

_DIAL = 10.0
_FAREWELL = 1.0
"""Seconds that an end waits for a dial that is under way; it ends by itself."""
_SILENCE = 45.0
"""Seconds without a word of the relay's after which a registration counts as broken; it pings three times as often."""
_LEAST, _LONGEST = 0.1, 10.0
_RUNG = 64
"""Calls that are being answered at most; a relay may ring as often as it likes."""


def call(
    identity: Identity, relay: tuple[str, int], target: bytes, timeout: float, dial: Dial = usual
) -> socket.socket:
    """A connection to the site with this public key, through a relay.

    Raises:
        ConnectorError: The relay is not there, or that site is not at it.
        ResolveTimeout: It took longer than `timeout` seconds.
    """
    return _connected(identity, relay, "call", target, timeout, dial)


def _connected(
    identity: Identity, relay: tuple[str, int], verb: str, target: bytes, timeout: float, dial: Dial
) -> socket.socket:
    ends = time.monotonic() + timeout
    with _translated(relay, timeout):
        connection = _presented(identity, relay, verb, target, ends, dial)
        try:
            _hear(connection, Reading(), ends, "go")
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection


def _presented(
    identity: Identity, relay: tuple[str, int], verb: str, target: bytes, ends: float, dial: Dial
) -> socket.socket:
    """A connection to a relay that knows who we are and what we want."""
    connection = dial(*relay, max(ends - time.monotonic(), 0.001))
    try:
        sockets.tune(connection, silence=5, lost=20, again=1)
        nonce = octets(_hear(connection, Reading(), ends, "challenge"), "nonce", NONCE)
        signature = identity.sign(challenged(nonce, verb, target))
        connection.settimeout(max(ends - time.monotonic(), 0.001))
        connection.sendall(written(verb, key=identity.public, signature=signature, target=target))
    except BaseException:
        connection.close()
        raise
    return connection


def _hear(connection: socket.socket, reading: Reading, ends: float, *wanted: str) -> Message:
    """The next letter, which is one of those that are wanted, and not a byte of what comes behind it."""
    while (letter := reading.next()) is None:
        connection.settimeout(max(ends - time.monotonic(), 0.001))
        data = connection.recv(reading.missing)
        if not data:
            raise ConnectionResetError("it closed the connection")
        reading.took(data)
    if letter.verb == "no":
        raise ConnectorError(f"The relay refuses: {letter.text('why', '')[:500]}")
    if letter.verb not in wanted:
        raise IntegrityError(f"A relay says {letter.verb[:40]!r} where {wanted[0]!r} was to come.")
    return letter


@contextlib.contextmanager
def _translated(relay: tuple[str, int], timeout: float) -> Iterator[None]:
    try:
        yield
    except ProxyfabError:
        raise
    except TimeoutError as error:
        raise ResolveTimeout(f"The relay at {relay[0]}:{relay[1]} did not connect us within {timeout:g} s.") from error
    except OSError as error:
        raise ConnectorError(
            f"The relay at {relay[0]}:{relay[1]} cannot be used: {error.strerror or error}. Is it up, and is the port "
            "right?"
        ) from error


class Attendance:
    """A site that can be called at a relay, as long as this lives.

    Args:
        identity: Who it is.
        relay: Host and port.
        known: Public keys whose calls are answered.
        greet: Gets the connections of those who call.
        dial: Makes connections.
    """

    def __init__(
        self,
        identity: Identity,
        relay: tuple[str, int],
        known: Container[bytes],
        greet: Callable[[socket.socket], None],
        dial: Dial = usual,
    ) -> None:
        self._identity, self.relay = identity, relay
        self._known, self._greet, self._dial = known, greet, dial
        self._ended = Flag()
        self._connection: socket.socket | None = None
        self._room = threading.Semaphore(_RUNG)
        self.here = False
        """Whether it is registered now."""
        self.trouble = ""
        """Why the last attempt failed."""
        self._thread = threading.Thread(target=self._run, name="proxyfab-attending", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = _LEAST
        while not self._ended.is_set():
            try:
                with _translated(self.relay, _DIAL):
                    self._attend()
            except ProxyfabError as error:
                self.trouble = str(error)
            pause = _LEAST if self.here else min(2 * pause, _LONGEST)
            self.here = False
            self._ended.wait(random.uniform(pause / 2, pause))

    def _attend(self) -> None:
        ends = time.monotonic() + _DIAL
        connection = _presented(self._identity, self.relay, "register", b"", ends, self._dial)
        self._connection = connection
        with connection:
            reading = Reading()
            while not self._ended.is_set():
                letter = _hear(connection, reading, time.monotonic() + _SILENCE, "ping", "ring")
                self.here, self.trouble = True, ""
                if letter.verb == "ping":
                    connection.sendall(written("pong"))
                elif octets(letter, "from", KEY) in self._known and self._room.acquire(blocking=False):
                    token = octets(letter, "token", TOKEN)
                    threading.Thread(target=self._answer, args=(token,), name="proxyfab-answer", daemon=True).start()

    def _answer(self, token: bytes) -> None:
        try:
            connection = _connected(self._identity, self.relay, "answer", token, _DIAL, self._dial)
        except ProxyfabError as error:
            self.trouble = str(error)
        else:
            self._greet(connection)
        finally:
            self._room.release()

    def close(self) -> None:
        """Be there no more."""
        self._ended.set()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(_FAREWELL)
