"""What instrument and workers of the third act share: how they start, and how they tell the main process.

What they tell is a console's: it goes through a socket pair of this machine, and not over the link. The event plane and
the data plane do.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from time import process_time
from typing import Any

from proxyfab.brokers import open_broker
from proxyfab.brokers.nats.program import die_with
from proxyfab.demo.between.plan import Plan
from proxyfab.demo.channel import Channel, Hangup
from proxyfab.demo.role import HUNG_UP, now, report
from proxyfab.events.broker import Broker
from proxyfab.store import Store, open_store

PATIENCE = 10
"""Deadlines: the main process watches over the others, who only must not wait for ever."""


class Part:
    """This process's part: once it has begun, its broker and its store.

    Args:
        plan: What is run.
        name: Who this is.
        channel: To the main process.
    """

    broker: Broker
    store: Store

    def __init__(self, plan: Plan, name: str, channel: Channel) -> None:
        self.plan = plan
        self.name = name
        self.patience = PATIENCE * plan.setup.deadline
        self._channel = channel
        self._lock = threading.Lock()
        self._since = process_time()

    def tell(self, kind: str, body: bytes = b"", /, **more: Any) -> None:
        """Send the main process a message; from any thread."""
        with self._lock:
            self._channel.send({"kind": kind, "who": self.name, "at": now(), **more}, body)

    def begin(self) -> None:
        """Return when gateways and broker are there, with both opened.

        The store is the main process's at this site: objects outlive who puts them.
        """
        told = self._channel.receive()
        self.broker, self.store = open_broker(self.plan.broker), open_store(told.header["store"])

    def ready(self) -> None:
        """Say that the work can begin, and wait until it does; processor time is counted from here."""
        self._since = process_time()
        self.tell("ready")
        self._channel.receive()

    def done(self, **more: Any) -> None:
        """The last word."""
        said = report(self.name, {}, since=self._since)
        self.tell("report", cpu=said["cpu"], peak_memory=said["peak_memory"], **more)


def play(role: Callable[[Part], None]) -> None:
    """Run a role in this process, which was started with a Plan, its name, its parent and a channel.

    A Ctrl-C is the main process's to handle, which ends this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(int(sys.argv[3]))()
    plan = Plan.from_json(sys.argv[1])
    with closing(Channel(int(sys.argv[4]), "The main process", PATIENCE * plan.setup.deadline)) as channel:
        try:
            role(Part(plan, sys.argv[2], channel))
        except Hangup as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(HUNG_UP)
