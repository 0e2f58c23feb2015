"""Worker processes of an executor's own: started, watched, started again when they die, ended with it.

Promises: a worker ends when its starter does, however that ends (it holds the other end of a pipe); who dies again and
again is started with growing pauses; every end is told to the journal.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from proxyfab.brokers.opening import open_broker
from proxyfab.patterns.resilient.worker import Loop, Terms
from proxyfab.waiting import Flag

_PAUSE, _LONGEST = 0.05, 2.0
_LIVED = 2.0
"""Seconds after which a worker's end is no sign that it cannot begin."""
_LOOK = 0.05
_TERM = 5.0


class Crew:
    """So many worker processes.

    Args:
        url: The broker's.
        name: The executor's.
        terms: What workers are told.
        count: How many.
        told: Called with what has happened to which process.
    """

    def __init__(self, url: str, name: str, terms: Terms, count: int, told: Callable[[str, int], None]) -> None:
        self._said = pickle.dumps((url, name, terms._replace(dies=True), sys.path))
        self._told = told
        self._stop = Flag()
        self._processes = [self._start() for _ in range(count)]
        self._failures = [0] * count
        self._due = [0.0] * count
        self._begun = [time.monotonic()] * count
        self._thread = threading.Thread(target=self._watch, name="proxyfab-crew", daemon=True)
        self._thread.start()

    @property
    def pids(self) -> list[int]:
        """Of those that are alive."""
        return [process.pid for process in self._processes if process.poll() is None]

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            start_new_session=True,  # an interrupt at the terminal is the executor's to handle
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already: that is seen
            process.stdin.write(len(self._said).to_bytes(4, "big") + self._said)
            process.stdin.flush()
        return process

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK):
            now = time.monotonic()
            for place, process in enumerate(self._processes):
                if process.poll() is None:
                    continue
                if not self._due[place]:
                    self._told("died", process.pid)
                    _reap(process)
                    self._failures[place] = 0 if now - self._begun[place] > _LIVED else self._failures[place] + 1
                    self._due[place] = now + min(_PAUSE * 2 ** self._failures[place], _LONGEST)
                elif now >= self._due[place]:
                    self._processes[place], self._due[place], self._begun[place] = self._start(), 0.0, now

    def close(self, patience: float = _TERM) -> None:
        """End them: each after the task at hand, or after `patience` seconds."""
        self._stop.set()
        self._thread.join()
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        until = time.monotonic() + patience
        for process in self._processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
            _reap(process)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def main() -> None:
    """A worker process: works until its starter closes the pipe."""
    said = sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "big"))
    url, name, terms, path = pickle.loads(said)
    sys.path[:] = path
    stop = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):  # not by `sys.stdin`, whose lock an interpreter that ends would find taken
            pass
        stop.set()

    threading.Thread(target=watch, name="proxyfab-parent", daemon=True).start()
    with open_broker(url) as broker:  # as whoever started us has: it is no reference from elsewhere
        Loop(broker, name, terms, stop).run()
