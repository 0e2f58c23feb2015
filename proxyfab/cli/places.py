"""The places behind a connector that nobody has made yet, for commands that look.

They must neither make one nor pass a mistyped one off as empty.

Promises: changes nothing. Leaves to connectors: what to do about one, and places that are no directories.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

from proxyfab.abc import Connector
from proxyfab.errors import ConnectorError
from proxyfab.osio.checkup import Lodged, nearest
from proxyfab.osio.shared import DIRECTORY, default_root
from proxyfab.spec import ConnectorSpec, StoreSpec, namespace_of

_WITHIN = ("child", "children", "fast", "slow", "home", "near")
"""Where connectors that are made of others keep them."""


def absences(connector: Connector) -> list[str]:
    """A sentence for each directory or named store that is not there."""
    return [why for why in map(_absence, _innermost(connector)) if why]


def check_there(connector: Connector) -> None:
    """Refuse a connector all of whose places are missing.

    Memory without a name does not count: nobody typed what could be wrong.

    Raises:
        ConnectorError: It says what is missing.
    """
    found = [_absence(one) for one in _innermost(_home(connector)) if not _is_nameless(one)]
    if found and all(found):
        raise ConnectorError(f"{'; '.join(found)}. Check the URL; the first put makes a place.")


def is_unnamed_memory(url: str) -> bool:
    """Whether a store's URL asks for shared memory of this machine, and for no store by its name."""
    connector = StoreSpec.parse(url).connector
    return ConnectorSpec.parse(connector).scheme == "shm" and not namespace_of(connector)


def unnamed(url: str) -> str:
    """A store's URL without the name in it, where its connector is one that lodges: the place beside that store."""
    spec = StoreSpec.parse(url)
    parts = ConnectorSpec.parse(spec.connector)
    if parts.scheme == "shm":
        parts = parts._replace(host="")
    elif parts.scheme == "file":
        parts = parts._replace(options=tuple(option for option in parts.options if option[0] != "ns"))
    return str(spec._replace(connector=str(parts)))


@contextlib.contextmanager
def fresh_memory() -> Iterator[None]:
    """Stores in shared memory lie in a root of their own meanwhile: for a process that only looks, in one thread."""
    usual = os.environ.get(DIRECTORY)
    with TemporaryDirectory(prefix="proxyfab-doctor-", dir=nearest(os.path.dirname(default_root()))) as root:
        os.environ[DIRECTORY] = root
        try:
            yield
        finally:
            os.environ.pop(DIRECTORY)
            if usual is not None:
                os.environ[DIRECTORY] = usual


def _innermost(connector: Any) -> Iterator[Any]:
    """The connectors that a connector is made of, down to those that are made of none: itself, if it is one."""
    found = [one for name in _WITHIN for one in _several(getattr(connector, name, ()))]
    if isinstance(connector, Lodged) or not found:
        yield connector
        return
    for one in found:
        yield from _innermost(one)


def _home(connector: Any) -> Any:
    """Of tiers the one in which objects lie, for the others hold copies; behind layers, too."""
    while not isinstance(connector, Lodged):
        inside = getattr(connector, "home", getattr(connector, "child", None))
        if inside is None:
            break
        connector = inside
    return connector


def _absence(connector: Any) -> str:
    return connector.absence() if isinstance(connector, Lodged) else ""


def _is_nameless(connector: Any) -> bool:
    return connector.scheme == "memory" or (connector.scheme == "shm" and not connector.chosen)


def _several(inside: Any) -> Any:
    return inside if isinstance(inside, (list, tuple)) else (inside,)
