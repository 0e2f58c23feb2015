"""The brokers that are put to the test by kills, each with its objects' place and its server; real ones, on free ports.

| name | broker | objects |
|---|---|---|
| redis | Redis, each change synced | `file://` |
| nats | nats-server, files | `redis://` of another server |
| zmq | a node's own | `file://` |
| kafka | librdkafka's mock cluster | `file://` |

Killed and started on its data is the server of redis and of nats. That of zmq keeps nothing, and says so; the mock
cluster has nothing to be started on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from proxyfab.errors import ConfigurationError
from proxyfab.testing.events import EventServer
from proxyfab.testing.kafka import KafkaCluster
from proxyfab.testing.kills import Server
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.processes import until
from proxyfab.testing.servers import RedisServer

Struck: TypeAlias = Literal["producers", "consumers", "brokers", "everybody"]
_MARK = b"proxyfab.epoch"
"""What a Redis is known by; it stays."""


@dataclass
class Place:
    """A broker under test.

    Args:
        name: What it is called in a report.
        url: What opens the broker.
        store: What opens the objects' place.
        server: What is killed as a broker; None where that would only be a loss.
        make: Makes a topic where the broker cannot.
        deletes: Whether it can delete topics.
        leftovers: What lies at the broker although every topic was deleted, in words.
        inside: What a broker itself says of a topic, in its own words.
    """

    name: str
    url: str
    store: str
    server: Server | None = None
    make: Callable[[str, int], object] = lambda topic, partitions: None
    deletes: bool = True
    leftovers: Callable[[], list[str]] = list
    inside: Callable[[str], list[str]] = lambda topic: []


@contextmanager
def place(name: str, directory: Path) -> Iterator[Place]:
    """A broker of its own, by its short name; its servers end with the block."""
    if name not in _MAKERS:
        raise ConfigurationError(f"There is no broker {name!r} to kill; there are {', '.join(_MAKERS)}.")
    with _MAKERS[name](directory) as made:
        yield made


def names() -> list[str]:
    """Every broker that can be put to the test."""
    return list(_MAKERS)


def kinds(name: str) -> tuple[Struck, ...]:
    """Who can be killed there; `everybody` is one of them at a time."""
    return ("producers", "consumers", "brokers") if name in ("redis", "nats") else ("producers", "consumers")


@dataclass
class _Loading:
    """A Redis that has started only when it has read what it had."""

    server: RedisServer

    @property
    def pid(self) -> int:
        return self.server.pid

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        from redis.exceptions import ConnectionError as NotYet

        def loaded() -> bool:
            try:
                return bool(client.info("persistence")["loading"] == 0)
            except NotYet:
                return False

        self.server.start()
        with closing(self.server.client()) as client:
            assert until(loaded), "Redis does not finish loading what it had"


@contextmanager
def _redis(directory: Path) -> Iterator[Place]:
    with RedisServer({"appendonly": "yes", "appendfsync": "always"}) as server:

        def left() -> list[str]:
            with closing(server.client()) as client:
                return [f"redis key {name.decode(errors='replace')}" for name in client.keys("*") if name != _MARK]

        def inside(topic: str) -> list[str]:
            with closing(server.client()) as client:
                keys = client.scan_iter(_type="stream")
                return [f"{key!r}: {client.xinfo_stream(key, full=True)}" for key in keys]

        yield Place("redis", f"{server.url}/0", _files(directory), _Loading(server), leftovers=left, inside=inside)


@contextmanager
def _nats(directory: Path) -> Iterator[Place]:
    with NatsServer("") as server, RedisServer() as objects:
        yield Place("nats", server.url, f"{objects.url}/0?ns=objects", server, inside=partial(_seats, server.url))


def _seats(url: str, topic: str) -> list[str]:
    from proxyfab.brokers.nats import topics
    from proxyfab.brokers.nats.broker import NatsBroker
    from proxyfab.brokers.nats.groups import seats

    with closing(NatsBroker.from_url(url)) as broker:
        desk = broker._desk
        info = broker._run(lambda deadline: topics.look(desk, topic, deadline))[1]
        there = broker._run(lambda deadline: seats(desk.link, desk.names, topic, deadline))
    return [f"{topic}: {info}", *(f"{group}: {dict(turns)}" for group, turns in there.items())]


@contextmanager
def _zmq(directory: Path) -> Iterator[Place]:
    with EventServer() as server:
        yield Place("zmq", server.url, _files(directory))


@contextmanager
def _kafka(directory: Path) -> Iterator[Place]:
    with KafkaCluster() as cluster:
        yield Place("kafka", cluster.url, _files(directory), make=cluster.create, deletes=False)


def _files(directory: Path) -> str:
    return f"file://{directory / 'objects'}?ns=events"


_MAKERS: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "redis": _redis,
    "nats": _nats,
    "zmq": _zmq,
    "kafka": _kafka,
}
