"""Dask: a client scatters to the one worker of a LocalCluster, a second client in another process gathers."""

from __future__ import annotations

from typing import Any

from distributed import Client, Future, LocalCluster

from benchmarks.harness import Place
from benchmarks.systems import System


class Dask(System):
    """put: scatter(direct=True, hash=False), so neither the scheduler nor a digest is in the way. get: gather."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None

    def address(self) -> str:
        self._cluster = LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, memory_limit=0, local_directory=self.place.disk
        )
        self._client = Client(self._cluster)
        return str(self._cluster.scheduler_address)

    def attach(self, address: str) -> None:
        self._client = Client(address)

    def put(self, obj: Any) -> Future:
        assert self._client is not None
        # In a list: a dict would be taken for many objects.
        (future,) = self._client.scatter([obj], direct=True, hash=False)
        return future

    def pack(self, token: Future) -> bytes:
        return super().pack(token.key)

    def get(self, token: str) -> Any:
        assert self._client is not None
        # The state as distributed.Variable passes it: a bare key stays pending in a client that did not make it.
        return self._client.gather(Future(token, self._client, state="memory"), direct=True)

    def drop(self, token: Future) -> None:
        token.release()

    def close(self) -> None:
        super().close()
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
