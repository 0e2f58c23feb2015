"""Real node servers for tests: `proxyfab serve` in a process of its own, to be stopped, killed and started anew.

    with NodeServer() as server:
        connector = ZMQConnector.from_url(server.url)

Promises: it listens on a free port when the block begins and is gone when it ends; every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import zmq

from proxyfab.testing.processes import DEADLINE

if TYPE_CHECKING:
    from typing import Self


WAYS = ("?shared=1", "?shared=0", "?shared=0&side=tcp", "?shared=0&side=0")
"""Of a server on this machine: shared memory, and all bytes through a Unix socket, TCP or ZeroMQ."""


_STARTING = 90.0
"""Seconds until it is ready; half a minute is not enough for it on a machine full of others' work."""


def _warm() -> None:
    """Let pyzmq start its own thread for what is sent without a copy: once begun it stays, and is nobody's leak."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://warm")
        other.connect("inproc://warm")
        one.send(bytes(1 << 20), copy=False)
        other.recv()


_warm()


class NodeServer:
    """One `proxyfab serve`.

    Args:
        arguments: Of the command, besides `--bind` and `--ready-fd`.
        bind: Where it listens; port 0 is any.
        environment: What differs from ours.
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        bind: str = "tcp://127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.arguments = list(arguments)
        self.bind = bind
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        """What it said when it was ready: url, endpoints, pid, incarnation."""

    @property
    def url(self) -> str:
        """The URL of a connector to it."""
        return str(self.ready["url"])

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    def command(self, ready: int) -> list[str]:
        """How it is started; it writes to the descriptor `ready` when it can be connected to."""
        command = [sys.executable, "-m", "proxyfab", "serve", "--bind", self.bind, "--ready-fd", str(ready)]
        return [*command, *self.arguments]

    def start(self) -> None:
        """Start it, and wait until it can be connected to."""
        ours, theirs = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in _reap
        self.process = subprocess.Popen(
            self.command(theirs),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=[theirs],
            env=self.environment,
        )
        os.close(theirs)
        try:
            self.ready = json.loads(_read(ours, time.monotonic() + _STARTING) or "null")
        except ValueError:
            self.ready = {}
        finally:
            os.close(ours)
        if not self.ready:
            said = self.kill()
            raise AssertionError(f"The node server did not become ready. It printed:\n{said}")

    def restart(self) -> None:
        """Start it anew at the same address."""
        if self.process is not None:
            self.kill()
        self.bind = str(self.ready["endpoints"][0])
        self.start()

    def kill(self) -> str:
        """SIGKILL; returns what it printed."""
        assert self.process is not None
        self.process.kill()
        return self._reap()

    def end(self, timeout: float = DEADLINE) -> tuple[int, str]:
        """SIGTERM; its exit status and what it printed."""
        assert self.process is not None
        process = self.process
        process.terminate()
        process.wait(timeout)
        return process.returncode, self._reap()

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def memory(self) -> int:
        """Bytes of memory that are its own: mapped files and shared memory are not counted."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024

    def _reap(self) -> str:
        assert self.process is not None
        self.process.wait(DEADLINE)
        self.process = None
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        self._errors.close()
        return said

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.resume()
        try:
            self.end(10.0)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def _read(descriptor: int, until: float) -> str:
    text = b""
    ready = select.poll()  # not select.select, which knows the first 1,024 descriptors of a process only
    ready.register(descriptor, select.POLLIN)
    while time.monotonic() < until and ready.poll(max(until - time.monotonic(), 0) * 1000):
        more = os.read(descriptor, 65536)
        if not more:
            break
        text += more
    return text.decode()
