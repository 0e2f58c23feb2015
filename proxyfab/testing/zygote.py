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
import time
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
_LOADING = 10.0
"""Seconds from its beginning in which children wait for it; later ones are interpreters until it has loaded all."""
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
    """Forks children. Thread-safe; a fork of the process that made it starts interpreters instead, and so does
    whoever finds it still loading.

    Args:
        packages: What to load beforehand, where it is installed; none of proxyfab's.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._environment = _untold(dict(os.environ))
        self._asked = 0
        self._loaded = False
        self._patient_until = time.monotonic() + _LOADING
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
            if not self._has_loaded():
                return processes.interpreter(talk, said)
            return Forked(self, self._ask((told, os.getcwd()), talk, said.fileno()))

    def reap(self, pid: int) -> int:
        """The exit status of a child that has ended."""
        with self._lock:
            return self._ask(pid)

    def _has_loaded(self) -> bool:
        """Whether it can fork. It is waited for a while, but not for as long as a busy machine may need to load all."""
        if not self._loaded:
            looking = select.poll()
            looking.register(self._line, select.POLLIN)
            if looking.poll(max(self._patient_until - time.monotonic(), 0) * 1000):
                self._loaded = self._line.recv(_LONGEST) != b""  # it has ended, and never will
        return self._loaded

    def _ask(self, order: Any, *descriptors: int) -> int:
        """Its answer to this order; those to orders that were given up or interrupted are passed over."""
        self._asked += 1
        socket.send_fds(self._line, [pickle.dumps((self._asked, order))], descriptors)
        while True:
            number, answer = pickle.loads(self._line.recv(_LONGEST))
            if number == self._asked:
                return int(answer)

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
    line.send(b"loaded")
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, _LONGEST, 2)
        if not message:
            return
        number, order = pickle.loads(message)
        if not descriptors:
            answer = os.waitstatus_to_exitcode(os.waitpid(order, 0)[1])
        elif (answer := os.fork()) == 0:
            line.close()
            _become(*order, *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(pickle.dumps((number, answer)))


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
