"""From a URL to a connector: the scheme's class, and around it the layers that stand before the scheme.

`retry+lz4+redis://host` is Retry(Lz4(RedisConnector)). Promises: opens nothing (construction does no I/O); a name is
looked up in the registry and never imported as a path.
"""

from __future__ import annotations

from typing import Any, cast

from proxyfab.abc import Connector
from proxyfab.errors import ConfigurationError
from proxyfab.policy import check_opening
from proxyfab.registry import load
from proxyfab.spec import ConnectorSpec, check_name


def open_connector(url: str, *, name: str | None = None, seal: object = None) -> Connector:
    """The connector that `url` describes, layers included.

    Args:
        url: A connector's URL.
        name: Makes its namespace persistent.
        seal: What `seal_of` answered: stands directly around the innermost connector.

    Raises:
        ConfigurationError: The URL or one of its options makes no sense.
        MissingDependency: The scheme or a layer needs a package that is not installed.
        AccessDenied: A reference from elsewhere asks for it, and this process's policy does not allow it.
    """
    check_opening(url)
    spec = ConnectorSpec.parse(url)
    connector = cast(Connector, load("connectors", spec.scheme).from_url(str(spec._replace(layers=())), name=name))
    connector = sealed(connector, seal)
    for layer in reversed(spec.layers):
        connector = load("layers", layer)(connector)
    return connector


def connector_of(connector: str | Connector, name: str | None, seal: object) -> Connector:
    """What a store was given to keep its bytes: a URL is opened, a ready connector gets the seal around it."""
    if isinstance(connector, str):
        return open_connector(connector, name=None if name is None else check_name(name), seal=seal)
    if name is not None:
        raise ConfigurationError(f"Give the name {name!r} to the connector itself: the store was handed a ready one.")
    if not hasattr(connector, "put"):
        raise ConfigurationError(f"{connector!r} is neither a connector nor the URL of one (shm://, file:///path).")
    return sealed(connector, seal)


def seal_of(seal: object) -> Any:
    """The Seal that a store's `seal=` asks for; None without one."""
    return None if seal is None else load("seals", "seal").of(seal)


def sealed(connector: Connector, seal: object) -> Connector:
    """`connector`, with `seal` around it where there is one."""
    return connector if seal is None else cast(Connector, load("seals", "layer")(connector, seal))
