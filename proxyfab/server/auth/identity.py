"""Who somebody is, by what he said when he connected: a password, or a token of somebody who is believed.

Promises: nobody is anybody without proof; a refusal says why, to who runs the service, and holds no secret. A verifier
is a function with a name, registered here or an entry point of the group `proxyfab.verifiers`; a description names it
and cannot import anything else. Needs `bcrypt` for hashes of passwords and `pyjwt` for an OpenID provider's tokens.
"""

from __future__ import annotations

import hmac
import math
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

from proxyfab import registry
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError, MissingDependency, ProxyfabError
from proxyfab.events.people import People, Tokens

Verifier: TypeAlias = "Callable[[str], tuple[str, float]]"
"""From a token to the principal that it is of, and when it ends in seconds since 1970; raises AccessDenied."""

_registered: dict[str, Verifier] = {}
_FETCH = 3.0
"""Seconds that a provider has to say its keys."""


class Said(NamedTuple):
    """What somebody said when he connected."""

    user: str = ""
    password: str = ""
    token: str = ""


class Entered(NamedTuple):
    """Who he is.

    Attributes:
        principal: By name.
        until: When his proof ends, in seconds since 1970.
    """

    principal: str
    until: float


def register_verifier(name: str, verifier: Verifier) -> None:
    """Let `[tokens.X] verifier = name` in this process mean this function."""
    _registered[name] = verifier


class Identities:
    """Knows people. Thread-safe; asking may take time.

    Args:
        people: Their description.
    """

    def __init__(self, people: People) -> None:
        self._people = people
        self._verifiers = {name: _verifier(name, tokens) for name, tokens in people.tokens.items()}
        hashes = [each.password for each in people.principals.values() if each.password.startswith("$")]
        self._nobody = hashes[0] if hashes else ""

    def enter(self, said: Said) -> Entered:
        """Who this is.

        Raises:
            AccessDenied: Nobody, and why.
        """
        if said.token:
            return self._by_token(said.token)
        if said.user:
            return self._by_password(said.user, said.password)
        raise AccessDenied("nobody: neither a user nor a token was said")

    def _by_password(self, user: str, password: str) -> Entered:
        principal = self._people.principals.get(user)
        known = principal.password if principal is not None else ""
        if known.startswith("env:"):
            secret = os.environ.get(known[4:], "")
            if not secret:
                raise AccessDenied(f"{user}: {known[4:]} is not set where this service runs")
            right = hmac.compare_digest(secret.encode(), password.encode())
        else:  # also for nobody, so that it takes as long as for somebody
            right = _matches(password, known or self._nobody) and bool(known)
        if not right:
            raise AccessDenied(f"{user}: {'wrong password' if known else 'no such user with a password'}")
        return Entered(user, math.inf)

    def _by_token(self, token: str) -> Entered:
        reasons = []
        for name, verify in self._verifiers.items():
            try:
                principal, until = verify(token)
            except AccessDenied as error:
                reasons.append(f"{name}: {error}")
                continue
            if principal not in self._people.principals:
                raise AccessDenied(f"{principal}, by a token of {name}: there is no such principal")
            known = self._people.principals[principal]
            if known.password or known.tokens not in ("", name):
                raise AccessDenied(f"{principal}, by a token of {name}: this principal enters otherwise")
            return Entered(principal, until)
        raise AccessDenied(f"a token that nobody knows ({'; '.join(reasons) or 'no tokens are described'})")


class _Provider:
    """An OpenID provider: its tokens are signed with keys that it shows.

    Args:
        tokens: Which.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._jwt = _jwt()
        self._lock = threading.Lock()
        self._remote = self._jwt.PyJWKClient(tokens.keys, timeout=_FETCH) if "://" in tokens.keys else None

    def __call__(self, token: str) -> tuple[str, float]:
        tokens = self._tokens
        try:
            claims: Mapping[str, Any] = self._jwt.decode(
                token,
                self._key(token),
                algorithms=list(tokens.algorithms),
                audience=tokens.audience,
                issuer=tokens.issuer,
                options={"require": ["exp", "iss", "aud"]},
                leeway=5,
            )
        except self._jwt.PyJWTError as error:
            raise AccessDenied(str(error)) from error
        principal = claims.get(tokens.claim)
        if not isinstance(principal, str) or not principal:
            raise AccessDenied(f"it does not say {tokens.claim}")
        return principal, float(claims["exp"])

    def _key(self, token: str) -> Any:
        if self._remote is not None:
            with self._lock:  # its keys are fetched once for all who wait
                return self._remote.get_signing_key_from_jwt(token).key
        name = self._jwt.get_unverified_header(token).get("kid")
        try:
            with open(os.path.expanduser(self._tokens.keys)) as file:
                known = self._jwt.PyJWKSet.from_json(file.read()).keys
        except (OSError, ValueError) as error:
            raise AccessDenied(f"its keys in {self._tokens.keys} cannot be read: {error}") from error
        found = [each for each in known if each.key_id == name]
        if not found:
            raise AccessDenied(f"its key {name!r} is not among those in {self._tokens.keys}")
        return found[0].key


def _verifier(name: str, tokens: Tokens) -> Verifier:
    if not tokens.verifier:
        return _Provider(tokens)
    if tokens.verifier in _registered:
        return _registered[tokens.verifier]
    try:
        return cast("Verifier", registry.load("verifiers", tokens.verifier))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Nothing here verifies tokens of {name} as {tokens.verifier!r}: register_verifier() before, or install "
            f"what has an entry point of that name in the group proxyfab.verifiers."
        ) from error


def hashed(password: str) -> str:
    """A password as a description may have it; raises ConfigurationError."""
    if not 0 < len(password.encode()) <= 72:
        raise ConfigurationError("A password has 1 to 72 bytes.")
    made: bytes = _bcrypt().hashpw(password.encode(), _bcrypt().gensalt(11))
    return made.decode()


def _matches(password: str, known: str) -> bool:
    if not known:
        return False
    try:
        return bool(_bcrypt().checkpw(password.encode()[:72], known.encode()))
    except ValueError as error:
        raise ConnectorError(f"A hash of a password cannot be read: {error}.") from error


def _bcrypt() -> Any:
    try:
        import bcrypt
    except ImportError as error:
        raise MissingDependency("Hashes of passwords need 'bcrypt': pip install 'proxyfab[auth]'") from error
    return bcrypt


def _jwt() -> Any:
    try:
        import jwt
    except ImportError as error:
        raise MissingDependency("Tokens of a provider need 'pyjwt': pip install 'proxyfab[auth]'") from error
    return jwt


class Book:
    """The people of a file, read again when it changes. Thread-safe.

    Args:
        path: Where it is.
        tell: Called with what is wrong with it; who was known before stays known then.
    """

    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._read = self._load()

    def __call__(self) -> tuple[People, Identities]:
        """Those of now."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._read = self._load()
                except (ProxyfabError, OSError) as error:
                    self._tell(f"{self._path} was not taken over: {error}")
            return self._read

    def _look(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self._path)
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _load(self) -> tuple[People, Identities]:
        with open(self._path, "rb") as file:
            people = People.parse(file.read())
        return people, Identities(people)
