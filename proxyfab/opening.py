"""From a URL to a connector: the scheme's class, and around it the layers that stand before the scheme.

`retry+lz4+redis://host` is Retry(Lz4(RedisConnector)). Promises: opens nothing (construction does no I/O); a name is
looked up in the registry and never imported as a path.
"""

from __future__ import annotations

from typing import cast

from proxyfab.abc import Connector
from proxyfab.registry import load
from proxyfab.spec import ConnectorSpec


def open_connector(url: str, *, name: str | None = None) -> Connector:
    """The connector that `url` describes, layers included; `name` makes its namespace persistent.

    Raises:
        ConfigurationError: The URL or one of its options makes no sense.
        MissingDependency: The scheme or a layer needs a package that is not installed.
    """
    spec = ConnectorSpec.parse(url)
    connector = cast(Connector, load("connectors", spec.scheme).from_url(str(spec._replace(layers=())), name=name))
    for layer in reversed(spec.layers):
        connector = load("layers", layer)(connector)
    return connector
