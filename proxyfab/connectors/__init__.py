"""Connectors: where bytes lie. Import a class from here; each module is loaded when its class is asked for.

| class | URL | where | crosses |
|---|---|---|---|
| MemoryConnector | `memory://` | a dict of this process | threads |
| SharedMemoryConnector | `shm://` | shared memory of this machine | processes |
| FileConnector | `file:///path` | a directory, local or shared | processes, nodes |
"""

from proxyfab.registry import load

_CLASSES = {"FileConnector": "file", "MemoryConnector": "memory", "SharedMemoryConnector": "shm"}

__all__ = sorted(_CLASSES)


def __getattr__(name: str) -> type:
    if name in _CLASSES:
        return load("connectors", _CLASSES[name])  # type: ignore[no-any-return]  # the table holds classes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
