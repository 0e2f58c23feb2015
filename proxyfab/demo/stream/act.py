"""Act: starts the processes of the second act, kills one, and collects what comes.

Rules:
1. The worker that takes one slice after the first third is killed with SIGKILL at that moment, whoever it is; another
   one is started in its place. Any other death is an error, as is silence for longer than the deadline.
2. Of two pictures of one slice the first one is taken, and the second one compared with it, bit for bit.
3. Whatever happens, no process, topic or object is left behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from proxyfab import registry
from proxyfab.demo.crew import Crew
from proxyfab.demo.pipeline import DemoError
from proxyfab.demo.role import now
from proxyfab.demo.setup import Setup
from proxyfab.demo.stream.course import Course, Held, Kill, Slice
from proxyfab.demo.stream.plan import ACK_WAIT, ASSEMBLE, ATTEMPTS, RECONSTRUCT, Plan
from proxyfab.errors import ConfigurationError, ConnectorError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.patterns.stream import Consumer, sweep
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.letters import topic_of
from proxyfab.spec import ConnectorSpec
from proxyfab.store import Store

Progress = Callable[[int, int], None]
_LOOK = 0.25
"""Seconds between two looks at whether all processes live."""


def perform(setup: Setup, broker: str, progress: Progress, keep: int = 48) -> Course:
    """The second act, from nothing to nothing.

    Args:
        setup: The scan; its store is opened here, and emptied in the end.
        broker: URL of a broker that other processes can reach.
        progress: Called with the number of pictures so far, and how many there will be.
        keep: How many pictures to keep; frame n is kept as picture n modulo this.

    Raises:
        ConfigurationError: The URL makes no sense.
        MissingDependency: There is no nats-server to start, or no package for this broker.
        ConnectorError: The broker cannot be reached.
        DemoError: A process failed that was not killed by us, or nothing came before the deadline.
    """
    with Store(setup.store) as store, own_broker(broker) as place:
        plan = Plan(setup.at(store.url), place.url, f"demo-{os.urandom(4).hex()}")
        try:
            for topic in plan.topics:
                place.ensure(topic)
            # The group begins before the workers: with their time for a slice, of which a broker keeps the first.
            Consumer(place, plan.counts, group=RECONSTRUCT, ack_wait=ACK_WAIT).open().close()
            return _Act(plan, place, store, keep).run(progress)
        finally:
            store.clear()
            _delete(place, plan)


def own_broker(url: str) -> Broker:
    """A broker of our own, for whoever calls us may use one of the same URL, and ours is closed.

    Raises:
        ConfigurationError: The URL makes no sense, or is of a broker in one process.
        MissingDependency: It needs a package that is not installed.
    """
    scheme = ConnectorSpec.parse(url).scheme
    if scheme not in registry.names("brokers"):
        raise ConfigurationError(f"There is no broker {scheme}://; known here: {', '.join(registry.names('brokers'))}.")
    if scheme == "memory":
        raise ConfigurationError(f"{url} is private to one process; the second act runs in several. Use nats://auto.")
    made: Broker = registry.load("brokers", scheme).from_url(url)
    return made


def _delete(broker: Broker, plan: Plan) -> None:
    """Delete the topics, if the broker is there; if it is not, something else has failed, and that is told."""
    with suppress(ConnectorError):
        for topic in plan.topics:
            for name in (topic.name, topic_of(topic.name)):
                broker.delete(name)


class _Act:
    def __init__(self, plan: Plan, broker: Broker, store: Store, keep: int) -> None:
        self._plan = plan
        self._broker = broker
        self._store = store
        self._keep = keep
        self._crew = Crew()
        self._pictures: dict[int, Any] = {}
        self._slices: list[Slice] = []
        self._seen: set[int] = set()
        self._differing: list[int] = []
        self._taken = 0
        self._bulk = 0
        self._kill: Kill | None = None
        self._reports: dict[str, dict[str, Any]] = {}
        self._heard = now()

    def run(self, progress: Progress) -> Course:
        """All of it."""
        try:
            self._launch("instrument")
            for number in range(self._plan.setup.workers):
                self._launch(f"worker-{number}")
            with Consumer(self._broker, self._plan.results, group=ASSEMBLE, attempts=ATTEMPTS) as results:
                while not self._finished():
                    self._hear(results.fetch(16, _LOOK), progress)
                    self._watch()
                results.flush()
            self._crew.wait()
        finally:
            self._crew.end()
        return self._course()

    def _launch(self, name: str) -> None:
        module = f"proxyfab.demo.stream.{name.partition('-')[0]}"
        self._crew.launch(name, module, [self._plan.to_json(), name, str(os.getpid())])

    def _finished(self) -> bool:
        """Whether every slice is there, and everybody who lives has said the last word."""
        gone = {self._kill.worker} if self._kill else set()
        return len(self._seen) == self._plan.setup.frames and self._reports.keys() >= self._crew.processes.keys() - gone

    def _watch(self) -> None:
        """Raise if somebody has died whom we have not killed, or nobody says anything."""
        failed = self._crew.failed(besides=self._kill.worker if self._kill else "")
        if failed:
            raise DemoError(failed)
        deadline = self._plan.setup.deadline
        if now() - self._heard > deadline:
            raise DemoError(
                f"Nobody said anything for {deadline:g} s. The act was given up ({self._crew.states()}). "
                f"Where the machine is busy with other work, try again with --deadline {4 * deadline:g}."
            )

    def _hear(self, items: Iterable[Item], progress: Progress) -> None:
        for item in items:
            self._heard = now()
            said = item.metadata
            if said["what"] == "taken":
                self._is_taken(said)
            elif said["what"] == "picture":
                self._collect(item)
                progress(len(self._seen), self._plan.setup.frames)
            elif said["what"] == "report":
                self._reports[said["who"]] = said
            item.ack()

    def _is_taken(self, said: dict[str, Any]) -> None:
        """Kill who has taken the slice after the first third."""
        self._taken += 1
        if self._kill is None and self._taken > self._plan.setup.frames // 3:
            victim = said["who"]
            self._crew.processes[victim].kill()
            self._kill = Kill(victim, now(), said["at"], said["frame"], f"worker-{self._plan.setup.workers}")
            self._launch(self._kill.replaced_by)

    def _collect(self, item: Item) -> None:
        said = item.metadata
        frame, place = said["frame"], said["frame"] % self._keep
        picture, first = item.get(), said["frame"] not in self._seen
        self._bulk += said["got"] + picture.nbytes
        if first:
            self._seen.add(frame)
            self._pictures[place] = picture.copy()  # into the process's own memory: it is kept
        elif self._plan.setup.frames <= self._keep and not np.array_equal(picture, self._pictures[place]):
            self._differing.append(frame)
        self._slices.append(Slice._make([frame, said["who"], said["attempt"], *said["times"], now(), first]))

    def _course(self) -> Course:
        assert self._kill is not None, "somebody took a slice, for all of them were reconstructed"
        held = self._held()
        for topic in (self._plan.counts, self._plan.results):
            sweep(self._broker, topic.name)
        left = self._store.clear() - 1  # the calibration is for all and released by nobody
        return Course(
            self._plan.broker, self._plan.setup.frames, self._slices, self._pictures, self._kill, self._differing,
            self._bulk, held, max(0, left), self._reports,
        )  # fmt: skip

    def _held(self) -> Held:
        """What lies at the broker."""
        said = [self._broker.describe(topic.name) for topic in self._plan.topics]
        lag = sum(group.lag for topic in self._plan.topics for group in self._broker.groups(topic.name).values())
        letters = 0
        for topic in self._plan.topics:
            try:
                letters += self._broker.describe(topic_of(topic.name)).records
            except TopicNotFound:
                continue
        return Held(sum(each.records for each in said), sum(each.nbytes for each in said), lag, letters)
