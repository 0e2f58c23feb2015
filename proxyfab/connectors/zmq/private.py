"""`zmq://auto`: a private node server of this user on this machine, started by its first user, gone after its last.

A directory beside the objects in shared memory holds:

    users     every process that uses the server holds a shared lock on it; with the exclusive one the server ends
    server    the server holds the exclusive lock on it from before it is started until it has ended
    ready     written by the server when it can be connected to
    socket    where it listens

Rules:
1. The kernel frees locks when a process ends, however it ends. So nobody is counted who has gone, and nobody is missed.
2. Who has the shared lock on `users`, and sees that the file still has its name, keeps the server from ending.
3. Who gets the lock on `server` starts it, and the lock goes on to the child: of many at once one starts.
4. A server that ends takes the name of `users` away while it holds the exclusive lock: newcomers wait for its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.osio.files import names_it
from proxyfab.osio.root import Root
from proxyfab.osio.shared import check_mine, default_root

_DIRECTORY = ".auto"
_SOCKET = ".socket"
_LONGEST = 100
_PAUSE = 0.01
_DETACH = (
    "import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Files(NamedTuple):
    """The files of a private server."""

    directory: str

    @property
    def users(self) -> str:
        """Locked by each user."""
        return f"{self.directory}/.users"

    @property
    def server(self) -> str:
        """Locked by the server."""
        return f"{self.directory}/.server"

    @property
    def ready(self) -> str:
        """There when the server is."""
        return f"{self.directory}/.ready"

    @property
    def socket(self) -> str:
        """Where it listens; this is its address in keys."""
        return f"{self.directory}/{_SOCKET}"

    @property
    def log(self) -> str:
        """What it printed."""
        return f"{self.directory}/.log"

    @classmethod
    def here(cls) -> Files:
        """Those of this user and machine.

        Raises:
            ConfigurationError: The path is too long for a socket.
        """
        files = cls(f"{default_root()}/{_DIRECTORY}")
        if len(files.socket) > _LONGEST:
            raise ConfigurationError(f"{files.socket} is too long for a socket; set PROXYFAB_SHM_DIR to a shorter one.")
        return files

    @classmethod
    def at(cls, address: str) -> Files | None:
        """Those of the private server at an address; None when it is no private one's."""
        directory, name = os.path.split(address)
        return cls(directory) if name == _SOCKET and os.path.basename(directory) == _DIRECTORY else None


class Membership:
    """A use of a private server: as long as it is held the server does not end."""

    def __init__(self, files: Files, descriptor: int) -> None:
        self.files = files
        self._descriptor = descriptor
        self._pid = os.getpid()

    @property
    def mine(self) -> bool:
        """Whether this process took it: a forked child takes one of its own."""
        return self._pid == os.getpid()

    def leave(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1


def join(files: Files, timeout: float, *, start: bool) -> Membership | None:
    """Use a private server, started if need be.

    Args:
        files: Of the server.
        timeout: Seconds until it is ready, at most.
        start: Whether to start it. None is the answer if it does not run and is not to be started.

    Raises:
        ConnectorError: It did not become ready.
    """
    deadline = time.monotonic() + timeout
    if start:
        _make(files)
    elif not os.path.isdir(files.directory):
        return None
    while (member := _enter(files)) is None:
        _pause(files, deadline, timeout)
    try:
        while True:
            server = lock(files.server)
            if server is not None:
                try:
                    if not start:
                        member.leave()
                        return None
                    _start(files, server)
                finally:
                    os.close(server)
            elif os.path.exists(files.ready):
                return member
            _pause(files, deadline, timeout)
    except BaseException:
        member.leave()
        raise


def _make(files: Files) -> None:
    root = default_root()
    if not check_mine(root):
        Root.make(root)
        check_mine(root)
    os.makedirs(files.directory, mode=0o700, exist_ok=True)


def _enter(files: Files) -> Membership | None:
    """The shared lock; None when a server is just ending."""
    descriptor = os.open(files.users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if names_it(files.users, descriptor):
            return Membership(files, descriptor)
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def lock(path: str) -> int | None:
    """A descriptor with the exclusive lock on a file; None when somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _start(files: Files, server: int) -> None:
    """Start the server, which inherits the lock. Not as our child: it outlives us."""
    for path in (files.ready, files.socket):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    command = ["-m", "proxyfab", "serve", "--private", files.directory, "--ready-file", files.ready]
    with open(files.log, "wb") as log:
        subprocess.run(
            [sys.executable, "-c", _DETACH, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[server],
            cwd="/",
            check=True,
            timeout=30,
        )


def _pause(files: Files, deadline: float, timeout: float) -> None:
    if time.monotonic() < deadline:
        time.sleep(_PAUSE)
        return
    said = ""
    with contextlib.suppress(OSError), open(files.log, errors="replace") as log:
        said = log.read(2000).strip()
    raise ConnectorError(
        f"The private node server in {files.directory} did not become ready in {timeout:.1f} s. It printed: {said!r}"
    )


class Memberships:
    """The uses of one connector, by directory. Thread-safe and fork-safe."""

    def __init__(self) -> None:
        self._held: dict[str, Membership] = {}
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may end somebody who uses one

    def after_fork(self) -> None:
        """The parent's are the parent's: close our copies, which frees nothing of his."""
        self._lock = threading.RLock()
        for member in self._held.values():
            member.leave()
        self._held.clear()

    def take(self, files: Files, timeout: float, *, start: bool) -> bool:
        """Use a server from now on; whether it runs."""
        if files.directory in self._held:  # also while another thread starts it anew
            return True
        with self._lock:  # held while a server starts, as all who come now wait for that
            if files.directory in self._held:
                return True
            member = join(files, timeout, start=start)
            if member is not None and self._held.setdefault(files.directory, member) is not member:
                member.leave()
            return member is not None

    def renew(self, files: Files, timeout: float) -> None:
        """Start a server that is used from here anew, if it was killed: one that is used does not end by itself.

        Raises:
            ConnectorError: It is not ready within `timeout` seconds, or another thread has tried as long.
        """
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            _pause(files, deadline, timeout)
            return
        try:
            before = self._held.get(files.directory)
            member = None if before is None else join(files, deadline - time.monotonic(), start=True)
            if before is not None and member is not None:
                self._held[files.directory] = member
                before.leave()
        finally:
            self._lock.release()

    def leave(self) -> None:
        """End all."""
        with self._lock:
            while self._held:
                self._held.popitem()[1].leave()
