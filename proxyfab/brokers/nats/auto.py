"""`nats://auto`: a server of this user on this machine, started by its first user, gone after its last.

A directory for this machine and boot, beside the objects in shared memory, holds:

    users     every process that uses the server holds a shared lock on it; with the exclusive one the server ends
    keeper    held exclusively by the keeper and its nats-server, from before they are started until both have ended
    ready     address and token, written by the keeper when the server can be connected to; this user's alone
    log       what keeper and server printed

What the server keeps lies in `$PROXYFAB_BROKER_DIR` or a directory among temporary files, and is there again for the
next one who starts it.

Rules:
1. The kernel frees locks when a process ends, however it ends. So nobody is counted who has gone, and nobody is missed.
2. Who gets the lock on `keeper` starts it, and the lock goes on to the child: of many at once one starts. As the server
   inherits it too, no second one can open its files while it lives.
3. A keeper starts its server again, on the same port, when that died; the server is killed by the kernel when its
   keeper dies. Clients ask here each time they connect, and find whoever is there.
4. A keeper that ends takes the name of `users` away while it holds the exclusive lock: newcomers wait for its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

from proxyfab.brokers.nats.program import check_directory, program
from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.fork import on_fork
from proxyfab.osio.files import make_directory, names_it, read_small
from proxyfab.osio.shared import check_mine, default_root

STORE = "PROXYFAB_BROKER_DIR"
"""Environment variable: where the embedded server keeps topics."""
_PAUSE = 0.01
_STARTS = 2
_DETACH = (
    "import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Files(NamedTuple):
    """The files of an embedded server."""

    directory: str
    store: str

    @property
    def users(self) -> str:
        """Locked by each user."""
        return f"{self.directory}/users"

    @property
    def keeper(self) -> str:
        """Locked by the keeper."""
        return f"{self.directory}/keeper"

    @property
    def ready(self) -> str:
        """Address and token."""
        return f"{self.directory}/ready"

    @property
    def log(self) -> str:
        """What was printed."""
        return f"{self.directory}/log"

    @property
    def claim(self) -> str:
        """Locked by the keeper too: others may see the store who do not see this directory."""
        return f"{self.store}/.lock"

    @classmethod
    def here(cls) -> Files:
        """Those of this user and machine."""
        store = os.environ.get(STORE) or f"{tempfile.gettempdir()}/proxyfab-{os.geteuid()}-broker"
        return cls(f"{default_root()}/.nats", os.path.abspath(os.path.expanduser(store)))

    def make(self) -> None:
        """Make the directories, which must be this user's alone."""
        for path in (self.directory, self.store):
            make_directory(path, parents=True)
            check_directory(path)
        check_mine(default_root())


def lock(path: str, kind: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor with a lock on a file; None when somebody else's is in the way."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Embedded:
    """The use of the embedded server by one broker. Thread-safe and fork-safe.

    Args:
        sync: "always" if the server is to bring each record to the disk before it confirms it.
    """

    def __init__(self, sync: str) -> None:
        self._sync = sync
        self._lock = threading.Lock()
        self._use = -1
        on_fork(self)

    def after_fork(self) -> None:
        """The parent's use is the parent's: closing our copy frees nothing of his."""
        self._lock = threading.Lock()
        self._release()

    def join(self, timeout: float) -> tuple[str, dict[str, Any]]:
        """The address of the server, started if need be, and what to say there.

        Raises:
            ConnectorError: It did not become ready.
        """
        files = Files.here()
        deadline = time.monotonic() + timeout
        with self._lock:
            files.make()
            while not self._used(files):
                _wait(files, deadline)
            started = 0
            while True:
                keeper = lock(files.keeper)
                if keeper is not None:
                    started += 1
                    try:
                        if started > _STARTS:
                            raise _failed(files)
                        _start(files, keeper, self._sync)
                    finally:
                        os.close(keeper)
                elif (ready := _ready(files)) is not None:
                    if self._sync and ready["sync"] != self._sync:
                        raise ConfigurationError(
                            f"The server of nats://auto runs without ?sync={self._sync}; end those who use it first."
                        )
                    return ready["address"], {"token": ready["token"]}
                _wait(files, deadline)

    def _used(self, files: Files) -> bool:
        """Whether we have the shared lock on the file that has the name now."""
        if self._use >= 0:
            if names_it(files.users, self._use):
                return True
            self._release()
        use = lock(files.users, fcntl.LOCK_SH)
        if use is not None and not names_it(files.users, use):
            os.close(use)
            use = None
        self._use = -1 if use is None else use
        return use is not None

    def leave(self) -> None:
        """Use it no longer."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        descriptor, self._use = self._use, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _ready(files: Files) -> dict[str, str] | None:
    text = read_small(files.ready)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _start(files: Files, keeper: int, sync: str) -> None:
    """Start the keeper, which inherits the lock. Not as our child: it outlives us."""
    server = program()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(files.ready)
    command = ["-m", "proxyfab.brokers.nats.keeper", files.directory, files.store, str(keeper), server, sync]
    with open(files.log, "wb") as log:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _DETACH, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[keeper],
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            check=True,
            timeout=30,
        )


def _wait(files: Files, deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise _failed(files)
    time.sleep(_PAUSE)


def _failed(files: Files) -> ConnectorError:
    said = ""
    with contextlib.suppress(OSError), open(files.log, errors="replace") as log:
        said = log.read(2000).strip()
    return ConnectorError(f"The server of nats://auto in {files.store} did not become ready. It printed: {said!r}")
