"""How long after the start of a put a waiter in another process goes on: one way to measure it for every connector."""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.keys import Key
from proxyfab.testing.processes import Child


def woken(connector: Any, keys: list[Key]) -> Iterator[float]:
    """Seconds for each key, which nothing lies under yet."""
    with Child(_wait, connector, keys) as child:
        for key in keys:
            child.receive()
            time.sleep(0.002)  # so that it waits
            start = time.monotonic()
            connector.put(Frames([b"now"]), key=key)
            yield child.receive() - start


def _wait(talk: Connection, connector: Any, keys: list[Key]) -> None:
    for key in keys:
        talk.send("waiting")
        connector.wait(key, 30)
        talk.send(time.monotonic())
