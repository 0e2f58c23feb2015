"""Crew: the child processes of a demonstration: started with clean ends, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import proxyfab
from proxyfab.demo.role import HUNG_UP, now

_GRACE = 3.0
"""Seconds a process gets to end when the work is over."""


class Crew:
    """Processes by name. Whoever starts some calls `stop` in the end, whatever has happened.

    Attributes:
        processes: Those that were started, also when they have ended.
    """

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stderr: dict[str, IO[bytes]] = {}

    def launch(self, name: str, module: str, arguments: Sequence[str], fds: Iterable[int] = ()) -> None:
        """Start a module as a process, which inherits these descriptors and nothing else."""
        self.start(name, python(module, arguments), fds)

    def start(
        self, name: str, command: Sequence[str], fds: Iterable[int] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a command, with what differs from our environment."""
        package = str(Path(proxyfab.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._stderr[name] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop
        self.processes[name] = subprocess.Popen(
            command,
            pass_fds=tuple(fds),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr[name],
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            process_group=0,  # Ctrl-C goes to the main process alone, which ends the others
        )

    def wait(self) -> None:
        """Give all processes together a moment to end by themselves."""
        patience = now() + _GRACE
        for process in self.processes.values():
            try:
                process.wait(max(0.0, patience - now()))
            except subprocess.TimeoutExpired:
                continue

    def dismiss(self, names: Iterable[str]) -> None:
        """Tell those who would go on to end, and give them a moment to put away what is theirs."""
        for name in names:
            if name in self.processes and self.processes[name].poll() is None:
                self.processes[name].terminate()

    def stop(self) -> None:
        """Wait for all processes for a moment, then end them."""
        self.wait()
        self.end()

    def end(self) -> None:
        """End them now."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        for file in self._stderr.values():
            file.close()

    def failed(self, *, besides: str = "") -> str:
        """Who failed first, and its last words; empty when nobody has."""
        for name, process in self.processes.items():
            code = process.poll()
            if code not in (None, 0, HUNG_UP) and name != besides:
                return f"The {name} process {_ending(code)}. {self._last_words(name)}".rstrip()
        return ""

    def states(self) -> str:
        """Who runs, and how the others have ended."""
        codes = {name: process.poll() for name, process in self.processes.items()}
        return ", ".join(f"{name} {'runs' if code is None else _ending(code)}" for name, code in codes.items())

    def _last_words(self, name: str) -> str:
        file = self._stderr[name]
        file.seek(0)
        lines = file.read().decode(errors="replace").strip().splitlines()
        return f"It said: {lines[-1].strip()}" if lines else "It said nothing."


def python(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a module; a file in the working directory does not stand in for it."""
    return [sys.executable, "-P", "-m", module, *arguments]


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"
