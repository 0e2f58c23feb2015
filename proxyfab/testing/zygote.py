"""A process that has loaded other people's packages, and forks children for `Child` in a tenth of the time.

Of proxyfab it has loaded what every child loads first, and nothing else: a child finds what it needs by itself, as an
interpreter of its own would, and has opened nothing. None outlives the zygote, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from proxyfab.testing import processes
from proxyfab.testing.processes import DEADLINE, Process

if TYPE_CHECKING:
    from typing import Self

TOLD = ("PROXYFAB_", "PYTEST_CURRENT_TEST")
"""How environment variables begin that nobody reads when he is imported. Where others have changed, a child is not
forked."""
UNTOLD = "PROXYFAB_PURE"
"""This one chooses what is imported."""
_MAIN = "from proxyfab.testing.zygote import main; main()"
_LONGEST = 1 << 16
_PATIENCE = 2.0
"""Seconds to end in; nothing is lost with one that is killed."""
_PR_SET_PDEATHSIG = 1


class Forked:
    """A process that a zygote forked, as `subprocess.Popen` shows one.

    Args:
        zygote: Its parent.
        pid: Its process id, which stays taken until it was waited for.
    """

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal, when it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not within `timeout` seconds.
        """
        with self._lock:
            if self.returncode is None:
                end = os.pidfd_open(self.pid)
                try:
                    looking = select.poll()  # of any number of descriptor
                    looking.register(end, select.POLLIN)
                    ready = looking.poll(None if timeout is None else timeout * 1000)
                finally:
                    os.close(end)
                if not ready:
                    raise subprocess.TimeoutExpired("a forked child", timeout or 0.0)
                self.returncode = self._zygote.reap(self.pid)
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


class Zygote:
    """Forks children. Thread-safe; a fork of the process that made it starts interpreters instead.

    Args:
        packages: What to load beforehand, where it is installed; none of proxyfab's.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._environment = _untold(dict(os.environ))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), *packages],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._line.settimeout(DEADLINE)

    def start(self, talk: int, said: IO[bytes]) -> Process:
        """A child that talks over a descriptor and prints into a file; a fork where that is as good."""
        if os.getpid() != self._pid or _untold(dict(os.environ)) != self._environment:
            return processes.interpreter(talk, said)
        told = {name: value for name, value in os.environ.items() if _is_told(name)}
        with self._lock:
            socket.send_fds(self._line, [pickle.dumps((told, os.getcwd()))], [talk, said.fileno()])
            return Forked(self, int(self._line.recv(_LONGEST)))

    def reap(self, pid: int) -> int:
        """The exit status of a child that has ended."""
        with self._lock:
            self._line.send(pickle.dumps(pid))
            return int(self._line.recv(_LONGEST))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._line.shutdown(socket.SHUT_RDWR)  # forks of this process may have the line, too
        self._line.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # it still loads packages, which takes minutes on a busy machine
            self._process.kill()
            self._process.wait(DEADLINE)


def _is_told(name: str) -> bool:
    return name.startswith(TOLD) and name != UNTOLD


def _untold(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not _is_told(name)}


def main() -> None:
    """What a zygote runs, and what a child runs that it forked: each ends as an interpreter does."""
    line = socket.socket(fileno=int(sys.argv[1]))
    line.set_inheritable(False)
    for package in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    gc.collect()
    gc.freeze()  # or each child would copy all that was loaded when it collects for the first time
    while True:
        order, descriptors, _, _ = socket.recv_fds(line, _LONGEST, 2)
        if not order:
            return
        if not descriptors:
            answer = os.waitstatus_to_exitcode(os.waitpid(pickle.loads(order), 0)[1])
        elif (answer := os.fork()) == 0:
            line.close()
            _become(*pickle.loads(order), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(str(answer).encode())


def _become(told: dict[str, str], directory: str, talk: int, said: int) -> Any:
    """The child that was asked for."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (1, 2):
        os.dup2(said, number)
    os.close(said)
    for name in filter(_is_told, list(os.environ)):
        del os.environ[name]
    os.environ.update(told)
    os.chdir(directory)
    sys.argv[:] = ["-c", str(talk)]
    processes.main()
