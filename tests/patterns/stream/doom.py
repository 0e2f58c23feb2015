"""Crashes at any step, in one process: a broker and a store of a process that dies before or behind one of its calls.

What is dead answers nothing more, also to its own threads; what it held at the real broker is given back, as if its
connection had broken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from proxyfab import Store
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConnectorError
from proxyfab.events.around import Around
from proxyfab.events.broker import TIMEOUT, Broker, State, Subscription
from proxyfab.events.model import Delivery, Description, GroupInfo, Kept, Position, Record, Start

R = TypeVar("R")


class Crash(BaseException):
    """The process is killed."""


class Doom:
    """Counts the steps of one process, and ends it at one of them.

    Args:
        at: Twice the number of the call to die before, and one more to die behind it; None to live.
    """

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.steps = 0
        self.dead = False
        self.ends: list[Callable[[], object]] = []
        self.last = ""

    def do(self, what: str, call: Callable[[], R]) -> R:
        if self.dead:
            raise ConnectorError(f"{what}: this process is dead.")
        if threading.current_thread() is not threading.main_thread():
            return call()
        self._step(f"before {what}")
        found = call()
        self._step(f"behind {what}")
        return found

    def _step(self, where: str) -> None:
        if self.steps == self.at:
            self.last = where
            self.die()
            raise Crash(where)
        self.steps += 1

    def die(self) -> None:
        self.dead = True
        for end in self.ends:
            end()


class DoomedConnector(MemoryConnector):
    """Objects in a named place of this process's memory, as seen by a process that is doomed."""

    doom = Doom(None)

    def put(self, *args: Any, **options: Any) -> Any:
        return self.doom.do("put", lambda: super(DoomedConnector, self).put(*args, **options))

    def evict_many(self, keys: Any) -> Any:
        return self.doom.do("evict", lambda: super(DoomedConnector, self).evict_many(keys))


def doomed_store(doom: Doom, name: str) -> Store:
    connector = DoomedConnector(name)
    connector.doom = doom
    store = Store(connector, inline_below=0)
    doom.ends.append(store.close)
    return store


class Lent(Around):
    """A broker around another one, which stays open."""

    def __init__(self, real: Broker) -> None:
        self.real = real
        self.capabilities, self.url = real.capabilities, real.url  # type: ignore[misc]  # of this one

    @property
    def own(self) -> Broker:
        return self.real

    def close(self) -> None:
        """The real one stays open."""

    @property
    def closed(self) -> bool:
        return False


class DoomedBroker(Lent):
    """A broker as seen by a process that is doomed."""

    def __init__(self, real: Broker, doom: Doom) -> None:
        super().__init__(real)
        self.doom = doom

    def describe(self, topic: str, **options: Any) -> Description:
        return self.doom.do("describe", lambda: super(DoomedBroker, self).describe(topic, **options))

    def publish(self, topic: str, records: Sequence[Record], **options: Any) -> list[Position]:
        return self.doom.do("publish", lambda: super(DoomedBroker, self).publish(topic, records, **options))

    def subscribe(self, topic: str, **options: Any) -> Subscription:
        real = super().subscribe(topic, **options)
        self.doom.ends.append(real.close)
        return _Doomed(real, self.doom)

    def groups(self, topic: str, **options: Any) -> dict[str, GroupInfo]:
        return self.doom.do("groups", lambda: super(DoomedBroker, self).groups(topic, **options))

    def state(self, topic: str = "", **options: Any) -> State:
        return _DoomedState(super().state(topic, **options), self.doom)

    @property
    def closed(self) -> bool:
        return self.doom.dead


class _Doomed(Subscription):
    def __init__(self, real: Subscription, doom: Doom) -> None:
        self.real, self.doom, self.topic, self.group = real, doom, real.topic, real.group

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        return self.doom.do("fetch", lambda: self.real.fetch(most, timeout))

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        self.doom.do("ack", lambda: self.real.ack(deliveries))

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        self.doom.do("nack", lambda: self.real.nack(deliveries, delay=delay, note=note))

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        self.doom.do("extend", lambda: self.real.extend(deliveries))

    def seek(self, start: Start) -> None:
        self.real.seek(start)

    def info(self) -> GroupInfo:
        return self.real.info()

    def flush(self, timeout: float = TIMEOUT) -> None:
        self.doom.do("flush", lambda: self.real.flush(timeout))

    def close(self) -> None:
        self.real.close()


class _DoomedState(State):
    def __init__(self, real: State, doom: Doom) -> None:
        self.real, self.doom = real, doom

    def get(self, name: str) -> Kept | None:
        return self.doom.do("get", lambda: self.real.get(name))

    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        return self.doom.do("set", lambda: self.real.put(name, value, revision=revision, ttl=ttl))

    def delete(self, name: str, *, revision: int | None = None) -> bool:
        return self.doom.do("delete", lambda: self.real.delete(name, revision=revision))

    def items(self, prefix: str = "") -> dict[str, Kept]:
        return self.real.items(prefix)

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        return self.real.wait(known, timeout)
