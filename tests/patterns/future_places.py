"""Every place that futures are tested on, as stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.servers import RedisServer

ALONE = ("memory",)
PLACES = (
    "memory",
    "shm",
    "file",
    "redis",
    "zmq",
    "zmq-wire",
    "lz4+shm",
    "retry+zmq",
    "sealed-redis",
    "safe-shm",
    "routed",
    "bounded",
    "tiers",
)
TWINS = {"zmq-wire", "lz4+shm", "safe-shm", "bounded"}
"""They hold and tell futures as others of those do; the suites of connectors have what is their own."""
KEY = {"PROXYFAB_KEY_FUTURE": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}


@contextmanager
def open_place(
    name: str, redis: RedisServer, node: NodeServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store of that kind, cleared at the end."""
    for variable, value in KEY.items():
        monkeypatch.setenv(variable, value)
    file = f"file://{directory}/files"
    seal = "encrypt:future" if name.startswith("sealed") else None
    url = {
        "memory": "memory://",
        "shm": "shm://",
        "file": file,
        "redis": redis.database(),
        "zmq": node.url,
        "zmq-wire": f"{node.url}?shared=0",
        "lz4+shm": "lz4+shm://",
        "retry+zmq": f"retry+{node.url}",
        "sealed-redis": redis.database(),
        "safe-shm": "shm://",
        "routed": f"routed://?to=shm://;below=1MiB&to={file}",
        "bounded": f"bounded://?limit=8MiB&fast=shm://&slow={file}",
        "tiers": f"tiers://?to=shm://;limit=8MiB&to={file}",
    }[name]
    with Store(url, seal=seal, serializer="safe" if name.startswith("safe") else "default") as store:
        yield store
        store.clear()
