"""Tasks of executors without a name that were killed: nobody else knows their topics, so nobody would ever delete them.

Rules:
1. Such an executor says beside its topic when it was there last (`Roll.present`). Who is silent for `OLD` seconds,
   which is longer than any broker is away, is taken for dead: its topic goes, with what its calls were stored under.
2. A topic that never said so is not one of these, whatever its name.
3. Results whose futures died with them expire by themselves.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator

from proxyfab.abc import Reclaimed
from proxyfab.errors import IntegrityError, ProxyfabError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Capability
from proxyfab.patterns.resilient.failures import Quarantine
from proxyfab.patterns.resilient.journal import UNNAMED
from proxyfab.patterns.resilient.nodes import Roll
from proxyfab.patterns.resilient.task import Task, task_in

OLD = 86400.0
_NAME = re.compile(re.escape(UNNAMED) + r"[^.]+\.tasks")
_BATCH, _WAIT = 64, 1.0


def sweep_tasks(
    broker: Broker, *, older: float = OLD, dry_run: bool = False, stop: Callable[[], bool] = lambda: False
) -> list[Reclaimed]:
    """Delete the topics of executors without a name that have died; what was deleted.

    Args:
        broker: Where to look.
        older: Seconds for which they have given no sign of life.
        dry_run: Only say what would be.
        stop: Asked between two topics.

    Raises:
        ConnectorError: The broker cannot be reached.
    """
    found: list[Reclaimed] = []
    if Capability.STATE not in broker.capabilities:
        return found
    for topic in [name for name in broker.topics() if _NAME.fullmatch(name)]:
        if stop():
            break
        try:
            seen = Roll(broker.state(topic), Quarantine()).last_seen()
            if seen is None or time.time() - seen <= older:
                continue
            nbytes = broker.describe(topic).nbytes
            if not dry_run:
                _evict(broker, topic)
                broker.delete(topic)
        except TopicNotFound:  # somebody else was faster
            continue
        found.append(Reclaimed(f"topic {topic}", nbytes, f"its executor is silent for {time.time() - seen:.0f} s"))
    return found


def _evict(broker: Broker, topic: str) -> None:
    """What the calls that nobody will run any more were stored under."""
    for task in _tasks(broker, topic):
        if task.call.key is not None:
            with contextlib.suppress(ProxyfabError):  # its store went with it, or is not ours to open
                task.call.evict()


def _tasks(broker: Broker, topic: str) -> Iterator[Task]:
    last = broker.describe(topic).extents[0].last
    with broker.subscribe(topic, group=None, start=EARLIEST) as reader:
        at = 0
        while at < last and (batch := reader.fetch_surely(_BATCH, _WAIT)):
            at = batch[-1].position.offset
            for delivery in batch:
                with contextlib.suppress(IntegrityError):
                    yield task_in(delivery)
