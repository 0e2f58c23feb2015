"""No fabric at all: the object is pickled along with the call."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from benchmarks.harness import Place
from benchmarks.steps import Reply, consume
from benchmarks.systems import System


class Pipe(System):
    """put: pickle.dumps. The bytes travel through a multiprocessing.Connection. get: pickle.loads."""

    def put(self, obj: Any) -> bytes:
        return pickle.dumps(obj, 5)

    def pack(self, token: bytes) -> bytes:
        return token

    def unpack(self, token: bytes) -> Any:
        return token

    def get(self, token: Any) -> Any:
        return pickle.loads(token)


class Pool(System):
    """`ProcessPoolExecutor(1).submit(function, obj)`: only the whole way can be measured."""

    parts = False

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._pool: ProcessPoolExecutor | None = None

    def launch(self, name: str) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self._pool.submit(int).result()

    def put(self, obj: Any) -> Any:
        return obj

    def deliver(self, token: Any, *, metered: bool) -> Reply:
        assert self._pool is not None
        return self._pool.submit(_receive, token, metered=metered).result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _receive(obj: Any, *, metered: bool) -> Reply:
    return consume(lambda: obj, metered=metered)
