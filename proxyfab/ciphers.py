"""Segments under a cipher: cut, sealed and opened by several threads, in memory of this process alone.

Leaves the order of things, and which key and which object, to `seal`. The package `cryptography` is imported at use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import MissingDependency, SealError
from proxyfab.keyring import Secret
from proxyfab.osio.memory import is_private
from proxyfab.osio.warm import Warm
from proxyfab.parallel import each, line
from proxyfab.wire.sealed import CHACHA, HEADER, TAG, Header

warm = Warm()
"""Where large objects are sealed and opened: used again once nobody looks at what was there."""
_CONTEXT = b"proxyfab seal 1"


def context_of(packed: bytes, realm: str, name: str) -> bytes:
    """All that an object is bound to; lengths first, so that no two contexts give the same bytes."""
    parts = [_CONTEXT, packed, realm.encode("utf-8", "surrogatepass"), name.encode("utf-8", "surrogatepass")]
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def nonce_of(number: int, header: Header) -> bytes:
    """A segment's number and whether it is the last."""
    return number.to_bytes(11, "big") + (b"\1" if number == header.segments - 1 else b"\0")


def segments_of(frames: Frames, header: Header) -> Iterator[list[memoryview]]:
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


def joined(piece: list[memoryview]) -> memoryview | bytes:
    """A segment in one piece: a copy of at most a megabyte where it lies in several buffers."""
    return piece[0] if len(piece) == 1 else b"".join(piece)


def encrypt_all(frames: Frames, header: Header, packed: bytes, cipher: Any) -> Frames:
    """The header and each segment encrypted, with its tag behind it."""
    pieces = list(segments_of(frames, header))
    if header.segments == 1:
        return Frames((packed, cipher.encrypt(nonce_of(0, header), joined(pieces[0]), None)))
    out = warm.take(header.total)
    out[:HEADER] = packed

    def encrypt(number: int) -> None:
        low = HEADER + number * header.stride
        room = out[low : min(low + header.stride, header.total)]
        cipher.encrypt_into(nonce_of(number, header), joined(pieces[number]), None, room)

    each(encrypt, header.segments, header.segment)
    return Frames.known((out.toreadonly(),), header.total)


def encrypt_pieces(frames: Frames, header: Header, packed: bytes, cipher: Any) -> Iterator[tuple[int, memoryview]]:
    """Like `encrypt_all`, for who stores each piece at its offset as soon as it is made.

    Segments are encrypted in memory of this process alone and copied from there: who could write where they are stored
    might change one before its tag is computed, and the tag would hold.
    """
    yield 0, memoryview(packed)
    pieces = list(segments_of(frames, header))

    def encrypt(number: int, room: memoryview) -> tuple[int, memoryview]:
        low = HEADER + number * header.stride
        made = room[: min(header.stride, header.total - low)]
        cipher.encrypt_into(nonce_of(number, header), joined(pieces[number]), None, made)
        return low, made

    yield from line(encrypt, header.segments, header.stride, warm.take)


def decrypt_all(sealed: Frames, header: Header, first: int, last: int, cipher: Any) -> Frames:
    """The content of segments `first` to `last`."""
    parts = list(_cut(sealed, header.stride))
    if len(parts) == 1:
        plain = decipher(cipher.decrypt, nonce_of(first, header), _copied(parts[0], bytearray(parts[0].nbytes)), None)
        return Frames((plain,))
    nbytes = sealed.nbytes - TAG * (last - first)
    out = warm.take(nbytes)

    spare: list[bytearray] = []  # one for each thread that works here

    def decrypt(number: int) -> None:
        low = number * header.segment
        room = out[low : min(low + header.segment, nbytes)]
        own = spare.pop() if spare else bytearray(header.stride)
        decipher(cipher.decrypt_into, nonce_of(first + number, header), _copied(parts[number], own), None, room)
        spare.append(own)

    each(decrypt, len(parts), header.segment)
    return Frames.known((out.toreadonly(),), nbytes)


def checked(sealed: Frames, header: Header, first: int, last: int, check: Callable[[int, memoryview], None]) -> Frames:
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


def proofs_in(frames: Frames, header: Header, length: int) -> bytes:
    """A copy of the proofs; what pads them is zero."""
    if frames.nbytes < header.start:
        raise SealError("The proofs of a sealed object were cut. Nothing of it was read.")
    found = frames.slice(HEADER, header.start - HEADER).tobytes()
    if any(found[length:]):
        raise broken()
    return found[:length]


def digest_of(piece: list[memoryview]) -> bytes:
    """SHA-256 of a segment."""
    from hashlib import sha256

    state = sha256()
    for view in piece:
        state.update(view)
    return state.digest()


def broken() -> SealError:
    """The one answer to all that does not verify, so that an attacker learns nothing from it."""
    return SealError(
        "A seal does not verify: the object was changed, belongs under another name or to another store, or was "
        "sealed with another key of this id. Nothing of it was read."
    )


# -- the package `cryptography`, imported at use -----------------------------------------------------------------------


def cipher_for(algorithm: int, master: bytes, salt: bytes, bound: bytes) -> Any:
    """A cipher under the object's own key."""
    hkdf, sha256, aes, chacha, _ = _cryptography()
    key = Secret(hkdf(sha256(), 32, salt, bound).derive(master))
    return chacha(key) if algorithm == CHACHA else aes(key)


def decipher(call: Callable[..., Any], *arguments: Any) -> Any:
    """`call(*arguments)`, a wrong tag told as `broken`."""
    try:
        return call(*arguments)
    except _cryptography()[4]:
        raise broken() from None  # InvalidTag says nothing more, and its traceback shows nothing but us


def signer_of(secret: bytes) -> Any:
    """What signs by an Ed25519 key."""
    _cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(secret)


def verify_signature(public: bytes, signature: bytes, message: bytes) -> None:
    """Raise `broken` unless the signature is the message's."""
    _cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        raise broken() from None


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
def has_aes() -> bool:
    """Whether the processor has instructions for AES; without, ChaCha20 is several times as fast."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return True
    return not flags or " aes" in flags[0]
