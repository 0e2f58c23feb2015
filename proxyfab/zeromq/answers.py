"""What a server answered that went wrong, as the error it is. A name from elsewhere is looked up, never imported."""

from __future__ import annotations

from proxyfab import errors
from proxyfab.errors import ConnectorError, ProxyfabError


def error_named(kind: str, text: str) -> ProxyfabError:
    """The error of this name in the tree of errors; a ConnectorError if there is none."""
    found = getattr(errors, kind, None)
    if not isinstance(found, type) or not issubclass(found, ProxyfabError):
        found = ConnectorError
    return found(text)
