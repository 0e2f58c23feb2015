"""Pipeline: starts the processes of one pass, collects the pictures, and ends with a result or a clear error.

Rules:
1. Each process holds only its own channels; when one dies, its neighbours read the end of their channels and stop, so a
   death anywhere reaches the main process at once. What is alive and silent is given up at the deadline.
2. Whatever happens, no process is left behind.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import process_time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxyfab.demo.carrier import carrier
from proxyfab.demo.channel import Channel, Hangup, Silence
from proxyfab.demo.crew import Crew
from proxyfab.demo.role import now, report
from proxyfab.demo.setup import Setup
from proxyfab.demo.trip import Trip
from proxyfab.errors import ProxyfabError

if TYPE_CHECKING:
    from typing import Self

Progress = Callable[[int, int], None]


class DemoError(ProxyfabError, RuntimeError):
    """A process of the demonstration failed; the message says which, and how."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass came to.

    Attributes:
        setup: What was run.
        seconds: From "everybody is ready" to the last picture in place.
        started: When everybody was ready, on the clock of the trips.
        pictures: Per frame the reconstructed picture; of frames that repeat a slice only the latest.
        trips: Per frame, in the order of arrival.
        reports: Per process what it says of itself.
    """

    setup: Setup
    seconds: float
    started: float
    pictures: Mapping[int, Any]
    trips: list[Trip]
    reports: Mapping[str, Mapping[str, Any]]

    @property
    def control_bytes(self) -> int:
        """Bytes through all channels; a body that takes two hops counts twice."""
        return sum(int(each["sent"]) for each in self.reports.values())


@dataclass(slots=True)
class _Collected:
    pictures: dict[int, Any] = field(default_factory=dict)
    trips: list[Trip] = field(default_factory=list)
    reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0


class Pipeline:
    """The processes of one pass. Use it as a context manager: leaving it ends them, whatever has happened.

    Args:
        setup: What to run; its store must be reachable from other processes and outlive the pass.
        keep: How many pictures to keep; frame n is kept as picture n modulo this.
    """

    def __init__(self, setup: Setup, keep: int = 48) -> None:
        self.setup = setup
        self._keep = keep
        self._crew = Crew()
        self.processes = self._crew.processes

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._crew.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()
        self._crew.stop()

    def run(self, progress: Progress | None = None) -> Outcome:
        """Collect everything.

        Args:
            progress: Called with the number of pictures so far, and how many there will be.

        Raises:
            DemoError: A process died, or nothing came before the deadline.
        """
        try:
            collected = self._collect(progress or _nobody)
        except (Hangup, Silence) as error:
            raise DemoError(self._why(error)) from error
        seconds = collected.ended - collected.started
        return Outcome(self.setup, seconds, collected.started, collected.pictures, collected.trips, collected.reports)

    def _collect(self, progress: Progress) -> _Collected:
        carry = carrier(self.setup)
        so_far, since = _Collected(), process_time()
        while "dispatcher" not in so_far.reports:
            message = self._channel.receive()
            arrived = now()
            if message.kind == "go":
                so_far.started, since = arrived, process_time()
            elif message.kind == "report":
                so_far.reports[message.header["name"]] = message.header
            elif message.kind == "image":
                frame = message.header["frame"]
                with carry.opened(message.body) as picture:
                    so_far.pictures[frame % self._keep] = picture.copy()  # into the process's own memory: it is kept
                so_far.ended = now()
                times = [*message.header["times"], arrived, so_far.ended]
                so_far.trips.append(Trip._make([message.header["worker"], *times]))
                progress(len(so_far.trips), self.setup.frames)
        so_far.reports["main"] = report("main", {"dispatcher": self._channel}, carry.stats(), since=since)
        return so_far

    def _start(self) -> None:
        """Start all processes; each inherits its own ends of the channels, and nothing else."""
        inner = {name: socket.socketpair() for name in ("main", "instrument", *self._workers())}
        try:
            self._channel = Channel(inner["main"][1].detach(), "The dispatcher", self.setup.deadline)
            self._launch("dispatcher", {name: pair[0].fileno() for name, pair in inner.items()})
            for name in ("instrument", *self._workers()):
                self._launch(name, {"dispatcher": inner[name][1].fileno()})
        finally:
            for pair in inner.values():
                for end in pair:
                    end.close()

    def _workers(self) -> list[str]:
        return [f"worker-{i}" for i in range(self.setup.workers)]

    def _launch(self, name: str, channels: Mapping[str, int]) -> None:
        module = f"proxyfab.demo.{name.partition('-')[0]}"
        self._crew.launch(name, module, [self.setup.to_json(), json.dumps(channels)], channels.values())

    def _why(self, error: OSError) -> str:
        """What to tell of a pass that broke: who failed first, and its last words."""
        if isinstance(error, Hangup):
            self._crew.wait()
        return self._crew.failed() or f"{error} The pass was given up ({self._crew.states()})."


def _nobody(_done: int, _total: int) -> None:
    """Hears of progress and does nothing."""
