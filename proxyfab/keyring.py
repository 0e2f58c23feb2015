"""Keyring: secret and public keys by id, from the environment or from one directory; nothing else here holds keys.

Kinds: `symmetric` (32 bytes), `sign` and `verify` (Ed25519, secret and public), `curve` (ZeroMQ's CURVE, both halves),
and two lists of public keys: whom a server lets in (`peers`) and which server is which (`known_servers`).

Rules:
1. A key has an id; ids travel, keys never. A key under an id never changes: a new key gets a new id.
2. A secret is a `Secret`: it prints as `***` and refuses to pickle. No message, log or repr ever holds one.
3. Where they lie is for `keyfiles`: a secret that others could read is refused, and a list that others could write.
4. An id is checked before it becomes a file's or a variable's name.
"""

from __future__ import annotations

import os
import re
import secrets
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, NamedTuple

from proxyfab.errors import (
    AccessDenied,
    ConfigurationError,
    KeyExists,
    MissingDependency,
    SealError,
)
from proxyfab.keyfiles import KeyFiles
from proxyfab.secret import Hidden as _Hidden
from proxyfab.secret import Secret as Secret

KINDS = ("symmetric", "sign", "verify", "curve")
_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_HEADER = "proxyfab-key-1"
_VARIABLES = {
    "symmetric": "PROXYFAB_KEY_",
    "sign": "PROXYFAB_SIGN_",
    "verify": "PROXYFAB_VERIFY_",
    "curve": "PROXYFAB_CURVE_",
}


class Held(NamedTuple):
    """What `Keyring.held` knows of one key; never a secret."""

    kind: str
    id: str
    public: str
    """The public half, as it is given to others; `""` for a symmetric key, which has none."""
    where: str
    """The file or the environment variable that holds it."""


class Keyring:
    """Keys by id. Thread-safe; reads anew on each call, so those who seal many objects keep what they got.

    Args:
        directory: Where key files lie; by default `$PROXYFAB_KEYS`, or `~/.config/proxyfab/keys`.

    Raises:
        ConfigurationError: The directory begins with `~`, and this user has no home.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        home = directory or os.environ.get("PROXYFAB_KEYS") or "~/.config/proxyfab/keys"
        try:
            self.directory = Path(home).expanduser()
        except RuntimeError as error:
            raise ConfigurationError(f"{home} leads to no home: set PROXYFAB_KEYS to a directory for keys.") from error
        self._files = KeyFiles(self.directory)

    def __repr__(self) -> str:
        return f"Keyring({str(self.directory)!r})"

    # -- keys --------------------------------------------------------------------------------------------------------

    def symmetric(self, id: str) -> Secret:
        """32 bytes for encryption and message authentication.

        Raises:
            SealError: There is no such key here.
            AccessDenied: Its file could be read by others.
        """
        return Secret(_binary(self._need("symmetric", id)["secret"], id))

    def signing(self, id: str) -> Secret:
        """The 32 secret bytes of an Ed25519 key; raises as `symmetric`."""
        return Secret(_binary(self._need("sign", id)["secret"], id))

    def verifying(self, id: str) -> bytes:
        """The 32 public bytes of an Ed25519 key, also where only its secret half lies; raises as `symmetric`."""
        found = self._find("verify", id)
        if found is None and not self.has("sign", id):  # somebody else's: another one of that name would not be it
            found = self._need("verify", id)
        return _binary(found["public"], id) if found else _public_of(self.signing(id))

    def curve(self, id: str) -> tuple[bytes, Secret]:
        """Public and secret key for CURVE, in ZeroMQ's Z85 text.

        Raises:
            ConfigurationError: There is no such key here.
            AccessDenied: Its file could be read by others.
        """
        found = self._need("curve", id)
        secret = Secret(found["secret"].encode())
        return (found["public"].encode() if "public" in found else _zmq().curve_public(bytes(secret))), secret

    def has(self, kind: str, id: str) -> bool:
        """Whether a key of this kind lies here, readable or not."""
        return _variable(kind, id) in os.environ or self._path(kind, id).exists()

    def make(self, kind: str, id: str) -> Held:
        """A new random key; answers with its public half.

        Raises:
            KeyExists: There is one of this kind and id: a key never changes.
        """
        values: dict[str, str]
        if kind == "symmetric":
            values = {"secret": _Hidden(b64encode(secrets.token_bytes(32)).decode())}
        elif kind == "sign":
            seed = Secret(secrets.token_bytes(32))
            values = {"secret": _Hidden(b64encode(seed).decode()), "public": b64encode(_public_of(seed)).decode()}
        elif kind == "curve":
            public, secret = _zmq().curve_keypair()
            values = {"secret": _Hidden(secret.decode()), "public": public.decode()}
        else:
            raise ConfigurationError(f"A key of kind {kind!r} cannot be made; choose symmetric, sign or curve.")
        return self._add(kind, id, values)

    def add(self, kind: str, id: str, text: str) -> Held:
        """Take in a key that was made elsewhere: a key file's text, or for `verify` and `symmetric` the bare base64.

        Raises:
            KeyExists: There is one of this kind and id.
            ConfigurationError: The text is no key of this kind.
        """
        text = _Hidden(text.strip())
        if text.startswith(_HEADER):
            values = _parsed(text)
            if values.pop("kind", "") != kind:
                raise ConfigurationError(f"This text is a key file, but of another kind than {kind!r}.")
            values.pop("id", None)
        else:
            values = {"public" if kind == "verify" else "secret": text}
        return self._add(kind, id, _checked(kind, id, values))

    def remove(self, kind: str, id: str) -> bool:
        """Delete a key's file; False when there was none. What it sealed can then be opened nowhere but elsewhere."""
        try:
            self._path(kind, id).unlink()
        except FileNotFoundError:
            return False
        return True

    def held(self) -> list[Held]:
        """Every key here, by kind and id, with what may be shown of it."""
        found: list[Held] = []
        for kind, prefix in _VARIABLES.items():
            names = [name for name in os.environ if name.startswith(prefix)]
            found += [Held(kind, name.removeprefix(prefix).lower(), "", f"${name}") for name in names]
        for path in sorted(self.directory.iterdir()) if self.directory.is_dir() else ():
            kind = path.suffix[1:]
            if kind in KINDS and re.fullmatch(_ID, path.stem):
                found.append(Held(kind, path.stem, self._parsed(path, kind).get("public", ""), str(path)))
        return found

    # -- lists of public keys ------------------------------------------------------------------------------------------

    def peers(self, id: str) -> dict[bytes, str]:
        """The public CURVE keys that the server with key `id` lets in, each with its name."""
        return {key.encode(): name for key, name in self._files.rows(self._path("peers", id))}

    def allow(self, id: str, public: str | bytes, name: str = "") -> None:
        """Let a client with this public CURVE key in at the server with key `id`."""
        path, public, name = self._path("peers", id), _z85(public), _word(name)
        with self._files.alone():
            rows = [row for row in self._files.rows(path) if row[0] != public]
            self._files.write_rows(path, [*rows, (public, name or "-")])

    def server(self, address: str) -> bytes | None:
        """The public CURVE key that was noted for a server's address (`tcp://host:port`), None when none was."""
        return dict(self._files.rows(self.directory / "known_servers")).get(address, "").encode() or None

    def know(self, address: str, public: str | bytes) -> None:
        """Note the public CURVE key of the server at an address."""
        path, address, public = self.directory / "known_servers", _word(address), _z85(public)
        with self._files.alone():
            rows = [row for row in self._files.rows(path) if row[0] != address]
            self._files.write_rows(path, [*rows, (address, public)])

    # -- where they are ----------------------------------------------------------------------------------------------

    def _path(self, kind: str, id: str) -> Path:
        return self.directory / f"{check_id(id)}.{kind}"

    def _need(self, kind: str, id: str) -> dict[str, str]:
        found = self._find(kind, id)
        if found is None:
            error = ConfigurationError if kind == "curve" else SealError
            how = f"make it with `proxyfab keys make {kind} {id}`, or copy it from where it was made"
            if kind == "verify":
                told = f"`proxyfab keys show {id}` where it was made"
                how = f"take in what {told} tells with `proxyfab keys import verify {id} FILE`"
            raise error(
                f"There is no {kind} key {id!r} here, neither in {self.directory} nor in ${_variable(kind, id)}: {how}."
            )
        return found

    def _find(self, kind: str, id: str) -> dict[str, str] | None:
        path = self._path(kind, id)
        if _variable(kind, id) in os.environ:
            given = _Hidden(os.environ[_variable(kind, id)].strip())
            return _checked(kind, id, {"public" if kind == "verify" else "secret": given})
        try:
            values = self._parsed(path, kind)
        except FileNotFoundError:
            return None
        if values.get("kind") != kind or values.get("id") != id:
            raise AccessDenied(f"The key file {path} says that it holds another key than its name does: make it anew.")
        return _checked(kind, id, values)

    def _parsed(self, path: Path, kind: str) -> dict[str, str]:
        return _parsed(self._files.read(path, secret=kind != "verify"))

    def _add(self, kind: str, id: str, values: dict[str, str]) -> Held:
        path = self._path(kind, id)
        if not self._files.add(path, _written({"kind": kind, "id": id, **values})):
            raise KeyExists(f"There is a {kind} key {id!r} in {self.directory}; a new key gets a new id.")
        return Held(kind, id, values.get("public", ""), str(path))


def _variable(kind: str, id: str) -> str:
    return _VARIABLES.get(kind, "PROXYFAB_KEY_") + re.sub(r"[^A-Z0-9]", "_", check_id(id).upper())


def check_id(id: str) -> str:
    """An id that may name a file and a variable; raises ConfigurationError otherwise."""
    if not re.fullmatch(_ID, id):
        named = "1 to 64 letters, digits, '.', '_' and '-', a letter or digit first"
        raise ConfigurationError(f"{id!r} cannot name a key: use {named}.")
    return id


def _written(values: dict[str, str]) -> str:
    return _Hidden("\n".join([_HEADER, *(f"{name}: {value}" for name, value in values.items()), ""]))


def _parsed(text: str) -> dict[str, str]:
    if text.partition("\n")[0].strip() != _HEADER:
        raise ConfigurationError("This is not a key file of proxyfab's, or one of a newer version.")
    rows = (line.partition(":") for line in text.splitlines()[1:])
    return {name.strip(): _Hidden(value.strip()) for name, _, value in rows if name.strip()}


def _checked(kind: str, id: str, values: dict[str, str]) -> dict[str, str]:
    """The values, once they are a key of this kind; with the public half where it can be computed."""
    needed = "public" if kind == "verify" else "secret"
    if kind not in KINDS or needed not in values:
        raise ConfigurationError(f"This is no {kind} key: it has no {needed} half.")
    if kind == "curve":
        _z85(values["secret"])
        return values
    _binary(values[needed], id)
    return values


def _binary(text: str, id: str) -> bytes:
    """32 bytes from base64; the error does not repeat the text."""
    try:
        found = Secret(b64decode(text, validate=True))
    except ValueError:
        found = Secret()
    if len(found) != 32:
        raise ConfigurationError(f"The key {id!r} is not the base64 of 32 bytes.")
    return bytes(found)


def _z85(key: str | bytes) -> str:
    text = key.decode("ascii", "replace") if isinstance(key, bytes) else key
    if not re.fullmatch(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", text):
        raise ConfigurationError("A CURVE key is 40 characters of Z85, as `proxyfab keys show` prints them.")
    return text


def _word(text: str) -> str:
    if not text.isprintable() or " " in text:
        raise ConfigurationError(f"{text!r} cannot stand in a list of keys: leave out spaces and control characters.")
    return text


def _public_of(seed: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise MissingDependency("Signing needs the package 'cryptography': pip install 'proxyfab[seal]'") from error
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _zmq() -> Any:
    try:
        import zmq
    except ImportError as error:
        raise MissingDependency("CURVE keys need the package 'pyzmq': pip install 'proxyfab[zmq]'") from error
    return zmq
