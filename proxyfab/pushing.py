"""Objects that go to another site before somebody asks for them there: keys, references and proxies, to a connector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from proxyfab.abc import Connector
from proxyfab.errors import CapabilityError, ConfigurationError
from proxyfab.keys import Key
from proxyfab.proxy import factory_of, is_proxy
from proxyfab.ref import Ref


@runtime_checkable
class SupportsPush(Protocol):
    """Can bring objects to another site before they are asked for."""

    def push(self, keys: Sequence[Key], to: str) -> list[bool]:
        """Returns when they are there; says of each whether it is."""


def push(connector: Connector, wanted: Sequence[object], to: str) -> list[bool]:
    """`Store.push`.

    Raises:
        CapabilityError: The connector knows no sites.
        ConfigurationError: Something is no key and no reference.
    """
    if not isinstance(connector, SupportsPush):
        raise CapabilityError(f"{connector.spec} knows no other sites; objects are pushed by a store on site://.")
    keys = [_key_of(one) for one in wanted]
    found = iter(connector.push([key for key in keys if key is not None], to))
    return [True if key is None else next(found) for key in keys]  # what travels in its reference needs no push


def _key_of(one: object) -> Key | None:
    source = factory_of(one) if is_proxy(one) else one
    if isinstance(source, Ref):
        return source.key
    if isinstance(source, Key):
        return source
    if isinstance(source, str):
        return Key.parse(source)
    raise ConfigurationError(f"What is pushed is a key, a reference or a proxy, not a {type(one).__name__}.")
