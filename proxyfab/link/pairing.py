"""What sites and a relay say to one another before bytes are passed on: short letters, each behind its length. Sans-IO.

    relay   challenge, nonce                           to who comes
    site    register, key, signature                   I am here: ring me when somebody calls
    site    call, key, signature, the other's key      connect me with that site
    site    answer, key, signature, token              I was rung
    relay   ring, token, the caller's key              to who is registered: somebody calls; come with an answer
    relay   ping; site: pong                           on a registration, now and then
    relay   go                                         from here on every byte is the other site's
    relay   no, words                                  and the end

A site is its public key, and shows by a signature of the nonce that it has the secret one. So nobody can register as
another, and a relay needs no names, no accounts and no secrets.

Rule: whatever bytes come in, a letter or an IntegrityError comes out; nothing longer than LONGEST is kept.
"""

from __future__ import annotations

import struct
from typing import Any

from proxyfab.errors import IntegrityError
from proxyfab.wire import messages
from proxyfab.wire.messages import NOBODY, Message

NONCE = 32
KEY = 32
SIGNATURE = 64
TOKEN = 16
LONGEST = 1024
"""Bytes of a letter at most."""
_LENGTH = struct.Struct("!H")
_PURPOSE = b"proxyfab relay 1\0"
_TARGET = {"register": 0, "call": KEY, "answer": TOKEN}


def written(verb: str, **fields: Any) -> bytes:
    """A letter."""
    text = messages.encode(verb, NOBODY, fields)
    return _LENGTH.pack(len(text)) + text


def challenged(nonce: bytes, verb: str, target: bytes) -> bytes:
    """What a site signs."""
    return b"".join([_PURPOSE, nonce, verb.encode(), b"\0", target])


class Claim:
    """What a site says of itself and of what it wants.

    Attributes:
        verb: `register`, `call` or `answer`.
        key: Its public key.
        target: The other's key, or the token.
    """

    __slots__ = ("key", "signature", "target", "verb")

    def __init__(self, letter: Message) -> None:
        self.verb = letter.verb
        if letter.verb not in _TARGET:
            raise IntegrityError(f"A relay is asked for {letter.verb[:40]!r}, which it does not know.")
        self.key = octets(letter, "key", KEY)
        self.signature = octets(letter, "signature", SIGNATURE)
        self.target = octets(letter, "target", _TARGET[letter.verb])


def octets(letter: Message, name: str, length: int) -> bytes:
    """A field of so many bytes.

    Raises:
        IntegrityError: It is none.
    """
    value = letter.fields.get(name)
    if value.__class__ is not bytes or len(value) != length:
        raise IntegrityError(f"A letter {letter.verb[:40]!r} at a relay is malformed: {name} is not {length} bytes.")
    return value


class Reading:
    """Letters out of bytes as they come."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def took(self, data: bytes) -> None:
        """So many bytes came."""
        self._kept += data

    @property
    def begun(self) -> bool:
        """Whether there is a part of a letter."""
        return bool(self._kept)

    @property
    def missing(self) -> int:
        """Bytes that are missing of what comes next; who reads no more than that reads nothing that is not ours."""
        if len(self._kept) < _LENGTH.size:
            return _LENGTH.size - len(self._kept)
        return max(_LENGTH.size + self._length() - len(self._kept), 0)

    def _length(self) -> int:
        (length,) = _LENGTH.unpack_from(self._kept)
        if not 0 < length <= LONGEST:
            raise IntegrityError(f"A letter of {length} bytes is none of a relay's.")
        return int(length)

    def next(self) -> Message | None:
        """The next letter; None where it is not all here."""
        if self.missing:
            return None
        end = _LENGTH.size + self._length()
        text = bytes(self._kept[_LENGTH.size : end])
        del self._kept[:end]
        return messages.decode([text])
