"""Which namespace a key lies in: its locator is `tag/namespace`, the tag being the root's, or `/namespace` if reserved.

Promises: any key of a root is found by whoever works at that root; a key of another root is refused with its name. A
name that is not a namespace's never becomes a part of a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.osio.lodging import Lodging
from proxyfab.osio.namespace import NAME, Namespace
from proxyfab.osio.root import Root

_WHERE = re.compile(rf"(?P<tag>[0-9a-f]*)/(?P<name>{NAME})\Z")


class Locator:
    """Finds the namespaces of keys for who lives in `lodging`. Thread-safe."""

    __slots__ = ("_lodging", "_own")

    def __init__(self, lodging: Lodging) -> None:
        self._lodging = lodging
        self._own = ""

    def where(self, name: str) -> str:
        """A locator: the root's tag, as far as it is known, and the namespace's name."""
        root = self._lodging.known
        return f"{root.tag if root else ''}/{name}"

    def target(self, key: Key | None) -> tuple[Key, Namespace]:
        """The namespace to put into, made if need be, and the key (None: a new one) with that place in it.

        Raises:
            ConnectorError: The key belongs to another root, or the process that its namespace lived with has ended.
        """
        root, namespace = self._lodging.open()
        if key is None:
            return Key.draw(f"{root.tag}/{namespace.name}"), namespace
        name = self._name(key, root) if key.where else namespace.name
        if name != namespace.name:
            namespace = root.namespace(name)
            if not namespace.exists():  # reserved by its owner, and nobody has put there yet
                Lodging(self._lodging.path, name).open()
        return key.at(f"{root.tag}/{name}"), namespace

    def find(self, key: Key) -> Namespace | None:
        """The namespace in which a key lies; None where there is none. Makes nothing.

        Raises:
            ConnectorError: The key belongs to another root.
        """
        own = self._lodging.find()
        if not key.where or (own is not None and key.where == self._own):
            return own
        root = self._lodging.root()
        name = self._name(key, root)
        if own is not None and root is not None and name == own.name:
            self._own = f"{root.tag}/{name}"
            return own
        return None if root is None else root.namespace(name)

    def namespaces(self, *, all_of_them: bool) -> Iterator[Namespace]:
        """Those of the root, or only the lodging's own; those that are there."""
        root = self._lodging.root()
        if root is not None and all_of_them:
            yield from root.namespaces()
        elif (own := self._lodging.find()) is not None:
            yield own

    def _name(self, key: Key, root: Root | None) -> str:
        path = self._lodging.path
        match = _WHERE.match(key.where)
        if match is None or (match["tag"] and root is not None and match["tag"] != root.tag):
            raise ConnectorError(f"{key} does not belong to {path}; use the store that made it.")
        if match["tag"] and root is None:
            raise ConnectorError(f"{key} cannot be found: {path} holds nothing here. Is the file system mounted?")
        return match["name"]
