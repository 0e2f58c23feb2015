"""A producer's and a consumer's process for one system, driven over a pipe by the benchmark.

The benchmark talks to the producer, the producer to the consumer; so the only process that runs at any moment is the
one that is measured. Both ends are fresh interpreters. Run as `python -m benchmarks.pairs ROLE PIPE SYSTEM TMPFS DISK`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

from benchmarks.harness import Place, Settings, Skipped
from benchmarks.memory import look, mark, taken
from benchmarks.payloads import checksum, make
from benchmarks.steps import MemorySample, Sample, consume
from benchmarks.systems import NEEDS, System, load, start

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 180.0
"""Seconds for one command; a system that takes longer has failed."""


class PairError(RuntimeError):
    """A process of a pair ended or answered with an error; the message carries its last words."""


class Pair:
    """Both processes of one system, as the benchmark holds them."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "PROXYFAB_SHM_DIR": os.path.join(place.tmpfs, "shm")}
        options = {"stdout": subprocess.DEVNULL, "stderr": self._errors, "start_new_session": True}
        self._process, self._socket = start("producer", name, place, env=environment, **options)
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def prepare(self, kind: str, nbytes: int) -> None:
        """Make the payload that later calls hand over."""
        self._ask("prepare", kind, nbytes)

    def run(self, times: int = 1) -> list[Sample]:
        """Hand over `times` times."""
        samples: list[Sample] = self._ask("run", times)
        return samples

    def metered(self) -> MemorySample:
        """Hand over once, counting memory instead of time."""
        sample: MemorySample = self._ask("metered")
        return sample

    def release(self) -> None:
        """Let go of the payload."""
        self._ask("release")

    def close(self) -> None:
        """Stop both processes, by force if they do not end by themselves."""
        with suppress(OSError, PairError):
            self._ask("close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._socket.close()
        self._errors.close()

    def __enter__(self) -> Pair:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, *command: Any) -> Any:
        self._socket.send(command)
        return self._answer()

    def _answer(self) -> Any:
        try:
            if self._socket.poll(PATIENCE):
                answer, failure = self._socket.recv()
                if failure:
                    raise PairError(f"{self.name}: {failure}")
                return answer
            reason = f"no answer in {PATIENCE:g} s"
        except (EOFError, ConnectionError):
            reason = "its process ended"
            self._process.wait(20)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()[-3:]
        raise PairError(f"{self.name}: {reason}: {' | '.join(words)}")


class Producer:
    """The producer's side, inside its process."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._obj: Any = None
        self._digest = 0

    def prepare(self, kind: str, nbytes: int) -> None:
        self._obj = make(kind, nbytes)
        self._digest = checksum(self._obj)

    def release(self) -> None:
        self._obj = None

    def run(self, times: int) -> list[Sample]:
        return [self._hand_over() for _ in range(times)]

    def close(self) -> None:
        self._system.close()

    def _hand_over(self) -> Sample:
        start = perf_counter()
        token = self._system.put(self._obj)
        stored = perf_counter()
        reply = self._deliver(token, metered=False)
        self._system.drop(token)
        return Sample(stored - start, reply.got - reply.started, reply.done - reply.started, reply.done - start)

    def metered(self) -> MemorySample:
        held, before = self._system.stored(), mark()
        token = self._system.put(self._obj)
        put = taken(before, look())
        stored = self._system.stored() - held
        reply = self._deliver(token, metered=True)
        self._system.drop(token)
        return MemorySample(put, reply.memory or put, stored)

    def _deliver(self, token: Any, *, metered: bool) -> Any:
        system = self._system
        if system.alone:
            reply = consume(lambda: system.get(token), metered=metered)
        else:
            reply = system.deliver(token, metered=metered)
        if reply.digest != self._digest:
            raise ValueError("the consumer's bytes are not the producer's")
        return reply


def missing(name: str) -> str:
    """Why a system cannot be measured here; empty when it can."""
    package = NEEDS.get(name.split("-")[0], "numpy")
    return "" if find_spec(package) else f"the package {package} is not installed"


def open_pairs(names: Sequence[str], settings: Settings, bench: str) -> tuple[dict[str, Pair], list[Skipped]]:
    """A pair for each system that can be measured here, and what was skipped."""
    pairs: dict[str, Pair] = {}
    skipped: list[Skipped] = []
    for name in settings.wanted(names):
        reason = missing(name)
        if not reason:
            try:
                pairs[name] = Pair(name, settings.place)
            except PairError as error:
                reason = str(error)
        if reason:
            skipped.append(Skipped(bench, name, reason))
    return pairs, skipped


def close_pairs(pairs: dict[str, Pair]) -> None:
    """Stop all of them, whatever one of them raises."""
    for name in list(pairs):
        pairs.pop(name).close()


def _produce(socket: Any, system: System, name: str) -> None:
    producer = Producer(system)
    if not system.alone:
        system.launch(name)
    socket.send((None, ""))
    command = ""
    while command != "close":
        command, *arguments = socket.recv()
        try:
            answer = getattr(producer, command)(*arguments), ""
        except Exception as error:  # whatever a measured system raises belongs in the report
            traceback.print_exc()
            answer = None, f"{type(error).__name__}: {error}"
        socket.send(answer)


def main(role: str, pipe: str, name: str, *place: str) -> None:
    """Be one of the two processes."""
    with Connection(int(pipe)) as socket:
        system = load(name)(Place(*place))
        if role == "producer":
            _produce(socket, system, name)
        else:
            system.attach(socket.recv())
            system.serve(socket)


if __name__ == "__main__":
    main(*sys.argv[1:])
