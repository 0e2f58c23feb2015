"""A site that is known and keeps to nothing: streams by hand, on which anything can be said and heard."""

from __future__ import annotations

import os
import struct
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from xxhash import xxh3_128

from proxyfab.keyring import Keyring
from proxyfab.link.doors import Hello, knock
from proxyfab.link.frames import HEADING, heading_of_letter, heading_of_segment, read_heading
from proxyfab.link.identity import Identity
from proxyfab.link.sending import Segment
from proxyfab.testing.gateways import listens
from proxyfab.testing.nodes import NodeServer
from proxyfab.wire import messages
from proxyfab.wire.messages import NOBODY, Message

SECRETS = {"nersc": bytes(range(32)), "ornl": bytes(range(1, 33))}


def public(site: str) -> str:
    """The key of one of these sites, as `--peer` takes it."""
    return b64encode(Ed25519PrivateKey.from_private_bytes(SECRETS[site]).public_key().public_bytes_raw()).decode()


FOR_EVER = struct.pack("<d56x", float("inf"))
_LENGTH = struct.Struct("!I")


class Liar:
    """A stream of a site to site aps.

    Args:
        server: The gateway of aps, which knows that site by its `public` key.
        site: One of `SECRETS`.
    """

    def __init__(self, server: NodeServer, site: str = "nersc") -> None:
        known = {"aps": Keyring(server.environment["PROXYFAB_KEYS"]).verifying("aps")}
        hello = Hello(site, os.urandom(16), 0)
        self.stream, _ = knock(Identity(site, SECRETS[site], known), "aps", listens(server), hello, timeout=20)
        self.stream.settimeout(20)

    def say(self, verb: str, fields: dict[str, Any], body: bytes = b"") -> None:
        """A letter."""
        head = messages.encode(verb, NOBODY, fields)
        text = _LENGTH.pack(len(head)) + head + body
        self.stream.sendall(heading_of_letter(len(text)) + text)

    def segment(self, transfer: int, offset: int, data: bytes, size: int) -> None:
        """A part of an object."""
        self.stream.sendall(heading_of_segment(Segment(transfer, offset, len(data)), size) + data)

    def small(self, transfer: int, data: bytes) -> None:
        """A small object."""
        self.say("some", {"t": [transfer], "n": [len(data)], "d": xxh3_128(data).digest()}, data)

    def hear(self) -> Iterator[Message]:
        """Letters, until the gateway ends the stream; segments are dropped."""
        while head := self._exactly(HEADING):
            heading = read_heading(head)
            text = self._exactly(heading.length)
            if heading.segment is None and text:
                (length,) = _LENGTH.unpack(text[:4])
                yield messages.decode([text[4 : 4 + length]])

    def _exactly(self, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            try:
                part = self.stream.recv(length - len(found))
            except OSError:
                return b""
            if not part:
                return b""
            found += part
        return bytes(found)

    def close(self) -> None:
        """End it."""
        self.stream.close()
