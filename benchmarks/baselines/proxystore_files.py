"""ProxyStore's Store over its FileConnector (tmpfs, disk) and its LocalConnector, its cache off."""

from __future__ import annotations

import os
from typing import Any

from proxystore.connectors.file import FileConnector
from proxystore.connectors.local import LocalConnector
from proxystore.store import Store

from benchmarks.harness import Place
from benchmarks.memory import stored
from benchmarks.systems import System


class _ProxyStore(System):
    """put: Store.put. get: Store.get, in a store made from the producer's config."""

    folder = ""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._store: Store[Any] | None = None

    def connector(self) -> Any:
        return FileConnector(os.path.join(self.folder, "proxystore"))

    @property
    def store(self) -> Store[Any]:
        if self._store is None:
            self._store = Store("benchmark", self.connector(), cache_size=0)
        return self._store

    def address(self) -> Any:
        return self.store.config()

    def attach(self, address: Any) -> None:
        self._store = Store.from_config(address)

    def put(self, obj: Any) -> Any:
        return self.store.put(obj)

    def get(self, token: Any) -> Any:
        return self.store.get(token)

    def drop(self, token: Any) -> None:
        self.store.evict(token)

    def stored(self) -> int:
        return stored(os.path.join(self.folder, "proxystore"))

    def close(self) -> None:
        super().close()
        self.store.close()


class Local(_ProxyStore):
    """A dict in the producer's process."""

    alone = True

    def connector(self) -> Any:
        return LocalConnector()

    def stored(self) -> int:
        return 0


class Tmpfs(_ProxyStore):
    """Files on tmpfs."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.folder = place.tmpfs


class Disk(_ProxyStore):
    """Files on a disk, without fsync."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.folder = place.disk
