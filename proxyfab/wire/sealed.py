"""The form of sealed bytes: a header that says how they were sealed, proofs, and content in segments.

    offset  size  what (little-endian)
         0     4  magic `PFSL`
         4     1  version of the form
         5     1  algorithm (`ALGORITHMS`)
         6     1  a segment holds two to this power bytes of content; the last one what is left
         7     1  length of the key id
         8     8  length of the content in bytes
        16    16  salt, drawn for each object
        32    64  the key's id in ASCII, then zeros
        96        proofs: nothing where segments are encrypted; a tag of 16 bytes for each segment where they are
                  authenticated; a signature of 64 bytes and a digest of 32 for each segment where they are signed;
                  then zeros up to a multiple of 64
                  content: encrypted segments, each followed by its tag of 16 bytes; others as they are

Rules:
1. Offsets follow from the header, and the bytes that are there must be exactly as many as it says.
2. There is always a last segment, an empty one for empty content, so that nothing goes without a proof.
3. Nothing here is believed: whoever opens sealed bytes binds the whole header into their key or their signature.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from proxyfab.buffers import Frames
from proxyfab.errors import SealError

VERSION = 1
SIGN, AES, CHACHA, ED25519 = 1, 2, 3, 4
ALGORITHMS = {SIGN: "AES-256-GMAC", AES: "AES-256-GCM", CHACHA: "ChaCha20-Poly1305", ED25519: "Ed25519 over SHA-256"}
MODE_OF = {SIGN: "sign", AES: "encrypt", CHACHA: "encrypt-chacha20", ED25519: "ed25519"}
"""What URLs call them: `seal=encrypt:ID`."""
SEGMENT = 20
TAG, SALT, DIGEST, SIGNATURE = 16, 16, 32, 64
HEADER = 96

_MAGIC = b"PFSL"
_FORM = struct.Struct("<4sBBBBQ16s64s")
_ALIGNMENT = 64
_SEGMENTS = range(6, 31)
_LARGEST = 1 << 60
"""More than any place holds; all offsets stay numbers that a file knows."""


class Header(NamedTuple):
    """How an object was sealed, as its bytes claim; rule 3."""

    algorithm: int
    key_id: str
    nbytes: int
    """Bytes of content."""
    salt: bytes
    bits: int = SEGMENT

    @classmethod
    def parse(cls, frames: Frames) -> Header:
        """The header at the beginning of `frames`.

        Raises:
            SealError: These bytes are not sealed, damaged, or sealed in a form that this version does not know.
        """
        if frames.nbytes < HEADER:
            raise SealError("An object that must be sealed is not: it is shorter than a seal. Nothing of it was read.")
        first = frames.views[0]
        if first.nbytes < HEADER:
            first = frames.slice(0, HEADER).join()
        magic, version, algorithm, bits, length, nbytes, salt, name = _FORM.unpack_from(first)
        if magic != _MAGIC:
            raise SealError("An object that must be sealed is not. Nothing of it was read.")
        if version != VERSION or algorithm not in ALGORITHMS or bits not in _SEGMENTS or nbytes > _LARGEST:
            raise SealError(
                f"An object is sealed in version {version} with algorithm {algorithm}, which this proxyfab does not "
                f"know: upgrade it, or the object is damaged. Nothing of it was read."
            )
        key_id = name[:length].decode("latin-1")
        if not 0 < length <= len(name) or any(name[length:]) or not key_id.isascii() or not key_id.isprintable():
            raise SealError("The seal of an object names no key: it is damaged. Nothing of it was read.")
        return cls(algorithm, key_id, nbytes, salt, bits)

    def pack(self) -> bytes:
        """The inverse of `parse`: exactly these bytes are what a seal binds."""
        name = self.key_id.encode("ascii")
        return _FORM.pack(_MAGIC, VERSION, self.algorithm, self.bits, len(name), self.nbytes, self.salt, name)

    @property
    def mode(self) -> str:
        """What a store would ask for to get this seal, as it claims: `encrypt:lab-2026`."""
        return f"{MODE_OF[self.algorithm]}:{self.key_id}"

    @property
    def encrypts(self) -> bool:
        """Whether the content is unreadable without the key."""
        return self.algorithm in (AES, CHACHA)

    @property
    def segment(self) -> int:
        """Bytes of content in a segment."""
        return 1 << self.bits

    @property
    def segments(self) -> int:
        """Segments, the last one included."""
        return max(-(-self.nbytes // self.segment), 1)

    @property
    def start(self) -> int:
        """Where the content begins."""
        if self.encrypts:
            return HEADER
        proofs = TAG * self.segments if self.algorithm == SIGN else SIGNATURE + DIGEST * self.segments
        return -(-(HEADER + proofs) // _ALIGNMENT) * _ALIGNMENT

    @property
    def stride(self) -> int:
        """Bytes that a full segment takes."""
        return self.segment + (TAG if self.encrypts else 0)

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.start + self.nbytes + (TAG * self.segments if self.encrypts else 0)

    def expect(self, nbytes: int) -> None:
        """Refuse sealed bytes that are not as many as their header says."""
        if nbytes != self.total:
            raise SealError(
                f"A sealed object of {self.total} bytes came as {nbytes}: it was cut or lengthened. Nothing was read."
            )


def content_of(total: int, algorithm: int) -> int:
    """How much content `total` sealed bytes have, where nothing but their number is known; negative for none."""
    like = Header(algorithm, "", 0, b"")
    for segments in range(max((total - like.start) // like.stride - 1, 1), max(-(-total // like.segment), 1) + 1):
        nbytes = total - Header(algorithm, "", segments * like.segment, b"").start
        nbytes -= TAG * segments if like.encrypts else 0
        if max(-(-nbytes // like.segment), 1) == segments:
            return nbytes
    return -1


def is_sealed(frames: Frames) -> bool:
    """Whether these bytes begin like sealed ones."""
    return frames.nbytes >= HEADER and frames.slice(0, len(_MAGIC)).tobytes() == _MAGIC
