"""A worker: leases one task after another, says that it is alive, and sets each task's future once.

Rules:
1. A task is acknowledged when its outcome stands, never before: a worker that dies leaves it to the next one, a lease
   after its last sign of life.
2. The first outcome counts: a worker that was only paused, and comes back, changes nothing.
3. Faults of what is around a task send it on, with what has happened; its own faults end it.
4. Nothing here raises for want of the broker: it is tried again until somebody ends the worker.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from typing import Any, NamedTuple

from proxyfab.errors import IntegrityError, KeyNotFound, ProxyfabError, TopicNotFound, WorkerDied
from proxyfab.events.broker import Broker, Subscription, received
from proxyfab.events.model import Delivery
from proxyfab.keys import Key
from proxyfab.patterns.future.handle import Future, load
from proxyfab.patterns.raised import story_of
from proxyfab.patterns.resilient.failures import Failure, Quarantine, Retries, avoids
from proxyfab.patterns.resilient.journal import Journal
from proxyfab.patterns.resilient.nodes import Roll, Worker
from proxyfab.patterns.resilient.task import Past, Task, task_in
from proxyfab.trace import here
from proxyfab.waiting import Flag

GROUP = "workers"
_BEATS = 3
_SLICE = 1.0
_PASSED_ON = 0.05
_FRESH = 0.05
"""Seconds for which it is known that this node is not left alone."""
_PAUSE = 0.2
_SEEN = 3.0
"""Leases that a worker is seen after its last sign of life."""


class Terms(NamedTuple):
    """What workers are told.

    Attributes:
        lease: Seconds of silence after which a worker's task is given to another one.
        retries: How often, and when, a task is tried again.
        quarantine: When a node is left alone.
        pool: Which group of workers this is.
        node: The machine; "" for this one's name.
        dies: Whether a task that does not end in its time may take its process along.
        of: The executor whose end is the worker's; "" for none.
    """

    lease: float = 5.0
    retries: Retries = Retries()
    quarantine: Quarantine = Quarantine()
    pool: str = "own"
    node: str = ""
    dies: bool = False
    of: str = ""


class Loop:
    """One worker of this process. `run` until `stop` is set.

    Args:
        broker: Where the tasks are.
        name: Of their executor.
        terms: As told.
        stop: Set, to end after the task at hand.
    """

    def __init__(self, broker: Broker, name: str, terms: Terms, stop: threading.Event) -> None:
        self._broker = broker
        self._topic = f"{name}.tasks"
        self._terms = terms
        self._stop = stop
        self._me = Worker(Key.draw().id[:16], terms.node or here(), terms.pool, os.getpid(), since=time.time())
        self._roll = Roll(broker.state(self._topic), terms.quarantine)
        self._journal = Journal(broker, name, f"worker/{self._me.id}")
        self._at: tuple[Subscription, Delivery, Task, float] | None = None
        self._over = Flag()

    def run(self) -> None:
        """Work until `stop` is set, or the topic is deleted."""
        beating = threading.Thread(target=self._beat, name="proxyfab-worker", daemon=True)
        beating.start()
        try:
            while not self._stop.is_set():
                try:
                    self._work()
                except TopicNotFound:  # the executor has ended
                    return
                except ProxyfabError:
                    self._stop.wait(_PAUSE)
        finally:
            self._over.set()
            with contextlib.suppress(ProxyfabError):
                self._roll.leave(self._me)
            self._journal.flush(1.0)

    def _work(self) -> None:
        terms = self._terms
        with self._broker.subscribe(self._topic, group=GROUP, ack_wait=terms.lease, member=self._me.id) as tasks:
            while not self._stop.is_set():
                alone = self._roll.left_alone(self._me.node)
                if alone:
                    self._stop.wait(min(alone, _SLICE))
                    continue
                asked = time.monotonic()
                got = tasks.fetch(1, _SLICE)
                if got and time.monotonic() - asked > _FRESH and self._roll.left_alone(self._me.node):
                    tasks.nack(got)  # that was decided while this one waited
                    continue
                for delivery in got:
                    self._handle(tasks, delivery)
                if not got and terms.of and not self._roll.is_present(terms.of):
                    self._stop.set()

    # -- one task ----------------------------------------------------------------------------------------------------

    def _handle(self, tasks: Subscription, delivery: Delivery) -> None:
        try:
            task = task_in(delivery)
        except IntegrityError as error:
            self._journal.task(str(delivery.position), "damaged", error=str(error))
            tasks.ack([delivery])
            return
        future: Future[Any] = load(task.store, task.id, "", None, task.result_ttl, "", 0, None, self._broker.url)
        past = self._roll.past(task.id) if delivery.attempt > 1 else Past()
        if future.done():
            self._done(tasks, delivery, task)
            return
        if past.node:
            past = self._lost(task, past)
            if past.attempt > self._terms.retries.times:
                self._settle(lambda: future.set_exception(_died(task, past)))
                self._done(tasks, delivery, task)
                return
        if past.history.failures and self._is_for_others(past):
            tasks.nack([delivery], delay=_PASSED_ON)
            return
        self._try(tasks, delivery, task, future, past)

    def _lost(self, task: Task, past: Past) -> Past:
        """A worker began it and did not end: it has died, or was paused for longer than its lease."""
        self._journal.task(task.id, "lost", node=past.node, pool=past.pool, attempt=past.attempt)
        self._fault(past.node)
        past = Past(past.attempt, "", "", past.history.failed(past.node, past.pool))
        self._roll.remember(task.id, past)
        return past

    def _is_for_others(self, past: Past) -> bool:
        nodes, pools = avoids(past.history, self._roll.crew())
        return self._me.node in nodes or self._me.pool in pools

    def _fault(self, node: str) -> None:
        alone = self._roll.fault(node)
        if alone:
            self._journal.health(node, "quarantined", seconds=round(alone, 1))

    def _try(self, tasks: Subscription, delivery: Delivery, task: Task, future: Future[Any], past: Past) -> None:
        past = Past(past.attempt + 1, self._me.node, self._me.pool, past.history)
        self._roll.remember(task.id, past)
        self._journal.task(task.id, "started", node=self._me.node, pool=self._me.pool, attempt=past.attempt)
        self._at = tasks, delivery, task, time.monotonic()
        try:
            outcome = self._called(task, future)
        finally:
            self._at = None
        if outcome is None:
            self._count(done=1)
            self._journal.task(task.id, "done", node=self._me.node, attempt=past.attempt)
        else:
            self._count(failed=1)
            if self._again(tasks, delivery, task, past, outcome):
                return
            self._settle(lambda: future.set_exception(outcome))
            self._journal.task(task.id, "failed", node=self._me.node, error=story_of(outcome))
        self._done(tasks, delivery, task)

    def _called(self, task: Task, future: Future[Any]) -> BaseException | None:
        """Do it, and set its result; what was raised instead, as far as that is a task's to raise."""
        try:
            call = task.call.resolve()
            result = call.function(*call.args, **call.kwargs)
        except KeyNotFound as error:
            return None if future.done() else error  # the input of what is done is not kept
        except (KeyboardInterrupt, SystemExit) as error:
            return RuntimeError(f"The task ended its process's work with {type(error).__name__}: {error}.")
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its caller's
            return error
        try:
            self._settle(lambda: future.set_result(result))
        except Exception as error:  # noqa: BLE001 - it does not pickle, or there is no room: likewise
            return error
        return None

    def _again(self, tasks: Subscription, delivery: Delivery, task: Task, past: Past, error: BaseException) -> bool:
        """Send it on, where that may help."""
        if self._terms.retries.failure(error) is not Failure.AROUND:
            return False
        self._fault(self._me.node)
        delay = self._terms.retries.delay(past.attempt)
        if delay is None:
            return False
        self._roll.remember(task.id, Past(past.attempt, "", "", past.history.failed(self._me.node, self._me.pool)))
        self._journal.task(task.id, "retried", node=self._me.node, attempt=past.attempt, error=story_of(error))
        tasks.nack([delivery], delay=delay)
        return True

    def _settle(self, set_it: Callable[[], None]) -> None:
        with contextlib.suppress(InvalidStateError):  # somebody was first, or it was cancelled
            set_it()

    def _done(self, tasks: Subscription, delivery: Delivery, task: Task) -> None:
        tasks.ack([delivery])
        self._roll.forget(task.id)

    def _count(self, done: int = 0, failed: int = 0) -> None:
        self._me = self._me._replace(done=self._me.done + done, failed=self._me.failed + failed)

    # -- signs of life -----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        pause = self._terms.lease / _BEATS
        while True:
            at = self._at
            try:
                if at is not None:
                    at[0].extend([at[1]])
                self._roll.show(self._me._replace(task=at[2].id if at else ""), _SEEN * self._terms.lease)
            except ProxyfabError:  # the next one may come through; if none does, it is right to give us up
                pass
            if at is not None and at[2].timeout is not None and time.monotonic() - at[3] > at[2].timeout:
                self._give_up(*at[:3])
                at = None
            left = pause if at is None or at[2].timeout is None else at[3] + at[2].timeout - time.monotonic()
            if self._over.wait(min(pause, max(left, 0.001))):
                return

    def _give_up(self, tasks: Subscription, delivery: Delivery, task: Task) -> None:
        """A task has not ended in its time: it fails, and where it may its process goes with it."""
        future: Future[Any] = load(task.store, task.id, "", None, task.result_ttl, "", 0, None, self._broker.url)
        late = TimeoutError(f"The task {task.id} did not end within {task.timeout:g} s on {self._me.node}.")
        with contextlib.suppress(ProxyfabError):
            self._settle(lambda: future.set_exception(late))
            self._done(tasks, delivery, task)
        self._journal.task(task.id, "failed", node=self._me.node, error=str(late))
        self._at = None
        if self._terms.dies:
            self._journal.flush(1.0)
            os._exit(_TOO_LATE)


_TOO_LATE = 75


def _died(task: Task, past: Past) -> WorkerDied:
    where = ", ".join(past.history.nodes)
    return WorkerDied(
        f"The task {task.id} was begun {past.attempt} times, and its workers died or fell silent (on {where}). "
        "It may be the task that ends them: run it alone, with more memory, or with a longer lease."
    )


def work(url: str, name: str, terms: Terms, stop: threading.Event | None = None) -> None:
    """Work for an executor until it ends, or `stop` is set: what pools are given to run, and what processes do."""
    Loop(received(url), name, terms, stop or threading.Event()).run()
