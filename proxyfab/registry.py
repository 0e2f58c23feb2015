"""Short names to classes: `"shm"` -> SharedMemoryConnector. A built-in table first, then entry points.

Promises: nothing is imported before its name is asked for; a name is a word, never an import path, so that a reference
from elsewhere cannot make this process import what it likes; a missing package is answered with its pip line.
"""

from __future__ import annotations

import importlib
from typing import Any

from proxyfab.errors import ConfigurationError, MissingDependency

_BUILT_IN: dict[str, dict[str, tuple[str, str, str]]] = {
    "connectors": {
        # scheme: (module, class, extra)
        "memory": ("proxyfab.connectors.memory", "MemoryConnector", ""),
        "shm": ("proxyfab.connectors.shm", "SharedMemoryConnector", ""),
        "file": ("proxyfab.connectors.file", "FileConnector", ""),
        "redis": ("proxyfab.connectors.redis", "RedisConnector", "redis"),
        "rediss": ("proxyfab.connectors.redis", "SecureRedisConnector", "redis"),
        "zmq": ("proxyfab.connectors.zmq.connector", "ZMQConnector", "zmq"),
        "site": ("proxyfab.connectors.zmq.site", "SiteConnector", "zmq"),
        "routed": ("proxyfab.connectors.routed", "RoutedConnector", ""),
        "tiers": ("proxyfab.connectors.tiers", "TieredConnector", ""),
        "bounded": ("proxyfab.connectors.bounded", "BoundedConnector", ""),
        "globus": ("proxyfab.connectors.globus", "GlobusConnector", "globus"),
        "erasure": ("proxyfab.connectors.erasure", "ErasureConnector", ""),
    },
    "brokers": {
        "memory": ("proxyfab.brokers.memory", "MemoryBroker", ""),
        "zmq": ("proxyfab.brokers.zmq", "ZmqBroker", "zmq"),
        "nats": ("proxyfab.brokers.nats.broker", "NatsBroker", "nats"),
        "kafka": ("proxyfab.brokers.kafka", "KafkaBroker", "kafka"),
        "redis": ("proxyfab.brokers.redis", "RedisBroker", "redis"),
        "rediss": ("proxyfab.brokers.redis", "RedisBroker", "redis"),
    },
    "layers": {
        # what may stand before a scheme: a class whose one required argument is the connector below it
        "lz4": ("proxyfab.layers.lz4", "Lz4Layer", "lz4"),
        "retry": ("proxyfab.layers.retry", "RetryLayer", ""),
        "zstd": ("proxyfab.layers.zstd", "ZstdLayer", "zstd"),
    },
    "diallers": {
        # what makes a TCP connection to another site: a function of host, port and seconds
        "straight": ("proxyfab.link.dialling", "straight", ""),
        "usual": ("proxyfab.link.dialling", "usual", ""),
    },
    "seals": {
        # not named by URLs: what a store with `seal=` is made of
        "seal": ("proxyfab.seal", "Seal", "seal"),
        "layer": ("proxyfab.layers.sealed", "SealedConnector", "seal"),
    },
}
_loaded: dict[tuple[str, str], Any] = {}


def load(group: str, name: str) -> Any:
    """The class that `name` stands for in `group` (`"connectors"`, `"layers"`).

    Raises:
        ConfigurationError: Nothing is registered under this name.
        MissingDependency: It is, but needs a package that is not installed.
    """
    found = _loaded.get((group, name))
    if found is None:
        found = _loaded[group, name] = _find(group, name)
    return found


def names(group: str) -> list[str]:
    """Every name that can be asked for in `group`, sorted."""
    return sorted({*_BUILT_IN.get(group, ()), *_entry_points(group)})


def _find(group: str, name: str) -> Any:
    entry = _BUILT_IN.get(group, {}).get(name)
    if entry is None:
        return _plugin(group, name)
    module, attribute, extra = entry
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "proxyfab":
            raise  # a fault of ours, which no installation mends
        hint = f"pip install 'proxyfab[{extra}]'" if extra else f"pip install {error.name}"
        raise MissingDependency(
            f"{_written(group, name)} needs the package {error.name!r}, which is not installed: {hint}"
        ) from error


def _plugin(group: str, name: str) -> Any:
    point = _entry_points(group).get(name)
    if point is None:
        raise ConfigurationError(
            f"Unknown scheme {name!r} among proxyfab's {group}; known here: {', '.join(names(group))}."
        )
    try:
        return point.load()
    except ImportError as error:
        raise MissingDependency(
            f"{_written(group, name)} comes from {point.value!r}, which cannot be imported ({error}): "
            f"pip install {error.name}"
        ) from error
    except AttributeError as error:
        raise ConfigurationError(
            f"{_written(group, name)} is registered as {point.value!r}, which is not there: {error}."
        ) from error


def _written(group: str, name: str) -> str:
    """A name as it stands in a URL."""
    return f"{name}+" if group == "layers" else f"{name}://"


def _entry_points(group: str) -> dict[str, Any]:
    from importlib.metadata import entry_points  # 15 ms: only when a name is not built in

    return {point.name: point for point in entry_points(group=f"proxyfab.{group}")}
