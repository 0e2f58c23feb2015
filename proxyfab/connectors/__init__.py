"""Connectors: where bytes lie. Import a class from here; each module is loaded when its class is asked for.

| class | URL | where | crosses |
|---|---|---|---|
| MemoryConnector | `memory://` | a dict of this process | threads |
| SharedMemoryConnector | `shm://` | shared memory of this machine | processes |
| FileConnector | `file:///path` | a directory, local or shared | processes, nodes |
| RedisConnector | `redis://host` | Redis; with TLS `rediss://` | processes, machines |
"""

from typing import TYPE_CHECKING

from proxyfab.registry import load

if TYPE_CHECKING:
    from proxyfab.connectors.file import FileConnector
    from proxyfab.connectors.memory import MemoryConnector
    from proxyfab.connectors.redis import RedisConnector
    from proxyfab.connectors.shm import SharedMemoryConnector

__all__ = ["FileConnector", "MemoryConnector", "RedisConnector", "SharedMemoryConnector"]

_SCHEMES = {
    "FileConnector": "file",
    "MemoryConnector": "memory",
    "RedisConnector": "redis",
    "SharedMemoryConnector": "shm",
}


def __getattr__(name: str) -> object:
    if name in _SCHEMES:
        return load("connectors", _SCHEMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
