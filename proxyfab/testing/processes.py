"""Processes to talk to and to kill at a chosen moment, forks that answer, and waiting without sleeping.

Promises: nothing here waits for ever; a process that was started is gone when its `with` block ends, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from typing import Self

R = TypeVar("R")
DEADLINE = 30.0
"""Seconds that any single answer may take on a busy machine."""
_MAIN = "from proxyfab.testing.processes import main; main()"


class ChildFailed(AssertionError):
    """A child process raised, died or said nothing in time."""


class _Failed(NamedTuple):
    trace: str


class _Returned(NamedTuple):
    value: Any


class Process(Protocol):
    """A process of ours, as `subprocess.Popen` shows one."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...

    def terminate(self) -> None: ...


def interpreter(talk: int, said: IO[bytes]) -> Process:
    """A fresh interpreter that talks over a descriptor and prints into a file."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(talk)],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        pass_fds=[talk],
    )


class Child:
    """A fresh interpreter that runs `role(talk, *args)`; `talk` is a `multiprocessing.connection.Connection` to us.

    Args:
        role: A function of an importable module.
        args: Its arguments; they are pickled.
        fresh: Whether it must be an interpreter of its own where a suite has others (`start`).

    Raises:
        ChildFailed: From `receive` and `result`, with the child's own traceback, when it raised, died or was too late.
    """

    start: ClassVar[staticmethod[[int, IO[bytes]], Process]] = staticmethod(interpreter)
    """How one is started; a suite of many children may have something faster (`proxyfab.testing.zygote`)."""

    def __init__(self, role: Callable[..., Any], *args: Any, fresh: bool = False) -> None:
        self.role = f"{role.__module__}.{role.__qualname__}"
        ours, theirs = os_pair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self.process = (interpreter if fresh else self.start)(theirs, self._errors)
        os.close(theirs)
        self.talk = Connection(ours)
        self.talk.send(sys.path)
        self.talk.send((role, args))

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self.process.pid

    def send(self, message: Any) -> None:
        """Give the child something to `talk.recv()`."""
        self.talk.send(message)

    def ask(self, *question: Any, timeout: float = DEADLINE) -> Any:
        """Send a question and receive the answer."""
        self.send(question)
        return self.receive(timeout)

    def receive(self, timeout: float = DEADLINE) -> Any:
        """What the child sends next."""
        message = self._next(timeout)
        if isinstance(message, _Returned):
            raise ChildFailed(f"{self.role} returned {message.value!r} where it should have sent something.")
        return message

    def result(self, timeout: float = DEADLINE) -> Any:
        """What `role` returned, once the child has ended; what it still sent before is passed over."""
        deadline = time.monotonic() + timeout
        while not isinstance(message := self._next(deadline - time.monotonic()), _Returned):
            pass
        self.process.wait(max(deadline - time.monotonic(), 1.0))
        return message.value

    def kill(self) -> None:
        """SIGKILL now: no handler, no `finally` and no atexit runs in the child."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def pending(self) -> list[Any]:
        """What a child that has ended had still sent."""
        messages = []
        with contextlib.suppress(EOFError, OSError):  # a killed child leaves half a message at the end
            while self.talk.poll(0):
                messages.append(self.talk.recv())
        return messages

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.talk.close()
        self._errors.close()

    def _next(self, timeout: float) -> Any:
        try:
            if not self.talk.poll(max(timeout, 0)):
                raise ChildFailed(f"{self.role} said nothing for {timeout:.1f} s.{self._said()}")
            message = self.talk.recv()
        except (EOFError, ConnectionResetError):
            status = self.process.wait(DEADLINE)
            raise ChildFailed(f"{self.role} ended with status {status}.{self._said()}") from None
        if isinstance(message, _Failed):
            raise ChildFailed(f"{self.role} raised:\n{message.trace}")
        return message

    def _said(self) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return f" It printed:\n{said}" if said else ""


def run(role: Callable[..., Any], *args: Any, timeout: float = DEADLINE, fresh: bool = False) -> Any:
    """What `role(talk, *args)` returns in a fresh interpreter that then ended by itself."""
    with Child(role, *args, fresh=fresh) as child:
        return child.result(timeout)


def os_pair() -> tuple[int, int]:
    """Two connected descriptors; the second one is for a child."""
    import socket

    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def main() -> None:
    """What a Child runs."""
    talk = Connection(int(sys.argv[1]))
    os.set_inheritable(talk.fileno(), False)
    sys.path[:] = talk.recv()
    try:
        role, args = talk.recv()
        answer: Any = _Returned(role(talk, *args))
    except BaseException:  # noqa: BLE001  # whatever it was, the parent is told
        answer = _Failed(traceback.format_exc())
    with contextlib.suppress(OSError):  # a parent that no longer listens does not want to know
        talk.send(answer)


def in_fork(work: Callable[[], R], timeout: float = DEADLINE) -> R:
    """What `work()` returns in a fork of this process, which skips atexit handlers as forked workers do.

    Raises:
        ChildFailed: It raised, was killed, or did not finish in time (and was killed then).
    """
    ours, theirs = os_pair()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _answer_and_leave(work, Connection(theirs))
    os.close(theirs)
    with Connection(ours) as talk:
        try:
            if not talk.poll(timeout):
                raise ChildFailed(f"The fork did not finish within {timeout} s.")
            answer = talk.recv()
        except EOFError:
            raise ChildFailed("The fork died without an answer.") from None
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if isinstance(answer, _Failed):
        raise ChildFailed(f"The fork raised:\n{answer.trace}")
    return answer.value  # type: ignore[no-any-return]  # it is what work() returned


def _answer_and_leave(work: Callable[[], object], talk: Connection) -> None:
    try:
        answer: object = _Returned(work())
        pickle.dumps(answer)
    except BaseException:  # noqa: BLE001  # whatever it was, the parent is told
        answer = _Failed(traceback.format_exc())
    try:
        talk.send(answer)
    finally:
        os._exit(0)


def until(condition: Callable[[], object], timeout: float = DEADLINE) -> bool:
    """True as soon as `condition()` is true, False when it was not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.003)
    return True


def halt(pid: int) -> None:
    """SIGSTOP, until it has had its effect."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    assert until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T"), f"process {pid} was not stopped"


def at_once(works: list[Callable[[], Any]], timeout: float = DEADLINE) -> list[Any]:
    """What each call returns or raises; all start together, each in its own thread.

    Raises:
        ChildFailed: One did not finish in time.
    """
    start = threading.Barrier(len(works))
    results: list[Any] = [ChildFailed("It did not finish.")] * len(works)

    def one(index: int) -> None:
        start.wait(timeout)
        try:
            results[index] = works[index]()
        except BaseException as error:  # noqa: BLE001  # an answer like any other
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
        if thread.is_alive():
            raise ChildFailed(f"A thread did not finish within {timeout} s.")
    return results
