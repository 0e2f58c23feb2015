"""Who there is, what each may do, and by what they are known: the part of a description that says it. Pure.

    [principals.camera]                         [tokens.lab]
    password = "env:CAMERA"                     issuer = "https://login.lab.example"
    grants = { frames = ["publish"] }           audience = "proxyfab"
                                                keys = "https://login.lab.example/keys"
    [principals."alice@lab.example"]            claim = "email"
    grants = { "site.*" = ["subscribe"] }

A topology has such a part, and so has a file of its own for one server. Promises: no secret is in it, `env:NAME` or a
bcrypt hash; no two principals share an inbox.
"""

from __future__ import annotations

import binascii
import re
import tomllib
from base64 import b32decode
from typing import Any, Protocol, TypeVar

import msgspec

from proxyfab.errors import ConfigurationError
from proxyfab.events.access import check_grant, nats_token
from proxyfab.events.model import Grant

D = TypeVar("D")
ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_HASH = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
CALLOUT = "CALLOUT"
"""The account of the service that is asked who may enter, which nobody else has."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Of signatures on tokens: those whose keys can be shown to everybody."""


class Principal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may do what.

    Attributes:
        grants: By topic or pattern, actions: `publish`, `subscribe`, `admin`.
        password: `env:NAME`, or a bcrypt hash. Without, and without an nkey, a token says who it is.
        nkey: A public key instead, `U...`.
        tokens: Whose tokens say that, where there are several.
        account: What it shares with those of the same account, and with nobody else.
        servers: Where it is known; empty for everywhere.
    """

    grants: dict[str, list[str]]
    password: str = ""
    nkey: str = ""
    tokens: str = ""
    account: str = "main"
    servers: list[str] = []


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose tokens are believed: those of an OpenID provider, or what a registered function says.

    Attributes:
        issuer: Who signs them (`iss`).
        audience: Whom they have to be for (`aud`).
        keys: URL or path of the keys that they are signed with, as JWKS.
        claim: Which of their claims names the principal.
        algorithms: Of their signatures.
        verifier: Instead of all these, the name of a registered function.
    """

    issuer: str = ""
    audience: str = ""
    keys: str = ""
    claim: str = "sub"
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    verifier: str = ""


class Callout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is asked by the servers who may enter, instead of their knowing it.

    Attributes:
        issuer: The public key that its answers are signed with, `A...`.
        password: `env:NAME` of the password that it enters with itself.
        user: As whom.
        patience: Seconds that a server waits for its answer.
    """

    issuer: str
    password: str = "env:PROXYFAB_CALLOUT"
    user: str = "callout"
    patience: float = 3.0


class _Described(Protocol):
    @property
    def principals(self) -> dict[str, Principal]: ...
    @property
    def tokens(self) -> dict[str, Tokens]: ...
    @property
    def callout(self) -> Callout | None: ...
    @property
    def namespace(self) -> str: ...


class People(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That part of a description, alone.

    Attributes:
        principals: By name.
        tokens: By a name that is said when one is refused.
        namespace: What subjects and streams begin with: `?ns=` of their URLs.
        callout: Who answers the servers.
        servers: Is for a topology, as `topics` is.
    """

    principals: dict[str, Principal]
    tokens: dict[str, Tokens] = {}
    namespace: str = "pf"
    callout: Callout | None = None
    servers: dict[str, Any] = {}
    topics: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str | bytes) -> People:
        """Those that a TOML document describes, a topology or not.

        Raises:
            ConfigurationError: It does not describe any; the message says where.
        """
        found = described(text, cls, "This does not say who may do what")
        check_people(found, asked=True)
        return found

    @property
    def accounts(self) -> list[str]:
        """Those of the principals."""
        return sorted({each.account for each in self.principals.values()})


def described(text: str | bytes, what: type[D], wrong: str) -> D:
    """What a TOML document describes; bytes of one are UTF-8.

    Raises:
        ConfigurationError: It is none, or does not describe that: `wrong`, and where.
    """
    try:
        plain = text if isinstance(text, str) else text.decode()
        return msgspec.convert(tomllib.loads(plain), what)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{wrong}: {error}.") from error


def check_people(found: _Described, *, asked: bool) -> None:
    """Refuse what makes no sense; raises ConfigurationError.

    Args:
        found: A description.
        asked: Whether a service says who may enter, and no server by itself.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]{1,32}", found.namespace):
        raise ConfigurationError(f"namespace {found.namespace!r} is not 1 to 32 letters, digits and '-'.")
    inboxes: dict[str, str] = {}
    for name, principal in found.principals.items():
        _check_principal(name, principal, asked=asked)
        other = inboxes.setdefault(nats_token(name), name)
        if other != name:
            raise ConfigurationError(f"{other} and {name} would share an inbox: rename one of them.")
    if found.tokens and not asked:
        raise ConfigurationError("A server does not know tokens by itself: say in [callout] who is asked.")
    for name, tokens in found.tokens.items():
        _check_tokens(name, tokens)
    for name, principal in found.principals.items():
        if principal.tokens and (principal.tokens not in found.tokens or principal.password):
            raise ConfigurationError(f"{name} has no password, and tokens that are described in [tokens.NAME].")
        if len(found.tokens) > 1 and not principal.password and not principal.tokens:
            raise ConfigurationError(f"{name} says whose tokens it enters with: {', '.join(found.tokens)}.")
    if found.callout is not None:
        _check_callout(found.callout)


def grants_of(name: str, principal: Principal) -> list[Grant]:
    """What a principal may do."""
    return [Grant(name, topic, frozenset(actions)) for topic, actions in principal.grants.items()]


def _check_principal(name: str, principal: Principal, *, asked: bool) -> None:
    for grant in grants_of(name, principal):
        check_grant(grant)
    if not asked and not WORD.fullmatch(name):
        raise ConfigurationError(f"A principal cannot be called {name!r} here: letters, digits, '_' and '-'.")
    if asked and principal.nkey:
        raise ConfigurationError(f"{name} has an nkey, which only a server by itself can check: not with a callout.")
    if (not asked and not (principal.password or principal.nkey)) or (principal.password and principal.nkey):
        raise ConfigurationError(f"{name} needs a password or an nkey, one of them.")
    if principal.password and not (ENV.fullmatch(principal.password) or _HASH.fullmatch(principal.password)):
        raise ConfigurationError(f"The password of {name} is neither env:NAME nor a bcrypt hash.")
    if principal.nkey and not re.fullmatch(r"U[A-Z2-7]{55}", principal.nkey):
        raise ConfigurationError(f"The nkey of {name} is not a user's public key, U and 55 letters and digits.")
    if not WORD.fullmatch(principal.account) or principal.account.startswith("SYS") or principal.account == CALLOUT:
        raise ConfigurationError(f"The account of {name} cannot be called {principal.account!r}.")


def _check_tokens(name: str, tokens: Tokens) -> None:
    if tokens.verifier:
        if tokens.issuer or tokens.audience or tokens.keys:
            raise ConfigurationError(f"The tokens of {name} have a verifier, or an issuer with audience and keys.")
        return
    if not (tokens.issuer and tokens.audience and tokens.keys and tokens.claim):
        raise ConfigurationError(f"The tokens of {name} need an issuer, an audience and keys, or a verifier.")
    if "://" in tokens.keys and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", tokens.keys):
        raise ConfigurationError(f"The keys of {name} come from {tokens.keys}: only https:// can be believed.")
    strange = sorted(set(tokens.algorithms) - set(ALGORITHMS))
    if strange or not tokens.algorithms:
        said = ", ".join(strange) or "nothing"
        raise ConfigurationError(f"Tokens of {name} cannot be signed with {said}; known are {', '.join(ALGORITHMS)}.")


def _check_callout(callout: Callout) -> None:
    if not re.fullmatch(r"A[A-Z2-7]{55}", callout.issuer) or not _whole(callout.issuer):
        raise ConfigurationError(f"{callout.issuer!r} is no issuer; `proxyfab auth key` makes one and says it.")
    if not ENV.fullmatch(callout.password):
        raise ConfigurationError("The password of the callout is not env:NAME.")
    if not WORD.fullmatch(callout.user) or not 0 < callout.patience <= 60:
        raise ConfigurationError("The callout's user is a word, and its patience 1 to 60 seconds.")


def _whole(key: str) -> bool:
    """Whether a key's text has its checksum."""
    found = b32decode(key)
    return binascii.crc_hqx(found[:-2], 0).to_bytes(2, "little") == found[-2:]
