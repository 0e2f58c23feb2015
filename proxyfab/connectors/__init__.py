"""Connectors: where bytes lie. Import a class from here; each module is loaded when its class is asked for.

| class | URL | where | crosses |
|---|---|---|---|
| MemoryConnector | `memory://` | a dict of this process | threads |
| SharedMemoryConnector | `shm://` | shared memory of this machine | processes |
| FileConnector | `file:///path` | a directory, local or shared | processes, nodes |
| RedisConnector | `redis://host` | Redis; with TLS `rediss://` | processes, machines |
| ZMQConnector | `zmq://host:5555`, `zmq://auto` | a node server (`proxyfab serve`) | processes, machines |
| SiteConnector | `site://NAME?gateway=host:5555` | at the gateways of sites (`proxyfab serve --site`) | sites |
| GlobusConnector | `globus://?at=<collection>,<path>,<local>` | files at sites, moved by Globus | sites |
| RoutedConnector | `routed://?to=<url>;below=1MiB&to=<url>` | where rules say | as its children |
| TieredConnector | `tiers://?to=<near url>&to=<home url>` | at home, and copies nearby | as its home |
| BoundedConnector | `bounded://?limit=4GiB&slow=<url>` | a fast place, and a slow one when it is full | as both |
| ErasureConnector | `erasure://?k=4&m=2&child=<url>&child=<url>` | in shards: some may be lost | as its children |
"""

from typing import TYPE_CHECKING

from proxyfab.registry import load

if TYPE_CHECKING:
    from proxyfab.connectors.bounded import BoundedConnector
    from proxyfab.connectors.erasure import ErasureConnector
    from proxyfab.connectors.file import FileConnector
    from proxyfab.connectors.globus import GlobusConnector
    from proxyfab.connectors.memory import MemoryConnector
    from proxyfab.connectors.redis import RedisConnector
    from proxyfab.connectors.routed import RoutedConnector
    from proxyfab.connectors.shm import SharedMemoryConnector
    from proxyfab.connectors.tiers import TieredConnector
    from proxyfab.connectors.zmq.connector import ZMQConnector
    from proxyfab.connectors.zmq.site import SiteConnector

__all__ = [
    "BoundedConnector",
    "ErasureConnector",
    "FileConnector",
    "GlobusConnector",
    "MemoryConnector",
    "RedisConnector",
    "RoutedConnector",
    "SharedMemoryConnector",
    "SiteConnector",
    "TieredConnector",
    "ZMQConnector",
]

_SCHEMES = {
    "BoundedConnector": "bounded",
    "ErasureConnector": "erasure",
    "FileConnector": "file",
    "GlobusConnector": "globus",
    "MemoryConnector": "memory",
    "RedisConnector": "redis",
    "RoutedConnector": "routed",
    "SharedMemoryConnector": "shm",
    "SiteConnector": "site",
    "TieredConnector": "tiers",
    "ZMQConnector": "zmq",
}


def __getattr__(name: str) -> object:
    if name in _SCHEMES:
        return load("connectors", _SCHEMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
