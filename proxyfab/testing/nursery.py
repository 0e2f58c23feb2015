"""A process that forks workers in milliseconds, to be killed at random moments by the hundred.

It has imported what they need and opened nothing, so that each starts like a fresh interpreter. A worker's process id
stays taken until `reap`, so that no signal meets a stranger; none outlives the nursery, however that ends.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxyfab.registry import load
from proxyfab.testing.processes import Child

if TYPE_CHECKING:
    from typing import Self

_PR_SET_PDEATHSIG = 1


class Nursery:
    """Forks `role(*args)`. One thread at a time.

    Args:
        schemes: Whose connectors to import beforehand.
        modules: What else.
    """

    def __init__(self, schemes: Sequence[str] = (), modules: Sequence[str] = ()) -> None:
        self._child = Child(_care, list(schemes), list(modules))
        try:
            self._child.receive()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def start(self, role: Callable[..., None], *args: Any) -> int:
        """The process id of a new worker."""
        return int(self._child.ask("start", role, args))

    def reap(self, pid: int) -> int:
        """Wait for a worker's end; its exit status, negative for a signal.

        Raises:
            ChildFailed: It does not end.
        """
        return int(self._child.ask("reap", pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)


def _care(talk: Connection, schemes: list[str], modules: list[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    for scheme in schemes:
        load("connectors", scheme)
    talk.send("ready")
    while True:
        try:
            order, *args = talk.recv()
        except EOFError:
            return
        if order == "reap":
            talk.send(os.waitstatus_to_exitcode(os.waitpid(args[0], 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            _live(talk, *args)
        talk.send(pid)


def _live(talk: Connection, role: Callable[..., None], args: Sequence[Any]) -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    status = 1
    try:
        talk.close()
        if os.getppid() == parent:
            role(*args)
            status = 0
    except BaseException:  # noqa: BLE001  # a worker that ends early is found by its status, and here is why
        traceback.print_exc()
    finally:
        os._exit(status)
