"""Somebody at a relay who is not passed on yet: a stranger, a registered site, or a call that waits."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from proxyfab.link.pairing import Claim, Reading
from proxyfab.wire.messages import Message


class Visitor:
    """One connection; not blocking.

    Args:
        connection: Its socket.
        nonce: What it has to sign.
        now: Monotonic seconds.
    """

    def __init__(self, connection: socket.socket, nonce: bytes, now: float) -> None:
        self.connection = connection
        self.descriptor = connection.fileno()
        self.nonce = nonce
        self.claim: Claim | None = None
        """Who it is, once it has shown that."""
        self.token = b""
        """Of the call that waits here."""
        self.since = self.heard = self.said = now
        self._reading = Reading()

    @property
    def unread(self) -> bool:
        """Whether there is a part of a letter."""
        return self._reading.begun

    def letters(self, now: float) -> Iterator[Message]:
        """What has come; reads not a byte behind a letter, which may be the other site's.

        Raises:
            OSError: It has gone.
            IntegrityError: It talks nonsense.
        """
        while True:
            while self._reading.missing:
                try:
                    data = self.connection.recv(self._reading.missing)
                except BlockingIOError:
                    return
                if not data:
                    raise ConnectionResetError("it closed the connection")
                self.heard = now
                self._reading.took(data)
            letter = self._reading.next()
            if letter is not None:
                yield letter
            if self.claim is not None and self.claim.verb != "register":
                return  # what comes now is for the other site

    def say(self, letter: bytes) -> None:
        """Send a letter; who does not read a hundred bytes has gone.

        Raises:
            OSError: It has gone.
        """
        try:
            sent = self.connection.send(letter)
        except BlockingIOError:
            sent = 0
        if sent < len(letter):
            raise ConnectionResetError("it does not read")
        self.said = time.monotonic()
