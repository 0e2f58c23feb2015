"""Claims as NATS has them: JSON that a key of Ed25519 has signed, and keys as text that begins with what they are for.

    A...    an account's public key: whoever answers for it signs with its secret half
    U...    a user's, here drawn by the server for one connection
    N...    a server's

Promises: nothing is believed that was not signed by the key that it names. Needs `cryptography`.
"""

from __future__ import annotations

import binascii
import json
from base64 import b32decode, b32encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from proxyfab.errors import IntegrityError, MissingDependency

ACCOUNT, USER, SERVER = "A", "U", "N"
_PREFIXES = {ACCOUNT: 0, USER: 20 << 3, SERVER: 13 << 3}
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_LARGEST = 1 << 20


def public_key(kind: str, key: bytes) -> str:
    """32 public bytes as text."""
    plain = bytes([_PREFIXES[kind]]) + key
    return b32encode(plain + binascii.crc_hqx(plain, 0).to_bytes(2, "little")).decode().rstrip("=")


def key_bytes(kind: str, text: str) -> bytes:
    """The inverse.

    Raises:
        IntegrityError: It is no such key.
    """
    try:
        found = b32decode(text + "=" * (-len(text) % 8))
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{text!r} is no key of NATS.") from error
    plain, check = found[:-2], found[-2:]
    if len(plain) != 33 or plain[0] != _PREFIXES[kind] or binascii.crc_hqx(plain, 0).to_bytes(2, "little") != check:
        raise IntegrityError(f"{text!r} is no key of NATS that begins with {kind}.")
    return plain[1:]


class Signer:
    """Signs claims as an account.

    Args:
        seed: The 32 secret bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = _ed25519().Ed25519PrivateKey.from_private_bytes(seed)
        self.public = public_key(ACCOUNT, self._key.public_key().public_bytes_raw())

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The text of claims; who issued them is added."""
        said = b".".join([_packed(_HEADER), _packed({**claims, "iss": self.public})])
        return b".".join([said, _text(self._key.sign(said))]).decode()


def read(text: str | bytes, kind: str) -> dict[str, Any]:
    """The claims that somebody's key of this kind has signed, who is their `iss`.

    Raises:
        IntegrityError: They are none, or were signed by nobody, or by somebody else.
    """
    said = text.encode() if isinstance(text, str) else bytes(text)
    if len(said) > _LARGEST or said.count(b".") != 2:
        raise IntegrityError("These are no claims.")
    try:
        header, body, signature = (urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in said.split(b"."))
        alg, claims = json.loads(header)["alg"], json.loads(body)
        issuer = claims["iss"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("These claims cannot be read.") from error
    if alg != _HEADER["alg"] or not isinstance(issuer, str):
        raise IntegrityError(f"Claims that are signed by {alg!r} are not NATS's.")
    from cryptography.exceptions import InvalidSignature

    try:
        _ed25519().Ed25519PublicKey.from_public_bytes(key_bytes(kind, issuer)).verify(
            signature, said.rpartition(b".")[0]
        )
    except InvalidSignature as error:
        raise IntegrityError(f"These claims were not signed by {issuer}, who they say they are of.") from error
    return claims  # type: ignore[no-any-return]  # a JSON object with "iss"


def _packed(claims: Mapping[str, Any]) -> bytes:
    return _text(json.dumps(claims, separators=(",", ":")).encode())


def _text(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingDependency(
            "Claims are signed with the package 'cryptography': pip install 'proxyfab[auth]'"
        ) from error
    return ed25519
