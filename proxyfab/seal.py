"""Seal: bytes that only who has the key can have written, and, encrypted, only who has it can read.

    encrypt, encrypt-chacha20   confidential and authentic; one symmetric key. AES-256-GCM, or ChaCha20-Poly1305 where
                                the processor has no instructions for AES, or where asked for
    sign                        authentic; one symmetric key. AES-256-GMAC: who can verify can also sign
    ed25519                     authentic; who verifies needs just the public key

Each object has a key of its own, HKDF-SHA256 (RFC 5869) of the master key, a random salt, and as its `info` everything
that the object is bound to: the whole header, the realm (its store's namespace) and its id. Segments are sealed with
their number and a last flag as the nonce: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015), as
Google's Tink has it. So whatever is cut off, exchanged, moved to another name, taken from another store or relabelled
does not verify. Ed25519 signs the same context with the SHA-256 digest of each segment.

Rules:
1. Nothing of an object is handed out before all of what is handed out was verified.
2. What is verified is this process's own memory: mapped bytes, which others could change in between, are copied first.
   So is what is encrypted, and copied out behind its tag.
3. A nonce is never used twice: keys are drawn anew for each sealing of an object, and nonces count.
4. What a store asks for is what it gets: another mode, another key id or no seal is a SealError, never tried anyway.

An older version of the same object, put back under its own name, verifies: a seal knows no time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from proxyfab.buffers import Frames, Made, MadeFrames
from proxyfab.ciphers import (
    broken,
    checked,
    cipher_for,
    context_of,
    decipher,
    decrypt_all,
    digest_of,
    encrypt_all,
    encrypt_pieces,
    has_aes,
    joined,
    nonce_of,
    proofs_in,
    segments_of,
    signer_of,
    verify_signature,
)
from proxyfab.errors import ConfigurationError, SealError
from proxyfab.keyring import Keyring, check_id
from proxyfab.parallel import each
from proxyfab.wire.sealed import AES, CHACHA, DIGEST, ED25519, HEADER, SALT, SEGMENT, SIGN, SIGNATURE, TAG, Header

MODES = {
    "encrypt": (AES, CHACHA),
    "encrypt-chacha20": (AES, CHACHA),
    "sign": (SIGN,),
    "ed25519": (ED25519,),
}
"""What each mode accepts. Both ciphers under one key are sound: the header, hence the cipher, is bound into the key."""
DEFAULT_ID = "default"

Read = Callable[[int, int], Frames | None]


class Seal:
    """Seals and opens bytes under one key. Thread-safe.

    Args:
        mode: `"encrypt"`, `"encrypt-chacha20"`, `"sign"` or `"ed25519"`.
        key_id: Which key of the keyring.
        keyring: Where keys are; by default this user's. It does not travel: elsewhere the id is looked up in the
            keyring there.
    """

    def __init__(self, mode: str, key_id: str = DEFAULT_ID, keyring: Keyring | None = None) -> None:
        if mode not in MODES:
            raise ConfigurationError(f"There is no seal {mode!r}; choose one of {', '.join(MODES)}.")
        self.mode = mode
        self.key_id = check_id(key_id)
        self._keyring = keyring
        self._secret: bytes | None = None
        self._public: bytes | None = None

    @classmethod
    def of(cls, seal: object) -> Seal:
        """The Seal that a store's `seal=` asks for: itself, or `"mode"` or `"mode:key id"`."""
        if isinstance(seal, Seal):
            return seal
        if not isinstance(seal, str):
            raise ConfigurationError(f"A seal is a text such as 'encrypt:lab-2026', or a Seal, not {seal!r}.")
        mode, _, key_id = seal.partition(":")
        return cls(mode, key_id or DEFAULT_ID)

    def __str__(self) -> str:
        return f"{self.mode}:{self.key_id}"

    def __repr__(self) -> str:
        return f"Seal({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Seal, (self.mode, self.key_id)

    # -- sealing -----------------------------------------------------------------------------------------------------

    def seal(self, frames: Frames, realm: str, name: str, *, bits: int = SEGMENT) -> Frames:
        """The sealed form of `frames`, bound to a realm and a name in it. Signed content is not copied, and what is
        encrypted may be read while it is stored.

        Raises:
            SealError: The key is not here.
        """
        algorithm = self._algorithm()
        if algorithm == ED25519:
            header, packed = self._header(algorithm, frames, bits)
            return self._signed(frames, header, packed, context_of(packed, realm, name))
        secret = self._symmetric()

        def begin() -> tuple[Header, bytes, Any]:
            header, packed = self._header(algorithm, frames, bits)
            return header, packed, cipher_for(algorithm, secret, header.salt, context_of(packed, realm, name))

        header, packed, cipher = begin()
        if header.encrypts and header.segments == 1:
            return encrypt_all(frames, header, packed, cipher)
        if header.encrypts:  # anew for each who stores it: should the content change in between, no nonce comes twice
            made = Made(header.total, lambda: encrypt_pieces(frames, *begin()))
            return MadeFrames(made, lambda: encrypt_all(frames, *begin()))
        pieces = list(segments_of(frames, header))
        tags = bytearray(header.start - HEADER)

        def tag(number: int) -> None:
            proof = cipher.encrypt(nonce_of(number, header), b"", joined(pieces[number]))
            tags[number * TAG : number * TAG + TAG] = proof

        each(tag, header.segments, header.segment)
        return Frames((packed, tags, *frames.views))

    def _header(self, algorithm: int, frames: Frames, bits: int) -> tuple[Header, bytes]:
        header = Header(algorithm, self.key_id, frames.nbytes, os.urandom(SALT), bits)
        return header, header.pack()

    def _signed(self, frames: Frames, header: Header, packed: bytes, bound: bytes) -> Frames:
        pieces = list(segments_of(frames, header))
        digests = [b""] * header.segments

        def digest(number: int) -> None:
            digests[number] = digest_of(pieces[number])

        each(digest, header.segments, header.segment)
        table = b"".join(digests)
        proof = signer_of(self._signing()).sign(bound + table)
        return Frames((packed, (proof + table).ljust(header.start - HEADER, b"\0"), *frames.views))

    # -- opening -----------------------------------------------------------------------------------------------------

    def open(self, frames: Frames, realm: str, name: str) -> Frames:
        """What was sealed, verified.

        Raises:
            SealError: It is not sealed, not as this Seal asks for, damaged, or not what belongs under this name; or the
                key is not here.
        """
        header = self.accept(frames)
        header.expect(frames.nbytes)
        return self._opened(frames, 0, header, 0, header.segments, context_of(header.pack(), realm, name), frames)

    def open_range(self, read: Read, offset: int, length: int, realm: str, name: str) -> Frames | None:
        """The bytes `[offset, offset + length)` of what was sealed, verified; only their segments are read.

        Args:
            read: Reads a part of the sealed bytes; None where the object is missing.
            offset: Of the first byte.
            length: How many; cut at the end.
            realm: As it was sealed.
            name: As it was sealed.
        """
        head = read(0, HEADER)
        if head is None:
            return None
        header = self.accept(head)
        end = min(offset + length, header.nbytes)
        first = min(offset >> header.bits, header.segments - 1)  # one segment even for nothing: it proves the length
        last = max(first + 1, min(-(-end // header.segment), header.segments))
        low = header.start + first * header.stride
        body = read(low, min(last * header.stride + header.start, header.total) - low)
        proofs = head if header.encrypts else read(0, header.start)
        if body is None or proofs is None:
            return None
        content = self._opened(body, low, header, first, last, context_of(header.pack(), realm, name), proofs)
        base = first * header.segment
        return content.slice(max(offset - base, 0), max(end - offset, 0)) if offset < end else Frames()

    def accept(self, frames: Frames) -> Header:
        """The header of sealed bytes, once it is what this Seal asks for (rule 4)."""
        header = Header.parse(frames)
        if header.algorithm not in MODES[self.mode] or header.key_id != self.key_id:
            raise SealError(
                f"This store asks for the seal {self}, and an object is sealed as {header.mode}: open its store with "
                "that, if you trust it. Nothing of it was read."
            )
        return header

    def _opened(
        self, body: Frames, low: int, header: Header, first: int, last: int, bound: bytes, proofs: Frames
    ) -> Frames:
        """The content of segments `first` to `last` from `body`, which begins at byte `low` of what is sealed."""
        start = header.start + first * header.stride - low
        stop = min(header.start + last * header.stride, header.total) - low
        if body.nbytes < stop:
            raise SealError(f"{stop} bytes of a sealed object came as {body.nbytes}: it was cut. Nothing was read.")
        sealed = body.slice(start, stop - start)
        if header.algorithm == ED25519:
            return self._verified(sealed, header, first, last, bound, proofs)
        cipher = cipher_for(header.algorithm, self._symmetric(), header.salt, bound)
        if header.encrypts:
            return decrypt_all(sealed, header, first, last, cipher)
        tags = proofs_in(proofs, header, TAG * header.segments)

        def check(number: int, piece: memoryview) -> None:
            decipher(cipher.decrypt, nonce_of(number, header), tags[number * TAG : (number + 1) * TAG], piece)

        return checked(sealed, header, first, last, check)

    def _verified(self, sealed: Frames, header: Header, first: int, last: int, bound: bytes, proofs: Frames) -> Frames:
        found = proofs_in(proofs, header, SIGNATURE + DIGEST * header.segments)
        table = found[SIGNATURE:]
        verify_signature(self._verifying(), found[:SIGNATURE], bound + table)

        def check(number: int, piece: memoryview) -> None:
            if digest_of([piece]) != table[number * DIGEST : (number + 1) * DIGEST]:
                raise broken()

        return checked(sealed, header, first, last, check)

    # -- keys --------------------------------------------------------------------------------------------------------

    def _algorithm(self) -> int:
        if self.mode == "encrypt":
            return AES if has_aes() else CHACHA
        return MODES[self.mode][-1]

    def _keys(self) -> Keyring:
        return self._keyring or Keyring()

    def _symmetric(self) -> bytes:
        if self._secret is None:
            self._secret = self._keys().symmetric(self.key_id)
        return self._secret

    def _signing(self) -> bytes:
        if self._secret is None:
            self._secret = self._keys().signing(self.key_id)
        return self._secret

    def _verifying(self) -> bytes:
        if self._public is None:
            self._public = self._keys().verifying(self.key_id)
        return self._public
