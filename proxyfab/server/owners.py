"""Owners: which process an unnamed namespace lives with, and whether that has ended.

The namespace's name tells the process (machine, id, start). One of this machine is looked up; of another
machine nothing is known but whether it is connected.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from proxyfab.osio.namespace import Namespace
from proxyfab.osio.owner import Writer, running

_LOOK = 5.0
_REMEMBERED = 10_000
"""Processes whose names are known, the last ones that came."""


def process_of(writer: Writer) -> str:
    """A process in a word."""
    return f"{writer.machine}-{writer.pid}-{writer.start}"


def can_look_up(process: str) -> bool:
    """Whether a process is of this machine, so that its end is seen here."""
    machine, _, rest = process.partition("-")
    pid, _, start = rest.partition("-")
    return not (pid + start).isdecimal() or running(Writer(machine, int(pid), int(start or 0))) is not None


class Owners:
    """Belongs to one thread.

    Args:
        reaches: Whether a process that cannot be looked up from here is connected.
        grace: Seconds without a connection after which such a process has ended.
    """

    def __init__(self, reaches: Callable[[str], bool] = lambda _: True, grace: float = 60.0) -> None:
        self._reaches, self._grace = reaches, grace
        self._missing: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._connected: Counter[str] = Counter()
        self._looked = 0.0

    def come(self, process: str, name: str) -> bool:
        """A connection of a process was made; whether it is its first."""
        self._connected[process] += 1
        self._names.pop(process, None)
        self._names[process] = name
        if len(self._names) > _REMEMBERED:
            del self._names[next(iter(self._names))]
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
        """Those whose process has ended; with `now` (monotonic seconds) looked up only now and then."""
        if now is not None and now - self._looked < min(_LOOK, self._grace / 4):
            return []
        self._looked = time.monotonic()
        writers = {namespace: writer for namespace in namespaces if (writer := _writer(namespace)) is not None}
        alive = {namespace: running(writer) for namespace, writer in writers.items()}
        elsewhere = {process_of(writers[namespace]) for namespace, state in alive.items() if state is None}
        gone = {process for process in elsewhere if self._is_gone(process)}
        self._missing = {process: since for process, since in self._missing.items() if process in elsewhere}
        return [
            namespace
            for namespace, state in alive.items()
            if state is False or (state is None and process_of(writers[namespace]) in gone)
        ]

    def _is_gone(self, process: str) -> bool:
        """Whether a process of another machine has not been connected for the time of grace."""
        if self._connected[process] or self._reaches(process):
            self._missing.pop(process, None)
            return False
        return self._looked - self._missing.setdefault(process, self._looked) >= self._grace


def _writer(namespace: str) -> Writer | None:
    return Namespace("", namespace, network=False).writer()
