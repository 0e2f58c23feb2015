"""Who a site is: its Ed25519 key, as TLS 1.3 wants to see it. Peers are known by their public keys and by nothing else.

A site shows a certificate that its key signed. Who knows the key makes the certificate's issuer from it and trusts
that one alone: no authority, no file beside the keyring's, nothing to renew. (The issuer's own signature is anybody's:
OpenSSL, as RFC 5280 section 6.1 has it, takes from a trust anchor its name and its key only.)

Rules:
1. Both sides show a certificate, and each is trusted for the one name that its key is pinned to.
2. No TLS below 1.3, no session tickets: a connection is what its handshake made it.
"""

from __future__ import annotations

import datetime
import errno
import math
import os
import ssl
from collections.abc import Mapping
from typing import Any

from proxyfab.errors import AccessDenied, ConfigurationError, MissingDependency

_BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)
"""RFC 5280 section 4.1.2.5: no end."""


class Identity:
    """What a site needs to show who it is and to know others. Pickles nothing; holds a secret.

    Args:
        name: The site's own name.
        secret: The 32 secret bytes of its Ed25519 key.
        peers: Public key of each site that may come or be dialled, by name.

    Raises:
        MissingDependency: `cryptography` is not installed.
    """

    def __init__(self, name: str, secret: bytes, peers: Mapping[str, bytes]) -> None:
        crypto = _cryptography()
        self.name = name
        key = self._key = crypto.Ed25519PrivateKey.from_private_bytes(secret)
        self.public: bytes = key.public_key().public_bytes_raw()
        self._peers = dict(peers)
        leaf = _certificate(f"{name} (now)", name, key.public_key(), key, authority=False)
        pem = key.private_bytes(crypto.Encoding.PEM, crypto.PrivateFormat.PKCS8, crypto.NoEncryption())
        self._chain = pem + leaf.public_bytes(crypto.Encoding.PEM)
        self._anchors = {peer: _anchor(peer, public) for peer, public in self._peers.items()}

    def __repr__(self) -> str:
        return f"Identity({self.name!r}, peers={sorted(self._peers)})"

    def sign(self, data: bytes) -> bytes:
        """Show that the secret key is here."""
        return bytes(self._key.sign(data))

    def public_of(self, peer: str) -> bytes:
        """The key of another site.

        Raises:
            ConfigurationError: It is not known.
        """
        if peer not in self._peers:
            raise _unknown(peer)
        return self._peers[peer]

    @property
    def known(self) -> frozenset[bytes]:
        """The keys of all other sites."""
        return frozenset(self._peers.values())

    def server(self) -> ssl.SSLContext:
        """For connections that come in, from any peer."""
        return self._context(ssl.PROTOCOL_TLS_SERVER, self._anchors)

    def client(self, peer: str) -> ssl.SSLContext:
        """For a connection to one peer.

        Raises:
            ConfigurationError: Its key is not known.
        """
        if peer not in self._anchors:
            raise _unknown(peer)
        return self._context(ssl.PROTOCOL_TLS_CLIENT, {peer: self._anchors[peer]})

    def _context(self, protocol: int, anchors: dict[str, bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.sslsocket_class = Secured
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        for anchor in anchors.values():
            context.load_verify_locations(cadata=anchor)
        _load(context, self._chain)
        return context

    def peer_of(self, connection: ssl.SSLSocket) -> str:
        """The site at the other end of a connection whose handshake is done.

        Raises:
            AccessDenied: It is none that is known here.
        """
        certificate: Any = connection.getpeercert() or {}
        names = [value for part in certificate.get("issuer", ()) for key, value in part if key == "commonName"]
        if len(names) != 1 or names[0] not in self._peers:
            raise AccessDenied(f"A site shows a certificate of {names}, which is none of {sorted(self._peers)}.")
        return str(names[0])


def _unknown(peer: str) -> ConfigurationError:
    return ConfigurationError(
        f"Site {peer!r} has no public key here: ask for it there (`proxyfab keys show {peer}`) and add it."
    )


def _load(context: ssl.SSLContext, chain: bytes) -> None:
    """Give a context its certificate and key, which it only takes from a file: from one that nobody else can open."""
    descriptor = os.memfd_create("proxyfab-identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _anchor(name: str, public: bytes) -> bytes:
    """What is trusted: that `name` has this key. Signed by a key that is forgotten at once."""
    crypto = _cryptography()
    key = crypto.Ed25519PublicKey.from_public_bytes(public)
    made = _certificate(name, name, key, crypto.Ed25519PrivateKey.generate(), authority=True)
    return bytes(made.public_bytes(crypto.Encoding.DER))


class Secured(ssl.SSLSocket):
    """An SSLSocket that does not stay open where the other end broke off before the handshake.

    CPython forgets to close it then (`SSLSocket._create`, 3.11 to 3.13), where it asks for the other end's name.
    """

    rtt = math.inf
    """Seconds of a round trip to the other end, through whatever lies in between; as the greeting showed it."""
    may = ""
    """What the other end said that we may do there, in words."""

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "it broke off") from error


def _certificate(subject: str, issuer: str, public: Any, signer: Any, *, authority: bool) -> Any:
    crypto = _cryptography()
    names = [
        crypto.x509.Name([crypto.x509.NameAttribute(crypto.NameOID.COMMON_NAME, each)]) for each in (subject, issuer)
    ]
    builder = crypto.x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1])
    builder = builder.public_key(public).serial_number(1).not_valid_before(_BEGIN).not_valid_after(_END)
    builder = builder.add_extension(
        crypto.x509.BasicConstraints(ca=authority, path_length=0 if authority else None), True
    )
    return builder.sign(signer, None)


class _Cryptography:
    """What is used of `cryptography`, imported with its first use."""

    def __init__(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from cryptography.x509.oid import NameOID

        self.x509, self.NameOID = x509, NameOID
        self.Encoding, self.PrivateFormat, self.NoEncryption = Encoding, PrivateFormat, NoEncryption
        self.Ed25519PrivateKey, self.Ed25519PublicKey = ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey


def _cryptography() -> _Cryptography:
    try:
        return _Cryptography()
    except ImportError as error:
        raise MissingDependency("Links between sites are encrypted: pip install 'proxyfab[seal]'") from error
