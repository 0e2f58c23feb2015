"""Act: starts the processes of the third act, cuts the link, heals it, and collects what comes.

Rules:
1. A little after a worker has asked for the first slice of the second third, while that is on its way, the link is cut;
   five seconds later it is healed. Any death is an error, as is silence for longer than the deadline.
2. Each picture is counted; of two pictures of one slice the first one is kept.
3. Whatever happens, no process, namespace or object is left behind.
"""

from __future__ import annotations

import os
import pickle
import selectors
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from proxyfab.demo.between.passage import Carried, Cut, Passage, Sample
from proxyfab.demo.between.place import Place, nowhere, place
from proxyfab.demo.between.plan import CUT, ROUND_TRIP, Plan
from proxyfab.demo.channel import Channel, Hangup, Message
from proxyfab.demo.pipeline import DemoError
from proxyfab.demo.role import now
from proxyfab.demo.setup import Setup
from proxyfab.demo.stream.course import Slice
from proxyfab.store import Store
from proxyfab.wan.facilities import Facilities

Progress = Callable[[int, int], None]
_LOOK = 0.1
"""Seconds between two looks at what has crossed the link."""
_UNDER_WAY = 1.3 * ROUND_TRIP
"""Seconds after which what was asked for begins to come."""


def perform(setup: Setup, world: Facilities, progress: Progress, keep: int = 48) -> Passage:
    """The third act, in facilities that are there.

    Args:
        setup: The scan; its store is that of each site.
        world: The facilities, routed.
        progress: Called with the number of pictures so far, and how many there will be.
        keep: How many pictures to keep; frame n is kept as picture n modulo this.

    Raises:
        DemoError: A process failed, or nothing came before the deadline.
    """
    with nowhere(), place(world) as there, ExitStack() as ends:
        act = _Act(setup, there, keep, ends)
        act.launch()
        there.wait(setup.deadline)
        stores = {site: ends.enter_context(Store(each.url, cache=0)) for site, each in there.sites.items()}
        return act.run(stores, progress)


class _Act:
    def __init__(self, setup: Setup, place: Place, keep: int, ends: ExitStack) -> None:
        self._setup = setup
        self._place = place
        self._keep = keep
        self._ends = ends
        self._run = f"demo-{os.urandom(4).hex()}"
        self._channels = ends.enter_context(selectors.DefaultSelector())
        self._ready: set[str] = set()
        self._pictures: dict[int, Any] = {}
        self._slices: list[Slice] = []
        self._seen: set[int] = set()
        self._taken: list[int] = []
        self._samples: list[Sample] = []
        self._counts = 0
        self._cut_at: float | None = None
        self._began: float | None = None
        self._healed: float | None = None
        self._reports: dict[str, Mapping[str, Any]] = {}
        self._heard = now()

    def launch(self) -> None:
        """Start instrument and workers, which prepare themselves while gateways and broker come up."""
        self._start("instrument", "aps")
        for number in range(self._setup.workers):
            self._start(f"worker-{number}", "alcf")

    def _start(self, name: str, site: str) -> None:
        plan = Plan.of(self._setup, self._run)
        ours, theirs = socket.socketpair()
        channel = Channel(ours.detach(), f"The {name} process", self._setup.deadline)
        self._ends.callback(channel.close)
        self._channels.register(channel, selectors.EVENT_READ, (name, site, channel))
        with theirs:
            told = [plan.to_json(), name, str(os.getpid()), str(theirs.fileno())]
            module = f"proxyfab.demo.between.{name.partition('-')[0]}"
            self._place.launch(name, site, module, told, [theirs.fileno()])

    def run(self, stores: Mapping[str, Store], progress: Progress) -> Passage:
        """All of it, from the moment on at which gateways and broker are there."""
        before, sender = Carried(0, 0), stores["aps"]
        self._say("begin", {site: store.url for site, store in stores.items()})
        while not self._finished():
            self._hear(progress)
            self._switch()
            if self._samples:
                self._look()
            elif len(self._ready) == 1 + self._setup.workers:
                before = _carried(sender)
                self._look()
                self._say("go")
            self._watch()
        self._look()
        after = _carried(sender)
        return self._passage(Carried(after.sent - before.sent, after.again - before.again))

    def _say(self, kind: str, stores: Mapping[str, str] | None = None) -> None:
        """Tell all others, each his site's store if there is one to be told."""
        for key in self._channels.get_map().values():
            _, site, channel = key.data
            channel.send({"kind": kind, **({"store": stores[site]} if stores else {})})

    def _finished(self) -> bool:
        """Whether every slice is there, the link too, and everybody has said the last word."""
        whole = len(self._seen) == self._setup.frames and self._healed is not None
        return whole and len(self._reports) == 1 + self._setup.workers

    def _hear(self, progress: Progress) -> None:
        """What is said until it is time to look, or to switch."""
        switch = _LOOK if self._cut_at is None else max(0.0, self._due() - now())
        for key, _ in self._channels.select(min(_LOOK, switch)):
            name, _, channel = key.data
            try:
                message = channel.receive()
            except Hangup as error:
                self._channels.unregister(channel)
                if name not in self._reports:
                    self._place.crew.wait()
                    raise DemoError(self._place.crew.failed() or str(error)) from error
                continue
            self._heard = now()
            self._take(message)
            progress(len(self._seen), self._setup.frames)

    def _take(self, message: Message) -> None:
        said = message.header
        if message.kind == "ready":
            self._ready.add(said["who"])
        elif message.kind == "taken":
            self._taken.append(said["frame"])
            if self._cut_at is None and len(self._taken) > self._setup.frames // 3:
                self._cut_at = said["at"] + _UNDER_WAY
        elif message.kind == "picture":
            self._collect(message)
        elif message.kind == "report":
            self._reports[said["who"]] = said

    def _collect(self, message: Message) -> None:
        said = message.header
        frame, first = said["frame"], said["frame"] not in self._seen
        with pickle.loads(message.body) as picture:
            if first:
                self._seen.add(frame)
                self._counts += said["got"]
                self._pictures[frame % self._keep] = picture.copy()  # into this process's own memory: it is kept
        self._slices.append(Slice._make([frame, said["who"], said["attempt"], *said["times"], now(), first]))

    def _due(self) -> float:
        """When the link is switched next."""
        assert self._cut_at is not None
        return self._cut_at if self._began is None else self._began + CUT if self._healed is None else now() + _LOOK

    def _switch(self) -> None:
        """Cut or heal the link, if it is time."""
        if self._cut_at is None or self._healed is not None or now() < self._due():
            return
        if self._began is None:
            self._place.world.cut()
            self._began = now()
        else:
            self._look(at_once=True)  # the last of the cut: at the next one bytes may have come again
            self._healed = now()
            self._place.world.heal()

    def _look(self, *, at_once: bool = False) -> None:
        """What has crossed the link."""
        if at_once or not self._samples or now() - self._samples[-1].at >= _LOOK / 2:
            received, sent = self._place.wire("alcf")[0], self._place.wire("aps")[1]
            self._samples.append(Sample(now(), received, sent))

    def _watch(self) -> None:
        """Raise if somebody has died, or nobody says anything."""
        failed = self._place.crew.failed()
        if failed:
            raise DemoError(failed)
        deadline = self._setup.deadline
        if now() - self._heard > deadline:
            states = self._place.crew.states()
            raise DemoError(
                f"Nobody said anything for {deadline:g} s. The act was given up ({states}). "
                f"Where the machine is busy with other work, try again with --deadline {4 * deadline:g}."
            )

    def _passage(self, carried: Carried) -> Passage:
        assert self._began is not None, "it is finished, and so the link was cut"
        assert self._healed is not None, "it is finished"
        cut = Cut(self._began, self._healed, self._taken[self._setup.frames // 3])
        return Passage(
            self._setup.frames, Plan.of(self._setup, self._run).interval, self._slices, self._pictures, cut,
            self._samples, carried, self._counts, self._reports,
        )  # fmt: skip


def _carried(sender: Store) -> Carried:
    """What the gateway of the instrument's site has sent of objects; it is asked there: nothing crosses the link."""
    counted = sender.connector.status().counters  # type: ignore[attr-defined]  # a gateway's can
    return Carried(counted.get("link_alcf_sent", 0), counted.get("link_alcf_again", 0))
