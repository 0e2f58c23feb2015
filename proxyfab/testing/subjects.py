"""The places that are put to the test by kills and soaks, each with what it promises; real ones, on free ports.

with subject("shm", directory) as one:
    ...
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import ConfigurationError
from proxyfab.osio.namespace import Namespace
from proxyfab.testing.kills import Subject, Victims
from proxyfab.testing.leaks import SHARED
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import until
from proxyfab.testing.servers import RedisServer
from proxyfab.testing.verdict import Promise

DEADLINE = 5.0
"""Seconds that a call may take, by the places' own options where they have one."""
_EPOCH = b"proxyfab.epoch"
"""What a server is known by; it stays."""
_SMALL = 256 * 1024
_LONG = 64 << 20
"""Bytes of an append-only file from which on it is written anew; loading it takes part of a second."""


@contextmanager
def subject(name: str, directory: Path) -> Iterator[Subject]:
    """A place of its own, by its short name; its server, where it has one, ends with the block."""
    if name not in _MAKERS:
        raise ConfigurationError(f"There is no {name!r} to kill; there are {', '.join(_MAKERS)}.")
    with _MAKERS[name](directory) as made:
        yield made


def names() -> list[str]:
    """Every place that can be put to the test."""
    return list(_MAKERS)


def kinds(name: str) -> tuple[Victims, ...]:
    """Who can be killed there."""
    return _KINDS[name]


@contextmanager
def _shm(directory: Path) -> Iterator[Subject]:
    shared = str(SHARED) if os.access(SHARED, os.W_OK) else str(directory)
    with (
        tempfile.TemporaryDirectory(prefix="proxyfab-kills-", dir=shared) as root,
        _environment("PROXYFAB_SHM_DIR", root),
    ):
        left = partial(_remains, Path(root))
        yield Subject(
            "shm",
            "shm://kills",
            Promise(DEADLINE),
            owned="shm://",
            leftovers=left,
        )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _file(directory: Path) -> Iterator[Subject]:
    root = directory / "objects"
    url = f"file://{root}"
    yield Subject(
        "file",
        f"{url}?ns=kills",
        Promise(DEADLINE),
        owned=url,
        leftovers=partial(_remains, root),
    )


def _remains(root: Path, alive: Callable[[], int] = os.getpid) -> list[str]:
    """What dead processes left under a root: large files, and unnamed places of other processes than those alive."""
    mine = {os.getpid(), alive()}
    left = []
    for path in root.rglob("*"):
        space = path.relative_to(root).parts[0]
        writer = Namespace(str(root), space, network=False).writer()
        if writer is not None and writer.pid in mine:
            continue
        if writer is not None or (path.is_file() and path.stat().st_size > _SMALL):
            left.append(f"{path} ({path.stat().st_size} bytes)")
    return left


def _remains_of_clients(root: Path, server: NodeServer) -> list[str]:
    """The same, after what `proxyfab gc` does; the server lives."""
    with SharedMemoryConnector() as connector:
        connector.reap()
    return _remains(root, lambda: server.pid)


@contextmanager
def _zmq(directory: Path, *, shared: bool = True) -> Iterator[Subject]:
    """A node server, used through shared memory or, as from elsewhere, through its socket only."""
    place = str(SHARED) if os.access(SHARED, os.W_OK) else str(directory)
    with (
        tempfile.TemporaryDirectory(prefix="proxyfab-kills-", dir=place) as root,
        _environment("PROXYFAB_SHM_DIR", root),
        NodeServer(["--memory", "256MiB", "--spill", str(directory / "spill")]) as server,
    ):
        url = f"{server.url}?timeout={DEADLINE:g}&shared={int(shared)}"
        errors = frozenset({"ConnectorError"})
        yield Subject(
            "zmq" if shared else "zmq-socket",
            f"{url}&ns=kills",
            Promise(DEADLINE),
            owned=url,
            server=_Restarted(server, server.restart),
            crashed=Promise(DEADLINE, "server", tells=True, errors=errors),
            leftovers=partial(_remains_of_clients, Path(root), server),
        )


class _Restarted(NamedTuple):
    """A server that starts again where it was."""

    server: NodeServer | RedisServer
    start: Callable[[], None]

    @property
    def pid(self) -> int:
        return self.server.pid

    def kill(self) -> None:
        self.server.kill()


def _start(server: RedisServer) -> None:
    """Start a Redis, whose append-only file does not grow for ever, and wait until it has loaded what it had."""
    server.start()
    with closing(server.client()) as client:
        assert until(lambda: _state(client)["loading"] == 0), "Redis does not finish loading what it had"
        if _state(client).get("aof_current_size", 0) > _LONG:
            client.bgrewriteaof()
            assert until(lambda: not _rewrites(_state(client))), "Redis does not finish its append-only file"


def _state(client: Any) -> dict[str, Any]:
    from redis.exceptions import ConnectionError as NotYet

    try:
        return dict(client.info("persistence"))
    except NotYet:
        return {"loading": 1}


def _rewrites(state: dict[str, Any]) -> bool:
    return bool(state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


@contextmanager
def _redis(directory: Path, *, durable: bool = True) -> Iterator[Subject]:
    """A server that writes each change to its disk before it says so, or one that forgets all when it dies."""
    durably = {"appendonly": "yes", "appendfsync": "always", "auto-aof-rewrite-percentage": "0"}
    config = durably if durable else {}
    with RedisServer(config) as server:
        url = f"{server.url}/0?timeout={DEADLINE:g}"
        errors = frozenset({"ConnectorError"})
        yield Subject(
            "redis" if durable else "redis-memory",
            f"{url}&ns=kills",
            Promise(DEADLINE),
            owned=url,
            server=_Restarted(server, partial(_start, server)),
            crashed=Promise(DEADLINE, "nobody" if durable else "server", tells=True, errors=errors),
            leftovers=partial(_keys_left, server),
        )


def _keys_left(server: RedisServer) -> list[str]:
    """Keys that hold an object, or lead to one."""
    with closing(server.client()) as client:
        return [f"redis key {name.decode(errors='replace')}" for name in client.keys("*") if name != _EPOCH]


_MAKERS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "shm": _shm,
    "file": _file,
    "redis": _redis,
    "redis-memory": partial(_redis, durable=False),
    "zmq": _zmq,
    "zmq-socket": partial(_zmq, shared=False),
}
_KINDS: dict[str, tuple[Victims, ...]] = {
    "shm": ("writers", "readers", "owners"),
    "file": ("writers", "readers", "owners"),
    "redis": ("writers", "readers", "owners", "servers"),
    "redis-memory": ("servers",),
    "zmq": ("writers", "readers", "owners", "servers"),
    "zmq-socket": ("writers", "readers", "servers"),
}
