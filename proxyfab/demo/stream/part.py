"""What the processes of the second act share: how they start, and how they tell of themselves."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from time import process_time
from typing import Any

from proxyfab.brokers import open_broker
from proxyfab.brokers.nats.program import die_with
from proxyfab.demo.role import now, report
from proxyfab.demo.stream.plan import ABOVE, Plan
from proxyfab.patterns.stream import Producer
from proxyfab.store import open_store


class Part:
    """This process's part: its broker, its store, and its way to the main process.

    Args:
        plan: What is run.
        name: Who this is.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan = plan
        self.name = name
        self.broker = open_broker(plan.broker)
        self.store = open_store(plan.setup.store)
        self._out = Producer(
            self.broker, plan.results, store=self.store, name=name, above=ABOVE, timeout=plan.setup.deadline
        )
        self._since = process_time()

    def tell(self, what: str, obj: object = None, **more: Any) -> None:
        """Send a result; back when the broker has it."""
        self._out.send(obj, metadata={"what": what, "who": self.name, "at": now(), **more})
        self._out.flush()

    def ready(self) -> None:
        """Say that the work can begin; processor time is counted from here."""
        self._since = process_time()
        self.tell("ready")

    def done(self) -> None:
        """The last word."""
        said = report(self.name, {}, self.store.stats(), since=self._since)
        self.tell("report", cpu=said["cpu"], peak_memory=said["peak_memory"])
        self._out.close()


def play(role: Callable[[Part], None]) -> None:
    """Run a role in this process, which was started with a Plan, its name and its parent on the command line.

    A Ctrl-C is the main process's to handle, which ends this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(int(sys.argv[3]))()  # no channel would tell that the main process was killed
    part = Part(Plan.from_json(sys.argv[1]), sys.argv[2])
    with part.broker:
        role(part)
        part.done()
