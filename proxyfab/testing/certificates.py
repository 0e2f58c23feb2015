"""Certificates for servers of tests: an authority that nobody else trusts, and one certificate of it."""

from __future__ import annotations

import datetime
import ipaddress
import os
from typing import Any


def write_certificates(ca: str, cert: str, key: str, host: str) -> None:
    """Write an authority's certificate, and a certificate with its key for an address, all PEM, valid for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    issuer, subject = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("proxyfab tests", host))
    ours, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def made(name: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool) -> bytes:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(host))])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours.public_key()), critical=False)
            .add_extension(_usage(x509, authority), critical=True)
        )
        return builder.sign(ours, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def write(path: str, data: bytes) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)

    private = theirs.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write(ca, made(issuer, ours.public_key(), authority=True))
    write(cert, made(subject, theirs.public_key(), authority=False))
    write(key, private)


def _usage(x509: Any, authority: bool) -> Any:
    """What a key is for; Python 3.13 and later want to be told."""
    never = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    signs = {"digital_signature": not authority, "key_cert_sign": authority, "crl_sign": authority}
    return x509.KeyUsage(**never, **signs, key_encipherment=not authority)
