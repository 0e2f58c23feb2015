"""Owners: which process an unnamed namespace lives with, and whether that has ended.

The namespace's name tells the process (machine, id, start). One of this machine is looked up; of another
machine nothing is known but whether it is connected.
"""

from __future__ import annotations

import time
from collections import Counter

from proxyfab.osio.namespace import Namespace
from proxyfab.osio.owner import Writer, running

_LOOK = 5.0


def process_of(writer: Writer) -> str:
    """A process in a word."""
    return f"{writer.machine}-{writer.pid}-{writer.start}"


class Owners:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._connected: Counter[str] = Counter()
        self._looked = 0.0

    def come(self, process: str, name: str) -> bool:
        """A connection of a process was made; whether it is its first."""
        self._connected[process] += 1
        self._names[process] = name
        return self._connected[process] == 1

    def leave(self, process: str) -> None:
        """A connection has ended."""
        if self._connected[process] <= 1:
            del self._connected[process]
        else:
            self._connected[process] -= 1

    def of(self, namespace: str) -> str:
        """The process that a namespace lives with as `pid@host`, `""` for a named one."""
        writer = _writer(namespace)
        return "" if writer is None else self._names.get(process_of(writer), f"{writer.pid}@?")

    def dead(self, namespaces: list[str], now: float | None = None) -> list[str]:
        """Those whose process has ended for certain; with `now` (monotonic seconds) looked up only now and then."""
        if now is not None and now - self._looked < _LOOK:
            return []
        self._looked = time.monotonic()
        found = []
        for namespace in namespaces:
            writer = _writer(namespace)
            if writer is not None and running(writer) is False:
                found.append(namespace)
        return found


def _writer(namespace: str) -> Writer | None:
    return Namespace("", namespace, network=False).writer()
