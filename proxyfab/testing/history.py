"""A history of what processes asked of a place and what they were told, which outlives their being killed.

Each process writes a log of its own, one line when it calls and one when it was answered, each by a single `write`:
what was written before a SIGKILL is in the page cache, and at worst the last line is missing. Times are of the
monotonic clock, which all processes of a machine share. `verdict` reads the logs afterwards and judges.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from proxyfab.errors import ProxyfabError

EVENTS = "events"
ROSTER = "roster"
"""Names of the writers of the moment, for readers."""
PUTS = ("put", "put_many")
EVICTS = ("evict",)
GETS = ("get", "get_many", "held")
_LONGEST_LINE = 1 << 16


class Record(NamedTuple):
    """One call, and what came of it."""

    who: str
    op: str
    ids: tuple[str, ...]
    version: int
    """Which version of the objects was put; 0 for what puts nothing."""
    ttl: float | None
    invoked: float
    returned: float | None
    """None when the process was killed inside the call."""
    results: tuple[str, ...]
    """One for each id: `v<version>`, `missing`, `torn`, a full key (of a put), `true`, `false`; or one `!Error`."""

    @property
    def definite(self) -> bool:
        """Whether the caller knows what happened."""
        return self.returned is not None and not self.results[0].startswith("!")


class Event(NamedTuple):
    """Something that was done to a process: `kill`, `stop`, `continue`, `down` and `up` (of a server)."""

    at: float
    what: str
    who: str


class History(NamedTuple):
    """All that happened."""

    records: list[Record]
    events: list[Event]

    @classmethod
    def load(cls, directory: Path) -> History:
        """Read every log in a directory."""
        records, events = [], []
        for path in sorted(directory.iterdir()):
            if path.name == EVENTS:
                events = [Event(float(at), what, who) for at, what, who in _lines(path)]
            elif path.name != ROSTER:
                records += read(path)
        return cls(sorted(records, key=lambda record: record.invoked), events)


class Log:
    """Where one process writes down what it does. Not thread-safe."""

    def __init__(self, directory: Path, who: str) -> None:
        self.who = who
        self._fd = os.open(directory / who, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._count = 0

    def call(
        self,
        op: str,
        ids: Sequence[str],
        act: Callable[[], Sequence[str]],
        *,
        version: int = 0,
        ttl: float | None = None,
    ) -> Sequence[str] | None:
        """Do `act`, which says what came of it for each id; None when it raised one of proxyfab's errors.

        Any other exception is written down as undeclared, and raised.
        """
        self._count += 1
        self._write("i", op, time.monotonic(), " ".join(ids), version, "" if ttl is None else ttl)
        try:
            results: Sequence[str] = act()
        except ProxyfabError as error:
            self._write("r", time.monotonic(), f"!{type(error).__name__}", str(error).replace("\n", " "))
            return None
        except Exception as error:
            self._write("r", time.monotonic(), f"!!{type(error).__name__}", str(error).replace("\n", " "))
            raise
        self._write("r", time.monotonic(), " ".join(results))
        return results

    def event(self, what: str, who: str) -> None:
        """Write down what is done to a process; for the log named EVENTS."""
        os.write(self._fd, f"{time.monotonic():.6f}\t{what}\t{who}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write(self, kind: str, *fields: object) -> None:
        texts = (f"{field:.6f}" if isinstance(field, float) else str(field) for field in fields)
        os.write(self._fd, ("\t".join((kind, str(self._count), *texts)) + "\n").encode())


def read(path: Path) -> list[Record]:
    """The calls in one log."""
    calls: dict[str, Record] = {}
    for kind, number, *fields in _lines(path):
        if kind == "i":
            op, invoked, ids, version, ttl = fields
            many = tuple(ids.split(" "))
            calls[number] = Record(
                path.name, op, many, int(version), float(ttl) if ttl else None, float(invoked), None, ()
            )
        else:
            returned, results = fields[:2]
            calls[number] = calls[number]._replace(returned=float(returned), results=tuple(results.split(" ")))
    return list(calls.values())


def amid(path: Path) -> bool:
    """Whether the log of a process that was killed ends inside a call."""
    with path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _LONGEST_LINE, 0))
        return file.read().rstrip(b"\n").rpartition(b"\n")[2].startswith(b"i\t")


def recent(path: Path, most: int = 8192) -> list[str]:
    """Full keys of objects that were put, and acknowledged, towards the end of a log that somebody still writes."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            tail = os.pread(file.fileno(), most, max(size - most, 0)).decode()
    except OSError:
        return []
    invoked: dict[str, str] = {}
    keys = []
    for line in tail.split("\n")[1:-1]:  # the first may be cut, and so may the last
        kind, number, *fields = line.split("\t")
        if kind == "i":
            invoked[number] = fields[0]
        elif invoked.get(number) in PUTS and not fields[1].startswith("!"):
            keys += fields[1].split(" ")
    return keys


def _lines(path: Path) -> list[list[str]]:
    *whole, _ = path.read_text().split("\n")
    return [line.split("\t") for line in whole]
