"""Flights: tasks that the service works on, what they carry, and who waits for them.

Promises: who waits is told of each object as soon as its task is over: brought, not there (no file at the source), or
the error. A task that reports an error for longer than `grace`, or is not over at its deadline, counts as stalled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxyfab.connectors.globus.layout import Item
from proxyfab.connectors.globus.outbox import Lane
from proxyfab.connectors.globus.refusals import Document, ails, ended, stalled
from proxyfab.errors import ProxyfabError
from proxyfab.waiting import Flag

_LATE = 2.0


class Order:
    """Objects that somebody waits for. `settled` and `errors` are read and written under the courier's lock."""

    def __init__(self, wanted: Iterable[Item]) -> None:
        self.wanted = set(wanted)
        self.errors: dict[Item, ProxyfabError] = {}
        self.told = Flag()

    def settle(self, items: Iterable[Item], error: ProxyfabError | None = None) -> None:
        """These are over, with this error if there is one."""
        for item in self.wanted.intersection(items):
            self.wanted.discard(item)
            if error is not None:
                self.errors[item] = error
        if not self.wanted:
            self.told.set()


class Flight:
    """One task, from before it is submitted until it is over."""

    def __init__(self, sid: str, lane: Lane, items: list[Item], seconds: float, now: float, task: str = "") -> None:
        self.sid = sid
        self.lane = lane
        self.items = items
        self.seconds = seconds
        self.until = now + seconds + _LATE
        self.task = task
        self.retry_at = now
        self.pause = 0.5
        self._ailing = 0.0

    def verdict(self, document: Document | None, now: float, grace: float) -> tuple[bool, ProxyfabError | None]:
        """Whether it is over for who waits, and the error if it has failed. Stalled ones are to be cancelled."""
        if document is not None:
            if document["status"] == "SUCCEEDED":
                return True, None
            error = ended(document)
            if error is not None:
                return True, error
            self._ailing = (self._ailing or now) if ails(document) else 0.0
            if self._ailing and now - self._ailing >= grace:
                return True, stalled(document, "reports an error and gets no further")
        if now >= self.until:
            blank: dict[str, Any] = {"task_id": self.task, "status": "unknown"}
            return True, stalled(document or blank, f"was not done after {self.seconds:g} s")
        return False, None
