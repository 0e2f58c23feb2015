"""Where tokens for OAUTHBEARER come from: functions with names, so that a URL says which and never holds one.

Promises: a name is a word, looked up among what this process has registered and then among entry points of the group
`proxyfab.tokens`; a URL from elsewhere cannot make this process import what it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

from proxyfab import registry
from proxyfab.errors import AccessDenied, ConfigurationError

Tokens: TypeAlias = "Callable[[str], tuple[str, float]]"
"""From Kafka's `sasl.oauthbearer.config` (here: "") to a token and the moment, in seconds since 1970, when it ends."""

_registered: dict[str, Tokens] = {}


def register_tokens(name: str, source: Tokens) -> None:
    """Let `kafka://...?sasl=OAUTHBEARER&tokens=name` in this process ask `source` for its tokens."""
    _registered[name] = source


def tokens_of(name: str) -> Tokens:
    """The function of that name.

    Raises:
        AccessDenied: This process knows none.
    """
    found = _registered.get(name)
    if found is not None:
        return found
    try:
        return cast("Tokens", registry.load("tokens", name))
    except ConfigurationError as error:
        raise AccessDenied(
            f"Nothing here makes tokens named {name!r}: call register_tokens({name!r}, function) before the broker is "
            "used, or install what has an entry point of that name in the group proxyfab.tokens."
        ) from error
