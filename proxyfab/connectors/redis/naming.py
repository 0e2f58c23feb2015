"""What an object is called: its key in Redis, and the locator in its Key, which tells namespace and epoch.

Pure but for the epoch, which is the fleet's. Promises: whatever namespace a key names, the name it gets begins with
`proxyfab:`.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxyfab.connectors.redis import header
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.resp.fleet import Fleet


class Names:
    """The names of one connector's objects.

    Args:
        fleet: Knows the epoch.
        namespace: Its own.
        spec: What it is called in errors.
    """

    def __init__(self, fleet: Fleet, namespace: str, spec: str) -> None:
        self.prefix = header.space_prefix(namespace)
        self._fleet = fleet
        self._namespace = namespace
        self._spec = spec
        self._told = ("", self.where(namespace))

    def where(self, namespace: str) -> str:
        """The locator of keys in a namespace, as it is now."""
        epoch = self._fleet.epoch
        return f"redis/{namespace}/{epoch}" if epoch else f"redis/{namespace}"

    @property
    def here(self) -> str:
        """The locator of our own keys. Told by the epoch, which is known when the server was reached once."""
        if self._told[0] != self._fleet.epoch:
            self._told = (self._fleet.epoch, self.where(self._namespace))
        return self._told[1]

    def at(self, key: Key) -> Key:
        """The key with its locator as it is now."""
        if key.where == self.here:
            return key
        return key.at(self.where(self.space(key)))

    def space(self, key: Key) -> str:
        """The namespace that a key lies in."""
        return self._parse(key)[0] if key.where else self._namespace

    def epoch(self, key: Key) -> str:
        """When, in the server's life, a key was put; `""` where it does not tell."""
        return self._parse(key)[1] if key.where else ""

    def name(self, key: Key) -> bytes:
        """What an object's key is in Redis."""
        where = key.where
        if not where or where == self.here:
            return header.object_name(self.prefix, key.id)
        return header.object_name(header.space_prefix(self._parse(key)[0]), key.id)

    def names(self, keys: Sequence[Key]) -> list[bytes]:
        """The same for many."""
        here, start = self.here, header.object_name(self.prefix, "")[:-1]
        return [
            start + key.id.encode() + b"}" if key.where == here and key.id.isalnum() else self.name(key) for key in keys
        ]

    def _parse(self, key: Key) -> tuple[str, str]:
        """Namespace and epoch out of a key's locator."""
        kind, _, rest = key.where.partition("/")
        space, _, epoch = rest.partition("/")
        if kind != "redis" or not space:
            raise ConnectorError(f"{key.id} belongs to {key.where}, not to {self._spec}; open that place.")
        return space, epoch
