"""What other processes do in the tests of ownership: what they are told, with what they hold."""

from __future__ import annotations

import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

from proxyfab import Store, open_store
from proxyfab.patterns import adopt, borrow, borrow_mut, clone, own, reclaim, release, update
from proxyfab.patterns.ownership.verbs import held


class Holder:
    """Owners and borrows by name."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.things: dict[str, Any] = {}

    def own(self, name: str, obj: Any, lease: float) -> tuple[str, str]:
        self.things[name] = own(self.store, obj, lease=lease)
        return self.keys(name)

    def adopt(self, name: str, key: str, lease: float) -> None:
        self.things[name] = adopt(self.store.ref_from_key(key), lease=lease)

    def keys(self, name: str) -> tuple[str, str]:
        handle = held(self.things[name])
        return handle.key, handle.account.data

    def borrow(self, name: str, of: str) -> None:
        self.things[name] = borrow(self.things[of])

    def borrow_mut(self, name: str, of: str) -> None:
        self.things[name] = borrow_mut(self.things[of])

    def clone(self, name: str, of: str) -> None:
        self.things[name] = clone(self.things[of])

    def read(self, name: str) -> Any:
        return list(self.things[name])

    def append(self, name: str, value: Any) -> None:
        self.things[name].append(value)
        update(self.things[name])

    def dump(self, name: str) -> bytes:
        return pickle.dumps(self.things[name])

    def load(self, name: str, message: bytes) -> None:
        self.things[name] = pickle.loads(message)

    def release(self, name: str) -> None:
        release(self.things[name])

    def reclaim(self, name: str) -> None:
        reclaim(self.things[name])

    def drop(self, name: str) -> None:
        del self.things[name]


def hold(talk: Connection, url: str) -> None:
    """Do what is asked until nothing is; errors are answers. At the end everything is still held."""
    holder = Holder(open_store(url))
    globals()["kept"] = holder
    while True:
        verb, *args = talk.recv()
        if verb == "leave":
            return
        try:
            talk.send((True, getattr(holder, verb)(*args)))
        except Exception as error:
            talk.send((False, error))


def pid_of(values: Any) -> tuple[int, list[int]]:
    """For pools: who read what."""
    return os.getpid(), list(values)


def total(values: Any) -> int:
    """For pools."""
    return int(sum(values))


def fails_once(values: Any, marker: str) -> int:
    """For pools: dies in the middle of its first attempt."""
    found = int(sum(values))
    if not os.path.exists(marker):
        with open(marker, "w"):
            pass
        os._exit(9)
    return found


def grown(values: Any) -> Any:
    """For pools: changes what it was sent to own, and sends it back."""
    values.append(99)
    update(values)
    return values


def plus(number: int, values: Any) -> int:
    """For maps."""
    return int(sum(values)) + number
