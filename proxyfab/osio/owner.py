"""Who a process is, whether it still runs, and locks that end with it.

Promises: a process is told by machine, pid and start time, so that a reused pid is not mistaken for it; "machine" is
one boot and one pid namespace, because only there a pid means something. Where nothing can be known the answer is None,
never a guess. A lock is a `flock`: the kernel frees it when its process ends, also after SIGKILL.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from base64 import b32decode, b32encode
from hashlib import blake2b
from typing import NamedTuple

from proxyfab.errors import ConnectorError
from proxyfab.osio.machine import boot
from proxyfab.trace import here

PATIENCE = 10.0
"""Seconds to wait for a lock."""
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""What file systems without locks answer."""


class Writer(NamedTuple):
    """A process as it can be looked up."""

    machine: str
    """8 hexadecimal digits of the boot and the pid namespace."""
    pid: int
    start: int
    """Clock ticks from the machine's start to the process's."""

    def pack(self, number: int) -> str:
        """24 characters that name the writer and one of its things: lower-case letters and the digits 2 to 7."""
        parts = (self.pid.to_bytes(3, "big"), self.start.to_bytes(5, "big"), number.to_bytes(3, "big"))
        return b32encode(bytes.fromhex(self.machine) + b"".join(parts)).decode().lower()

    @classmethod
    def unpack(cls, text: str) -> Writer:
        """The writer in what `pack` made; ValueError for anything else."""
        data = b32decode(text.upper())
        if len(data) != 15:
            raise ValueError(f"{text!r} names no process")
        return cls(data[:4].hex(), int.from_bytes(data[4:7], "big"), int.from_bytes(data[7:12], "big"))


class Process(NamedTuple):
    """A process as people want to read it, too."""

    writer: Writer
    host: str
    command: str

    def __str__(self) -> str:
        return f"{self.writer.pid}@{self.host}"


_this: Process | None = None


def this_process() -> Process:
    """The calling process; right after a fork, too."""
    global _this
    if _this is None or _this.writer.pid != os.getpid():
        pid = os.getpid()
        status = _status(pid)
        _this = Process(Writer(_machine(), pid, status[1] if status else 0), here(), _command())
    return _this


def running(writer: Writer) -> bool | None:
    """Whether that process runs; None when it cannot be judged from here (another machine, boot or container)."""
    if writer.machine != _machine():
        return None
    status = _status(writer.pid)
    if status is None:
        return False
    state, start = status
    if state == _UNREADABLE:
        return True  # who cannot be looked at, as no descriptor is left, has not ended
    # A zombie holds no lock and writes no byte.
    return state not in "ZX" and (not writer.start or start == writer.start)


def try_lock(fd: int) -> bool | None:
    """Take an open file's exclusive lock without waiting: True taken, False another has it, None there are no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def wait_lock(fd: int, path: str) -> None:
    """Take an open file's exclusive lock, where there are locks. It is held for a few system calls: who waits is told.

    Raises:
        ConnectorError: Somebody has held it for ten seconds.
    """
    ends, pause = time.monotonic() + PATIENCE, 0.0001
    while try_lock(fd) is False:
        if time.monotonic() > ends:
            raise ConnectorError(f"Another process has held {path} for {PATIENCE:.0f} s; is it stopped? End it.")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


_UNREADABLE = "?"


def _status(pid: int) -> tuple[str, int] | None:
    """State letter and start time from /proc; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return _UNREADABLE, 0
    return fields[0].decode(), int(fields[19])


_machine_id = ""


def _machine() -> str:
    global _machine_id
    if not _machine_id:
        parts = here().encode() + boot() + _namespace()
        _machine_id = blake2b(parts, digest_size=4).hexdigest()
    return _machine_id


def _namespace() -> bytes:
    try:
        return os.readlink("/proc/self/ns/pid").encode()
    except OSError:
        return b""


def _command() -> str:
    words = _read("/proc/self/cmdline").split(b"\0")
    return b" ".join(words).decode(errors="replace").strip()[:200]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
