"""Courier: the one thread of a connector that talks to Globus: sends loads, follows tasks, answers questions.

Rules:
1. One thread uses the SDK, which is not thread-safe. It starts with the first work and ends when there is none.
2. A submission's id is in the journal before the submission. What a process that has ended left is taken over at start.
3. One request follows all tasks, after 0.5 s when somebody waits, then less and less often, up to every 10 s.
4. Who waits is told in time, whatever the network does: he waits on an event, and the thread does the rest.
5. What is sent for nobody in particular is tried again until its deadline; the error is kept for `flush`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from proxyfab.background import Task
from proxyfab.connectors.globus.flights import Flight, Order
from proxyfab.connectors.globus.journal import Journal
from proxyfab.connectors.globus.layout import Item, arriving, stored
from proxyfab.connectors.globus.outbox import AT_ONCE, Lane, Limits, Outbox, read
from proxyfab.connectors.globus.refusals import Document, skipped
from proxyfab.connectors.globus.service import Job, Service
from proxyfab.connectors.globus.sites import Site
from proxyfab.errors import ConnectorError, ProxyfabError, ResolveTimeout, TransferFailed, TransferStalled
from proxyfab.fork import on_fork
from proxyfab.waiting import Condition

T = TypeVar("T")
_FIRST, _RARELY, _FACTOR, _LONGEST = 0.5, 5.0, 1.5, 10.0
_IDLE = 2.0
_AT_CLOSE = 10.0
_log = logging.getLogger("proxyfab.globus")


class Courier:
    """Sends and follows for one connector. Thread-safe; a forked child begins with nothing to do."""

    def __init__(
        self, sites: Sequence[Site], journal: Journal, label: str, limits: Limits, *, patience: float, grace: float
    ) -> None:
        self._sites = {site.collection: site for site in sites}
        self._journal = journal
        self.label = label
        self._limits = limits
        self._patience = patience
        self._grace = grace
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """What is owed is the parent's."""
        self._journal.forget()
        self._lock = Condition()
        self._outbox = Outbox(self._limits)
        self._flights: dict[str, Flight] = {}
        self._orders: list[Order] = []
        self._asked: deque[Task[object]] = deque()
        self._failed: list[ProxyfabError] = []
        self._thread: threading.Thread | None = None
        self._adopted = False
        self._closing = False
        self._flushing = 0.0
        """Until when somebody may wait for everything."""
        self._poll_at, self._pause, self._since_failing = 0.0, _RARELY, 0.0

    # -- for callers ---------------------------------------------------------------------------------------------

    def send(self, lane: Lane, items: dict[Item, int]) -> None:
        """Send objects soon; the journal has them when this returns."""
        with self._lock:
            rows = [[*item, nbytes] for item, nbytes in items.items()]
            self._journal.write({"put": rows, "lane": lane})  # a local append, which keeps the journal's order
            self._outbox.add(lane, items, time.monotonic())
            if self._busy().count(lane) >= AT_ONCE:
                self._hasten()  # it goes as soon as one of them is known to be over
            else:
                self._wake()

    def withdraw(self, item: Item) -> None:
        """An object is gone and need not be sent."""
        with self._lock:
            self._outbox.withdraw(item)

    def order(self, lane: Lane, items: Sequence[Item]) -> Order:
        """Send objects at once, for somebody who waits: `order.told` is set when all are settled."""
        order = Order(items)
        with self._lock:
            self._orders.append(order)
            self._outbox.add(lane, dict.fromkeys(items, 0), time.monotonic(), hurry=True)
            self._hasten()
        return order

    def watch(self, task_ids: Sequence[str]) -> Order:
        """Follow tasks of other processes."""
        order = Order(Item("", id) for id in task_ids)
        now = time.monotonic()
        with self._lock:
            self._orders.append(order)
            for id in task_ids:
                lane = Lane("?", id)
                self._flights.setdefault(id, Flight("", lane, [Item("", id)], self._patience, now, task=id))
            self._hasten()
        return order

    def drop(self, order: Order) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            if order in self._orders:
                self._orders.remove(order)

    def ask(self, question: Callable[[Service], T], timeout: float) -> T:
        """The answer of the service.

        Raises:
            ResolveTimeout: It has not come in time.
        """
        task = Task(lambda: question(self._service), "A request to Globus")
        with self._lock:
            self._asked.append(task)  # type: ignore[arg-type]  # what it returns is for who asked
            self._wake()
        return task.result(timeout)

    def flush(self, timeout: float) -> None:
        """Send everything now and wait until it has arrived.

        Raises:
            ProxyfabError: The first that failed since the last flush.
            ResolveTimeout: It goes on.
        """
        ends = time.monotonic() + timeout
        with self._lock:
            self._outbox.hurry()
            self._hasten()
            self._flushing = max(self._flushing, ends)
            idle = self._lock.wait_for(lambda: not (len(self._outbox) or self._flights), ends - time.monotonic())
            failed, self._failed = self._failed, []
        if failed:
            raise failed[0]
        if not idle:
            raise ResolveTimeout(f"Globus has not moved everything within {timeout:g} s; it goes on.")

    def close(self) -> None:
        """Submit what waits, for ten seconds at most; what is not done by then is the journal's."""
        with self._lock:
            thread, self._closing = self._thread, True
            self._outbox.hurry()
            self._lock.notify_all()
        if thread is not None:
            thread.join(_AT_CLOSE)
        with self._lock:
            self._settle_journal()
            self._journal.close()

    # -- the thread ----------------------------------------------------------------------------------------------

    def _hasten(self) -> None:
        self._pause = _FIRST
        self._poll_at = min(self._poll_at, time.monotonic() + _FIRST) if self._flights else 0.0
        self._wake()

    def _wake(self) -> None:
        if self._closing:
            raise ConnectorError("This globus:// connector was closed; open a new one.")
        if self._thread is None or not self._thread.is_alive():  # who started it may have been interrupted
            self._thread = threading.Thread(target=self._run, name="proxyfab-globus", daemon=True)
            self._thread.start()
        self._lock.notify_all()

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # it began so late that another one was started
            service = self._service = Service()
        try:
            self._adopt()
            while (step := self._take()) is not None:
                step()
        finally:
            service.close()  # `self._service` may be the next thread's by now

    def _adopt(self) -> None:
        with self._lock:
            if self._adopted:
                return
            self._adopted, now = True, time.monotonic()
            owed = read(self._journal.adopt())
            for lane, items in owed.waiting.items():
                self._outbox.add(lane, items, now)
            for record in owed.sent:
                sent = [Item(*item) for item in record["items"]]
                sid, lane = record["sid"], Lane(*record["lane"])
                self._flights[sid] = Flight(sid, lane, sent, self._patience, now, record.get("task", ""))

    def _take(self) -> Callable[[], None] | None:
        """The next step; None when the thread is to end, which it then has said."""
        with self._lock:
            idle_at = time.monotonic() + _IDLE
            while True:
                now = time.monotonic()
                if self._asked:
                    return self._asked.popleft().run
                step = self._due(now)
                if step is not None:
                    return step
                unsent = any(not flight.task for flight in self._flights.values())
                if self._closing and not (len(self._outbox) or unsent):
                    self._thread = None
                    return None
                at = self._next()
                if at is None and now >= idle_at:
                    self._thread = None
                    return None
                self._lock.wait((idle_at if at is None else at) - now)

    def _due(self, now: float) -> Callable[[], None] | None:
        late = [each for each in self._flights.values() if not each.task and each.retry_at <= now]
        if late:
            return partial(self._submit, late[0])
        load = self._outbox.due(now, self._busy())
        if load is not None:
            return partial(self._send, *load)
        if self._flying() and self._poll_at <= now:
            return self._poll
        return None

    def _next(self) -> float | None:
        moments = [each.retry_at for each in self._flights.values() if not each.task]
        moments += [self._poll_at] if self._flying() else []
        load = self._outbox.next(self._busy())
        return min(moments + ([load] if load is not None else []), default=None)

    def _busy(self) -> list[Lane]:
        return [flight.lane for flight in self._flights.values()]

    def _flying(self) -> list[Flight]:
        return [flight for flight in self._flights.values() if flight.task]

    # -- sending -------------------------------------------------------------------------------------------------

    def _send(self, lane: Lane, items: list[Item]) -> None:
        try:
            sid = self._service.submission_id()
        except ProxyfabError as error:
            self._refuse(lane, items, error)
            return
        flight = Flight(sid, lane, items, self._patience, time.monotonic())
        with self._lock:
            self._journal.write({"sid": sid, "lane": lane, "items": items})
            self._flights[sid] = flight
        self._submit(flight)

    def _submit(self, flight: Flight) -> None:
        try:
            task = self._service.submit(self._job(flight))
        except ProxyfabError as error:
            with self._lock:
                flight.retry_at, flight.pause = time.monotonic() + flight.pause, min(flight.pause * 2, _LONGEST)
                waited = any(order.wanted.intersection(flight.items) for order in self._orders)
                if waited or not isinstance(error, ConnectorError) or time.monotonic() > flight.until or self._closing:
                    del self._flights[flight.sid]
                    self._end(flight.items, error)
            return
        with self._lock:
            self._journal.write({"sid": flight.sid, "task": task})
            if not self._flying():
                self._pause = _FIRST if self._orders or time.monotonic() < self._flushing else _RARELY
                self._poll_at = time.monotonic() + self._pause
            flight.task = task

    def _refuse(self, lane: Lane, items: list[Item], error: ProxyfabError) -> None:
        """No submission could be prepared. What nobody waits for goes back, and is tried again a little later."""
        with self._lock:
            waited = any(order.wanted.intersection(items) for order in self._orders)
            if not waited and isinstance(error, ConnectorError) and not self._closing:
                self._outbox.add(lane, dict.fromkeys(items, 0), time.monotonic() + _FIRST)
            else:
                self._end(items, error)

    def _job(self, flight: Flight) -> Job:
        source, target = self._sites.get(flight.lane.source), self._sites[flight.lane.target]
        files: list[tuple[str, str]] = []
        for item in flight.items:
            if source is not None:
                files.append((stored(source.path, item), arriving(target.path, item)))
            else:
                files += [("", stored(target.path, item)), ("", arriving(target.path, item))]
        return Job(flight.sid, *flight.lane, tuple(files), self.label, flight.seconds)

    # -- following -----------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        with self._lock:
            flying = self._flying()
        try:
            documents = self._service.tasks([flight.task for flight in flying])
            self._since_failing = 0.0
        except ProxyfabError as error:
            self._cannot_poll(flying, error)
        else:
            for flight in flying:
                self._judge(flight, documents.get(flight.task))
        with self._lock:
            self._pause = min(self._pause * _FACTOR, _LONGEST)
            self._poll_at = time.monotonic() + self._pause
            self._settle_journal()
            self._lock.notify_all()

    def _cannot_poll(self, flying: list[Flight], error: ProxyfabError) -> None:
        """Networks come back: only after a while, or at once if it is no network's fault, is it said to who waits."""
        now = time.monotonic()
        self._since_failing = self._since_failing or now
        given_up = [flight for flight in flying if now >= flight.until]
        if not isinstance(error, ConnectorError) or now - self._since_failing >= self._grace:
            with self._lock:
                for order in self._orders:
                    order.settle(set(order.wanted), error)
        for flight in given_up:
            self._judge(flight, None)

    def _judge(self, flight: Flight, document: Document | None) -> None:
        over, error = flight.verdict(document, time.monotonic(), self._grace)
        if not over:
            return
        theirs = flight.lane.source == "?"
        if isinstance(error, TransferStalled) and not theirs:
            self._cancel(flight)
        failed = {} if theirs or error is not None else self._passed_over(flight, document or {})
        with self._lock:
            for item in flight.items:
                self._end([item], error or failed.get(item), quiet=theirs)
            self._flights.pop(flight.sid or flight.task, None)
            if not theirs:
                self._journal.write({"done": flight.sid})

    def _cancel(self, flight: Flight) -> None:
        try:
            self._service.cancel(flight.task)
        except ProxyfabError as error:
            _log.warning("Cannot cancel a stalled task: %s", error)

    def _passed_over(self, flight: Flight, document: Document) -> dict[Item, TransferFailed]:
        """Errors of single files; one that is not there at the source is no error."""
        source = self._sites.get(flight.lane.source)
        if source is None or not document.get("subtasks_skipped_errors"):
            return {}
        try:
            found = self._service.passed_over(flight.task)
        except ProxyfabError as error:
            _log.warning("Cannot tell which files a task passed over: %s", error)
            return {}
        reasons = {item: found.get(stored(source.path, item)) for item in flight.items}
        return {
            item: skipped(flight.task, stored(source.path, item), *reason)
            for item, reason in reasons.items()
            if reason is not None and reason[0] != "FILE_NOT_FOUND"
        }

    def _end(self, items: Sequence[Item], error: ProxyfabError | None, *, quiet: bool = False) -> None:
        """Under the lock."""
        waited = False
        for order in self._orders:
            waited |= bool(order.wanted.intersection(items))
            order.settle(items, error)
        if error is not None and not waited and not quiet:
            self._failed.append(error)
            _log.warning("%d objects were not moved: %s", len(items), error)
        self._lock.notify_all()

    def _settle_journal(self) -> None:
        """Under the lock: the file begins anew when nothing is owed, and nothing has failed that might yet succeed."""
        if not (len(self._outbox) or any(each.sid for each in self._flights.values()) or self._failed):
            self._journal.settle()
