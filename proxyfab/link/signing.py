"""Whether somebody has the key that he says: the one thing that a relay has to know of cryptography."""

from __future__ import annotations

from proxyfab.errors import MissingDependency


def signed(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether who has this Ed25519 key signed the data.

    Raises:
        MissingDependency: `cryptography` is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise MissingDependency("Sites are known by signatures: pip install 'proxyfab[seal]'") from error
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
