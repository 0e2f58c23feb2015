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
3. A nonce is never used twice: keys are drawn anew for each object, and nonces count.
4. What a store asks for is what it gets: another mode, another key id or no seal is a SealError, never tried anyway.

An older version of the same object, put back under its own name, verifies: a seal knows no time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, MissingDependency, SealError
from proxyfab.keyring import Keyring, Secret, check_id
from proxyfab.osio.memory import is_private
from proxyfab.osio.warm import Warm
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
_CONTEXT = b"proxyfab seal 1"

warm = Warm()
"""Where large objects are sealed and opened: used again once nobody looks at what was there."""

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
        """The sealed form of `frames`, bound to a realm and a name in it. Signed content is not copied.

        Raises:
            SealError: The key is not here.
        """
        header = Header(self._algorithm(), self.key_id, frames.nbytes, os.urandom(SALT), bits)
        packed = header.pack()
        bound = _bound(packed, realm, name)
        if header.algorithm == ED25519:
            return self._signed(frames, header, packed, bound)
        cipher = _cipher(header.algorithm, self._symmetric(), header.salt, bound)
        if header.encrypts:
            return _encrypted(frames, header, packed, cipher)
        pieces = list(_pieces(frames, header))
        tags = bytearray(header.start - HEADER)

        def tag(number: int) -> None:
            proof = cipher.encrypt(_nonce(number, header), b"", _one(pieces[number]))
            tags[number * TAG : number * TAG + TAG] = proof

        each(tag, header.segments, header.segment)
        return Frames((packed, tags, *frames.views))

    def _signed(self, frames: Frames, header: Header, packed: bytes, bound: bytes) -> Frames:
        pieces = list(_pieces(frames, header))
        digests = [b""] * header.segments

        def digest(number: int) -> None:
            digests[number] = _digest(pieces[number])

        each(digest, header.segments, header.segment)
        table = b"".join(digests)
        proof = _signer(self._signing()).sign(bound + table)
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
        return self._opened(frames, 0, header, 0, header.segments, _bound(header.pack(), realm, name), frames)

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
        content = self._opened(body, low, header, first, last, _bound(header.pack(), realm, name), proofs)
        base = first * header.segment
        return content.slice(max(offset - base, 0), max(end - offset, 0)) if offset < end else Frames()

    def accept(self, frames: Frames) -> Header:
        """The header of sealed bytes, once it is what this Seal asks for (rule 4)."""
        header = Header.parse(frames)
        if header.algorithm not in MODES[self.mode] or header.key_id != self.key_id:
            raise SealError(
                f"This store asks for the seal {self}, and an object is sealed otherwise (algorithm "
                f"{header.algorithm}, key id {header.key_id!r}). Nothing of it was read."
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
        cipher = _cipher(header.algorithm, self._symmetric(), header.salt, bound)
        if header.encrypts:
            return _decrypted(sealed, header, first, last, cipher)
        tags = _proofs(proofs, header, TAG * header.segments)

        def check(number: int, piece: memoryview) -> None:
            _decipher(cipher.decrypt, _nonce(number, header), tags[number * TAG : (number + 1) * TAG], piece)

        return _owned(sealed, header, first, last, check)

    def _verified(self, sealed: Frames, header: Header, first: int, last: int, bound: bytes, proofs: Frames) -> Frames:
        found = _proofs(proofs, header, SIGNATURE + DIGEST * header.segments)
        table = found[SIGNATURE:]
        _verify(self._verifying(), found[:SIGNATURE], bound + table)

        def check(number: int, piece: memoryview) -> None:
            if _digest([piece]) != table[number * DIGEST : (number + 1) * DIGEST]:
                raise _broken()

        return _owned(sealed, header, first, last, check)

    # -- keys --------------------------------------------------------------------------------------------------------

    def _algorithm(self) -> int:
        if self.mode == "encrypt":
            return AES if _has_aes() else CHACHA
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


# -- segments --------------------------------------------------------------------------------------------------------


def _bound(packed: bytes, realm: str, name: str) -> bytes:
    """All that an object is bound to; lengths first, so that no two contexts give the same bytes."""
    parts = [_CONTEXT, packed, realm.encode("utf-8", "surrogatepass"), name.encode("utf-8", "surrogatepass")]
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def _nonce(number: int, header: Header) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if number == header.segments - 1 else b"\0")


def _pieces(frames: Frames, header: Header) -> Iterator[list[memoryview]]:
    """The content, cut into segments: each the views that it lies in."""
    piece: list[memoryview] = []
    room, done = header.segment, 0
    for view in frames.views:
        while view.nbytes:
            part, view = view[:room], view[room:]
            piece.append(part)
            room -= part.nbytes
            if not room:
                yield piece
                piece, room, done = [], header.segment, done + 1
    if done < header.segments:
        yield piece


def _one(piece: list[memoryview]) -> memoryview | bytes:
    """A segment in one piece: a copy of at most a megabyte where it lies in several buffers."""
    return piece[0] if len(piece) == 1 else b"".join(piece)


def _encrypted(frames: Frames, header: Header, packed: bytes, cipher: Any) -> Frames:
    pieces = list(_pieces(frames, header))
    if header.segments == 1:
        return Frames((packed, cipher.encrypt(_nonce(0, header), _one(pieces[0]), None)))
    out = warm.take(header.total)
    out[:HEADER] = packed

    def encrypt(number: int) -> None:
        low = HEADER + number * header.stride
        room = out[low : min(low + header.stride, header.total)]
        cipher.encrypt_into(_nonce(number, header), _one(pieces[number]), None, room)

    each(encrypt, header.segments, header.segment)
    return Frames.known((out.toreadonly(),), header.total)


def _decrypted(sealed: Frames, header: Header, first: int, last: int, cipher: Any) -> Frames:
    parts = list(_cut(sealed, header.stride))
    if len(parts) == 1:
        plain = _decipher(cipher.decrypt, _nonce(first, header), _copied(parts[0], bytearray(parts[0].nbytes)), None)
        return Frames((plain,))
    nbytes = sealed.nbytes - TAG * (last - first)
    out = warm.take(nbytes)

    spare: list[bytearray] = []  # one for each thread that works here

    def decrypt(number: int) -> None:
        low = number * header.segment
        room = out[low : min(low + header.segment, nbytes)]
        own = spare.pop() if spare else bytearray(header.stride)
        _decipher(cipher.decrypt_into, _nonce(first + number, header), _copied(parts[number], own), None, room)
        spare.append(own)

    each(decrypt, len(parts), header.segment)
    return Frames.known((out.toreadonly(),), nbytes)


def _owned(sealed: Frames, header: Header, first: int, last: int, check: Callable[[int, memoryview], None]) -> Frames:
    """The content, each segment checked where nobody else can change it (rule 2)."""
    parts = list(_cut(sealed, header.segment)) or [Frames()]
    if all(is_private(view) for view in sealed.views):
        each(lambda number: check(first + number, parts[number].join()), last - first, header.segment)
        return sealed
    out = warm.take(sealed.nbytes)

    def verify(number: int) -> None:
        low = number * header.segment
        end = parts[number].copy_into(out, low)  # the copy that rule 2 asks for
        check(first + number, out[low:end])

    each(verify, last - first, header.segment)
    return Frames.known((out.toreadonly(),), sealed.nbytes)


def _cut(frames: Frames, size: int) -> Iterator[Frames]:
    if len(frames.views) == 1:
        view = frames.views[0]
        for low in range(0, view.nbytes, size):
            part = view[low : low + size]
            yield Frames.known((part,), part.nbytes)
        return
    for low in range(0, frames.nbytes, size):
        yield frames.slice(low, size)


def _copied(part: Frames, own: bytearray) -> memoryview:
    """A sealed segment in this process's own memory and in one piece; a copy, to `own`, unless it is there already."""
    if len(part.views) == 1 and is_private(part.views[0]):
        return part.views[0]
    room = memoryview(own)
    return room[: part.copy_into(room)]


def _proofs(frames: Frames, header: Header, length: int) -> bytes:
    """A copy of the proofs; what pads them is zero."""
    if frames.nbytes < header.start:
        raise SealError("The proofs of a sealed object were cut. Nothing of it was read.")
    found = frames.slice(HEADER, header.start - HEADER).tobytes()
    if any(found[length:]):
        raise _broken()
    return found[:length]


def _digest(piece: list[memoryview]) -> bytes:
    from hashlib import sha256

    state = sha256()
    for view in piece:
        state.update(view)
    return state.digest()


def _broken() -> SealError:
    return SealError(
        "A seal does not verify: the object was changed, belongs under another name or to another store, or was "
        "sealed with another key of this id. Nothing of it was read."
    )


# -- the package `cryptography`, imported at use -----------------------------------------------------------------------


def _cipher(algorithm: int, master: bytes, salt: bytes, bound: bytes) -> Any:
    """A cipher under the object's own key."""
    hkdf, sha256, aes, chacha, _ = _cryptography()
    key = Secret(hkdf(sha256(), 32, salt, bound).derive(master))
    return chacha(key) if algorithm == CHACHA else aes(key)


def _decipher(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except _cryptography()[4]:
        raise _broken() from None  # InvalidTag says nothing more, and its traceback shows nothing but us


def _signer(secret: bytes) -> Any:
    _cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(secret)


def _verify(public: bytes, signature: bytes, message: bytes) -> None:
    _cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        raise _broken() from None


@cache
def _cryptography() -> tuple[Any, ...]:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise MissingDependency("A seal needs the package 'cryptography': pip install 'proxyfab[seal]'") from error
    return HKDF, SHA256, AESGCM, ChaCha20Poly1305, InvalidTag


@cache
def _has_aes() -> bool:
    """Whether the processor has instructions for AES; without, ChaCha20 is several times as fast."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return True
    return not flags or " aes" in flags[0]
