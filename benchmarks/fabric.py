"""proxyfab itself, by connector. Its cache is off, as the peers' are: each get goes to the store."""

from __future__ import annotations

import os
import pickle
from typing import Any

from benchmarks.harness import Place
from benchmarks.memory import stored
from benchmarks.systems import System
from proxyfab import Store


class _Fabric(System):
    """put: Store.put. get: Store.get, in the store that the producer's pickled one opens."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._store: Store | None = None

    def url(self) -> str:
        raise NotImplementedError

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store(self.url(), cache=0)
        return self._store

    def address(self) -> bytes:
        return pickle.dumps(self.store)

    def attach(self, address: bytes) -> None:
        self._store = pickle.loads(address)

    def put(self, obj: Any) -> Any:
        return self.store.put(obj)

    def get(self, token: Any) -> Any:
        return self.store.get(token)

    def drop(self, token: Any) -> None:
        self.store.evict(token)

    def close(self) -> None:
        super().close()
        self.store.close()


class Memory(_Fabric):
    """A dict in the producer's process."""

    alone = True

    def url(self) -> str:
        return "memory://"


class SharedMemory(_Fabric):
    """The default store."""

    def url(self) -> str:
        return "shm://"

    def stored(self) -> int:
        return stored(os.environ["PROXYFAB_SHM_DIR"])


class Tmpfs(_Fabric):
    """Files on tmpfs."""

    def url(self) -> str:
        return f"file://{self.place.tmpfs}/fabric"

    def stored(self) -> int:
        return stored(f"{self.place.tmpfs}/fabric")


class Disk(_Fabric):
    """Files on a disk."""

    def url(self) -> str:
        return f"file://{self.place.disk}/fabric"

    def stored(self) -> int:
        return stored(f"{self.place.disk}/fabric")
