"""Names of places as data: a connector's URL in parts, a store's URL in parts, and sizes as people write them.

A store's URL is its connector's, with the store's own options behind `#` where they differ from the defaults, so that a
reference carries some tens of bytes: `shm://~3f9a2c`, `file:///scratch/me?ns=run7#inline=0`.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from proxyfab.errors import AccessDenied, ConfigurationError

# Patterns, compiled at their first use: a millisecond that `import proxyfab` should not pay.
_URL = (
    r"(?P<scheme>[a-z][a-z0-9_+.-]*)://(?P<host>[^/?#]*)(?P<path>/[^?#]*)?"
    r"(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?$"
)
_USERINFO = r"([a-z][a-z0-9_+.-]*://)([^/?#]*)@"
_UNSOUND = "[\0\ud800-\udfff]|%00"
_CHILD = r"[a-z][a-z0-9_+.-]*://[^;#]*"
_SIZE = r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?))?b?\s*"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_PLAIN = "~/:;=,*?@[]"  # what stands in an option as it is, so that a URL inside a URL stays readable
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_DEEPEST = 32
INLINE_BELOW = 4096
CACHE = 256 * 2**20


class ConnectorSpec(NamedTuple):
    """A connector's URL in parts. `layers` stand before the scheme: `lz4+redis://` has `("lz4",)`."""

    scheme: str
    host: str = ""
    path: str = ""
    options: tuple[tuple[str, str], ...] = ()
    layers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> ConnectorSpec:
        """Cut a URL; a fragment is the store's and is refused here."""
        match = re.fullmatch(_URL, _sound(url))
        if match is None or match["fragment"] is not None:
            raise ConfigurationError(
                f"{url!r} is not a connector's URL: it looks like shm://, file:///path or redis://host:6379/0."
            )
        *layers, scheme = match["scheme"].split("+")
        host = unquote(match["host"])
        if "/" in host or len(set(layers)) < len(layers) or url.count("://") > _DEEPEST:
            raise ConfigurationError(
                f"{url[:200]!r} makes no sense: a host has no '/', a layer stands once before a scheme, and of URLs in "
                f"URLs there are at most {_DEEPEST}."
            )
        options = tuple(parse_qsl(match["query"] or "", keep_blank_values=True))
        return cls(scheme, host, unquote(match["path"] or ""), options, tuple(layers))

    def __str__(self) -> str:
        query = f"?{urlencode(self.options, safe=_PLAIN)}" if self.options else ""
        scheme = "+".join((*self.layers, self.scheme))
        return f"{scheme}://{quote(self.host, safe='~:@,[]')}{quote(self.path, safe='/~')}{query}"

    def take(self, *known: str) -> dict[str, str]:
        """The options as a dict.

        Raises:
            ConfigurationError: There is one that is not in `known`, or layers that this connector cannot carry.
        """
        options = dict(self.options)
        if len(options) < len(self.options):
            raise ConfigurationError(f"{self} gives an option twice; each may stand once.")
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigurationError(
                f"{self.scheme}:// has no option {unknown[0]!r}; it knows {', '.join(known) or 'none'}."
            )
        if self.layers:
            raise ConfigurationError(f"{self.layers[0]}+ cannot be stacked on {self.scheme}:// in this version.")
        return options


class StoreSpec(NamedTuple):
    """Everything that makes two stores the same store: where their bytes lie and how objects become bytes."""

    connector: str
    cache: int = CACHE
    inline_below: int = INLINE_BELOW
    serializer: str = "default"
    seal: str = ""
    """`mode:key id`; never a key."""

    @classmethod
    def parse(cls, url: str) -> StoreSpec:
        """The inverse of `str(spec)`."""
        connector, _, fragment = _sound(url).partition("#")
        options = dict(parse_qsl(fragment, keep_blank_values=True))
        unknown = sorted(set(options) - {"cache", "inline", "serializer", "seal"})
        if unknown:
            raise ConfigurationError(
                f"A store has no option {unknown[0]!r} behind '#'; it knows cache, inline, serializer and seal."
            )
        return cls(
            connector,
            nbytes(options.get("cache", CACHE)),
            nbytes(options.get("inline", INLINE_BELOW)),
            options.get("serializer", "default"),
            options.get("seal", ""),
        )

    def __str__(self) -> str:
        options = {
            "cache": (self.cache, CACHE),
            "inline": (self.inline_below, INLINE_BELOW),
            "serializer": (self.serializer, "default"),
            "seal": (self.seal, ""),
        }
        fragment = urlencode({name: value for name, (value, usual) in options.items() if value != usual}, safe=":")
        return f"{self.connector}#{fragment}" if fragment else self.connector


@lru_cache(64)
def namespace_of(url: str) -> str:
    """The namespace in a connector's URL: what stays the same however, and from wherever, its place is reached.

    That of a connector made of others is theirs, each once.
    """
    parts = ConnectorSpec.parse(url)
    own = dict(parts.options).get("ns", parts.host if parts.scheme in ("memory", "shm") else "")
    if own:
        return own
    children = (child for _, value in parts.options for child in re.findall(_CHILD, value))
    return ",".join(dict.fromkeys(filter(None, map(namespace_of, children))))


def _sound(url: str) -> str:
    """The URL itself, unless it holds what neither a path nor a name can: a zero byte, or half of a character."""
    if re.search(_UNSOUND, url):
        raise ConfigurationError(f"{url!r} is no URL: it holds a zero byte, or characters that no encoding has.")
    return url


def without_secret(url: str) -> tuple[str, str, str | None]:
    """The URL without `user:password@`, the user and the password; `""` and None for what is not there."""
    match = re.match(_USERINFO, url, re.IGNORECASE)
    if match is None:
        return url, "", None
    user, colon, secret = match[2].partition(":")
    return match[1] + url[match.end() :], unquote(user), unquote(secret) if colon else None


def nbytes(size: int | str) -> int:
    """A number of bytes from `4096`, `"4 KiB"`, `"100 KB"` (1,000 a step without the i) or `"1.5GiB"`."""
    if isinstance(size, int):
        if size < 0:
            raise ConfigurationError(f"A size is not negative: {size}.")
        return size
    match = re.fullmatch(_SIZE, str(size), re.IGNORECASE)  # a float such as 1e6 is as good as its text
    if match is None:
        raise ConfigurationError(f"{size!r} is not a size; write 4096, '4 KiB' or '100 MB'.")
    number, prefix, binary = match.groups()
    try:
        return int(float(number) * (1024 if binary else 1000) ** " kmgt".index((prefix or " ").lower()))
    except OverflowError:
        raise ConfigurationError(f"{size!r} is more than any memory; write 4096, '4 KiB' or '100 MB'.") from None


def flag(spec: ConnectorSpec, name: str) -> bool | None:
    """An option that is `1`, `true` or `yes`, or `0`, `false` or `no`; None where it is not given."""
    text = dict(spec.options).get(name)
    if text is not None and text.lower() not in _FLAGS:
        raise ConfigurationError(f"{name}={text!r} makes no sense in {spec.scheme}://; write {name}=1 or {name}=0.")
    return None if text is None else _FLAGS[text.lower()]


def read_secret(reference: str, whose: str) -> str | None:
    """What `env:NAME` or `file:/path` stands for, here and now; None for `""`, which refers to nothing.

    Args:
        reference: As a URL has it.
        whose: What it lets in to, for errors: never the secret.

    Raises:
        AccessDenied: It is not there, or no text.
    """
    kind, _, where = reference.partition(":")
    try:
        if kind == "env":
            return os.environ[where]
        if kind == "file":
            with open(os.path.expanduser(where), encoding="utf-8") as file:
                return file.read().strip()
    except (KeyError, OSError, ValueError) as error:
        kept = "is no text" if isinstance(error, ValueError) else "is not there here"
        raise AccessDenied(f"The secret for {whose} should be in {reference}, which {kept}; set it.") from error
    return None


def check_name(name: str) -> str:
    """A name that may stand in a URL, a directory and a Redis key; raises ConfigurationError otherwise."""
    if str(name) != name or not re.fullmatch(_NAME, name):
        raise ConfigurationError(
            f"{name!r} cannot name a store: use 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first."
        )
    return name
