"""Carrier: how an array becomes the body of a message: as a reference into a store, or as its own bytes.

This is the one place where the two passes of the demonstration differ.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from proxyfab.demo.setup import Setup
from proxyfab.ref import Ref
from proxyfab.store import open_store

Stats = dict[str, dict[str, float]]


class Carrier(Protocol):
    """Packs arrays into bodies and opens them again."""

    def pack(self, obj: object, *, readers: int = 1) -> bytes:
        """The body that stands for `obj`; `readers` is how many processes will open it."""
        ...

    def opened(self, body: bytes | bytearray) -> Any:
        """A context in which the object can be used; leaving it without an error says that its use has succeeded."""
        ...

    def stats(self) -> Stats:
        """What the data plane moved, as `Store.stats` gives it."""
        ...


class ByReference:
    """The array goes into the store, the body is a reference to it, and it is released after its use has succeeded."""

    def __init__(self, url: str) -> None:
        self._store = open_store(url)

    def pack(self, obj: object, *, readers: int = 1) -> bytes:
        return pickle.dumps(self._store.ref(obj, once=readers == 1))

    @contextmanager
    def opened(self, body: bytes | bytearray) -> Iterator[Any]:
        ref: Ref[Any] = pickle.loads(body)
        with ref as obj:
            yield obj

    def stats(self) -> Stats:
        return self._store.stats()


class ByValue:
    """The body is the pickled array, as `multiprocessing` queues and pools carry it."""

    def pack(self, obj: object, *, readers: int = 1) -> bytes:  # noqa: ARG002  # a copy goes to each reader anyway
        return pickle.dumps(obj, protocol=5)

    @contextmanager
    def opened(self, body: bytes | bytearray) -> Iterator[Any]:
        yield pickle.loads(body)

    def stats(self) -> Stats:
        return {}


def carrier(setup: Setup) -> Carrier:
    """The carrier for this pass, rehearsed: one array there and back.

    So opening the store, and importing what arrays need, is over before the clock starts.
    """
    import numpy as np  # here, because the dispatcher imports what this module's neighbours import

    carry: Carrier = ByReference(setup.store) if setup.passing == "reference" else ByValue()
    with carry.opened(carry.pack(np.ones((64, 64)))) as array:
        array.sum()
    return carry
