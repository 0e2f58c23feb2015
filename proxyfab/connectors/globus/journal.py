"""Journal: what a process still has to send, in a file that outlives it.

One file for each process, locked (`flock`) while it lives, a line of JSON for each fact: an object is to be sent; a
submission of some objects is about to be made, under this id; it became this task; it is over. A line is in the file
before what it announces is done. So who finds the file of a process that has ended knows which submissions may have
been made, and makes them again under the same id, which makes no second task. Not promised: a power cut's last lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from proxyfab.osio.files import translate

Record = dict[str, Any]


class Journal:
    """The journal of this process in `directory`, made at the first line. Not thread-safe: its courier's."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd: int | None = None
        self._path = ""

    def write(self, *records: Record) -> None:
        """Add lines."""
        text = "".join(f"{json.dumps(record)}\n" for record in records).encode()
        try:
            if self._fd is None:
                self._open()
            os.write(self._fd or 0, text)
        except OSError as error:
            raise translate(error, "write", self._path or self._directory) from error

    def settle(self) -> None:
        """Nothing is owed any more: the file begins anew."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Let go of the file; without lines it is removed, else it is left for whoever comes next."""
        fd, self._fd = self._fd, None
        if fd is not None:
            if not os.fstat(fd).st_size:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
            os.close(fd)

    def forget(self) -> None:
        """In a forked child: the file is the parent's. An unlock here would be the parent's, too; closing is not."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def adopt(self) -> list[Record]:
        """The lines of processes that have ended, now in this journal."""
        found: list[Record] = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._directory)):
                path = f"{self._directory}/{name}"
                if path != self._path and name.endswith(".jsonl"):
                    found.extend(self._take_over(path))
        return found

    def _open(self) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        path = f"{self._directory}/{os.getpid()}-{os.urandom(6).hex()}"
        fd = os.open(f"{path}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(f"{path}.new", f"{path}.jsonl")  # others see it locked, or not at all
        self._fd, self._path = fd, f"{path}.jsonl"

    def _take_over(self, path: str) -> list[Record]:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(fd).st_nlink:
                return []
            records = list(_lines(os.pread(fd, os.fstat(fd).st_size, 0)))
            if records:
                self.write(*records)
            os.unlink(path)
        except BlockingIOError:  # its process lives
            return []
        finally:
            os.close(fd)
        return records


def _lines(text: bytes) -> Iterator[Record]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # a kill may have cut off the last one
            record = json.loads(line)
            if isinstance(record, dict):
                yield record
