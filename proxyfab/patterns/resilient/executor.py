"""ResilientExecutor: an Executor whose tasks are leased from a broker, so that no worker's death loses one.

    with ResilientExecutor(broker, store, workers=4) as executor:
        futures = [executor.submit(analyse, image) for image in images]

Rules:
1. `submit` returns a Future at once; its task goes to the broker in the background, with those submitted meanwhile.
   What the broker does not take in time fails its future.
2. A task is done once: its future's outcome is set by compare-and-set, and the first one counts.
3. What large calls were stored under is deleted when their outcome stands; results are when their futures are let go.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, InvalidStateError, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import Future as PlainFuture
from functools import partial
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from proxyfab.brokers.opening import open_broker
from proxyfab.errors import CapabilityError, ConfigurationError, ProxyfabError, WorkerDied
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Topic, check_topic
from proxyfab.keys import Key
from proxyfab.members import Members
from proxyfab.patterns.future.handle import Future
from proxyfab.patterns.raised import story_of
from proxyfab.patterns.resilient.crew import Crew
from proxyfab.patterns.resilient.errands import Janitor, Outbox
from proxyfab.patterns.resilient.failures import Quarantine, Retries
from proxyfab.patterns.resilient.journal import UNNAMED, Journal
from proxyfab.patterns.resilient.leavings import sweep_tasks
from proxyfab.patterns.resilient.nodes import Roll, Worker
from proxyfab.patterns.resilient.task import Call, Task
from proxyfab.patterns.resilient.worker import GROUP, Loop, Terms, work
from proxyfab.ref import Ref
from proxyfab.store import Store
from proxyfab.waiting import Flag

P = ParamSpec("P")
T = TypeVar("T")
_NEEDED = Capability.GROUPS | Capability.PER_EVENT_ACK | Capability.STATE
_REVIVE = 0.5
_LOOK = 0.02
_PRESENT = 30.0
_RESULTS = 7 * 86400.0
"""Seconds that results stay whose futures were let go before they came."""


class ResilientExecutor(Executor):
    """Runs tasks so that a worker's death, a full disk or a bad node costs time and nothing else. Thread-safe.

    Args:
        broker: Where tasks wait, or its URL; None for the embedded one.
        store: Where calls and results that are large lie; None for shared memory of this machine.
        workers: Worker processes of its own on this machine; None: one for each core, if no pools are given.
        pools: Executors by name (threads, processes, Dask's, Parsl's ...), and in each how many workers to run.
        name: Others who use it reach the same tasks (`work_for`); None for one of its own, which ends with it.
        lease: Seconds of silence after which a worker counts as dead.
        retries: How often, and when, a task is tried again, and for which exceptions.
        quarantine: When a node is left alone.
        timeout: Seconds that a task may run; None for as long as it takes.

    Raises:
        CapabilityError: The broker cannot lease single records, or keeps no values.
        ConfigurationError: An argument makes no sense.
    """

    def __init__(
        self,
        broker: Broker | str | None = None,
        store: Store | None = None,
        *,
        workers: int | None = None,
        pools: Mapping[str, tuple[Executor, int]] | None = None,
        name: str | None = None,
        lease: float = 5.0,
        retries: Retries | int = Retries(),  # noqa: B008 - frozen
        quarantine: Quarantine = Quarantine(),  # noqa: B008 - frozen
        timeout: float | None = None,
    ) -> None:
        _check_sizes(lease, workers, {} if pools is None else pools)
        self.broker = broker if isinstance(broker, Broker) else open_broker(broker)
        own = (0 if pools else os.cpu_count() or 1) if workers is None else workers
        _check(self.broker, own, pools or {})
        self.name = check_topic(name or f"{UNNAMED}{Key.draw().id[:12]}")
        self.timeout = timeout
        self._keeps = name is not None
        self._owned = Store() if store is None else None
        self.store: Store = store if store is not None else self._owned  # type: ignore[assignment]  # one of them is
        self._terms = Terms(lease, Retries(retries) if isinstance(retries, int) else retries, quarantine)
        self._topic = f"{self.name}.tasks"
        self.broker.ensure(Topic(self._topic, release="never"))
        self.broker.ensure_group(self._topic, GROUP, ack_wait=lease)
        self._id = Key.draw().id[:16]
        self._journal = Journal(self.broker, self.name, f"executor/{self._id}")
        self._outbox = Outbox(self.broker, self._topic)
        self._janitor = Janitor()
        self._open: Members[Future[Any]] = Members()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._submitted = 0
        self._shut = False
        self._ended = Flag()
        self._broken: WorkerDied | None = None
        self._terms = self._terms._replace(of=self._id)
        self._roll.present(self._id, _PRESENT, alone=not self._keeps)
        self._presence = threading.Thread(target=self._stay, name="proxyfab-executor", daemon=True)
        self._presence.start()
        self._janitor.add(partial(sweep_tasks, self.broker, stop=self._stop.is_set))
        self._crew = Crew(self.broker.url, self.name, self._terms, own, self._told) if own else None
        self._loops: list[_Revived] = []
        self._loops = [
            _Revived(self, pool, executor) for pool, (executor, n) in (pools or {}).items() for _ in range(n)
        ]
        self._look_at_pools()
        _open.add(self)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PlainFuture[T]:
        """Have `fn(*args, **kwargs)` run by some worker.

        Raises:
            SerializationError: The call cannot become bytes.
            WorkerDied: All its pools are broken, and it has no workers of its own.
            RuntimeError: It was shut down.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._refuse()
            self._submitted += 1
        id = Key.draw().id
        call: Ref[Call] = self.store.ref(Call(fn, args, kwargs), once=True)
        future: Future[T] = Future(self.store, broker=self.broker, key=id, timeout=None)
        self._open.add(future)
        if call.key is not None:
            future.add_done_callback(self._janitor.hold(call.evict))
        weakref.finalize(future, self._janitor.add, future.ref().evict).atexit = False
        self._outbox.add(Task(id, call, self.store.url, self.timeout, _RESULTS), future)
        self._journal.task(id, "submitted")
        if self._broken is not None:  # since a moment ago
            self._fail(self._broken, [future])
        return future

    def _refuse(self) -> None:
        if self._broken is not None:
            raise self._broken

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End it, after the tasks that were submitted or, with `cancel_futures`, after those that run.

        With `wait=False` that is done in the background, and the process stays until then. Without a name its topic
        goes with it. Pools are their makers' to end.
        """
        with self._lock:
            first, self._shut = not self._shut, True
        if first and wait:
            self._end(cancel_futures)
        elif first:
            threading.Thread(target=self._end, args=(cancel_futures,), name="proxyfab-executor-ending").start()
        elif wait:
            self._ended.wait()

    def _end(self, cancel: bool) -> None:
        try:
            self._outbox.flush()
            self._cancel() if cancel else self._wait()
        finally:
            self._close()
            self._ended.set()

    def _cancel(self) -> None:
        for future in list(self._open):
            with contextlib.suppress(ProxyfabError):
                future.cancel()

    def _wait(self) -> None:
        left = list(self._open)
        for future in left:
            with contextlib.suppress(Exception):
                future.exception()
        if len(left) == self._submitted or self._keeps:
            return
        with contextlib.suppress(ProxyfabError):  # tasks are to be done also if nobody waits for their outcome
            while self._broken is None and self.broker.groups(self._topic)[GROUP].lag:
                time.sleep(_LOOK)

    def _close(self) -> None:
        self._stop.set()
        self._presence.join()
        if self._crew is not None:
            self._crew.close()
        for loop in self._loops:
            loop.close()
        self._journal.flush(2.0)
        self._janitor.close(everything=not self._keeps)  # nobody is told of an outcome before it can be waited for
        if not self._keeps:
            with contextlib.suppress(ProxyfabError):
                self.broker.delete(self._topic)
        if self._owned is not None:
            self._owned.close()

    def _leave(self) -> None:
        """The interpreter ends and waits for pools: their workers are not to wait for us."""
        if not self._shut:
            self._stop.set()

    def _look_at_pools(self) -> None:
        """Where nobody is left to run a task, and nobody may come who knows our name, those who wait are told."""
        broken = [loop.broken for loop in self._loops if loop.broken is not None]
        if self._keeps or self._crew is not None or not broken or len(broken) < len(self._loops):
            return
        self._broken = WorkerDied(
            f"The executor {self.name} runs nothing any more: all its pools are broken, or were shut down. Make "
            f"another one with other pools, or with workers of its own, which are started again. {story_of(broken[0])}"
        )
        self._fail(self._broken, list(self._open))

    def _fail(self, error: WorkerDied, futures: list[Future[Any]]) -> None:
        for future in futures:
            with contextlib.suppress(ProxyfabError, InvalidStateError):
                future.set_exception(error)

    # -- what it knows -----------------------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """All workers that are seen, of whichever pool and machine."""
        return self._roll.workers()

    def left_alone(self) -> dict[str, float]:
        """Nodes that get no tasks now, and for how many seconds more."""
        nodes = {worker.node for worker in self.workers()}
        return {node: left for node in sorted(nodes) if (left := self._roll.left_alone(node)) > 0}

    def pardon(self, node: str) -> None:
        """Have a node take tasks again."""
        self._roll.pardon(node)

    @property
    def pids(self) -> list[int]:
        """Of its own worker processes."""
        return [] if self._crew is None else self._crew.pids

    @property
    def _roll(self) -> Roll:
        return Roll(self.broker.state(self._topic), self._terms.quarantine)

    def _stay(self) -> None:
        """Say that this executor is there, until it ends: workers in pools end with it."""
        while not self._stop.wait(_PRESENT / 3):
            with contextlib.suppress(ProxyfabError):
                self._roll.present(self._id, _PRESENT, alone=not self._keeps)
        with contextlib.suppress(ProxyfabError):
            self._roll.absent(self._id)

    def _told(self, what: str, pid: int) -> None:
        self._journal.health(f"worker/{pid}", what, pid=pid)


def _check_sizes(lease: object, workers: object, pools: object) -> None:
    """Arguments that would only fail in a worker."""
    if not isinstance(lease, int | float) or not lease > 0:
        raise ConfigurationError(f"{lease=} is no number of seconds above 0.")
    if workers is not None and not _counts(workers):
        raise ConfigurationError(f"{workers=} is no number of processes: 0 or more, or None for one for each core.")
    if not isinstance(pools, Mapping):
        raise ConfigurationError(f"{pools=} names no executors; write pools={{'name': (executor, 4)}}.")
    for name, pool in pools.items():
        executor, number = pool if isinstance(pool, tuple | list) and len(pool) == 2 else (None, None)
        if not callable(getattr(executor, "submit", None)) or not _counts(number):
            raise ConfigurationError(
                f"pools[{name!r}] is {pool!r}, and not an executor and how many workers to run in it, as in "
                "pools={'name': (executor, 4)}."
            )


def _counts(number: object) -> bool:
    return isinstance(number, SupportsIndex) and number.__index__() >= 0


def _check(broker: Broker, workers: int, pools: Mapping[str, tuple[Executor, int]]) -> None:
    if _NEEDED & ~broker.capabilities:
        raise CapabilityError(f"{broker.url} cannot lease single tasks and keep values; take redis or nats.")
    apart = workers > 0 or any([isinstance(pool, ProcessPoolExecutor) for pool, _ in pools.values()])
    if apart and broker.url.startswith("memory:"):
        raise ConfigurationError(
            f"{broker.url} is this process's own: workers in other processes would never see its tasks. Take redis:// "
            "or nats://, or give pools of threads."
        )


def work_for(broker: Broker | str, name: str, **terms: Any) -> None:
    """Work for the executor of that name, in this process, until it ends: for workers that are started elsewhere.

    Args:
        broker: Where its tasks wait. A URL is this program's own, as for `open_broker`: its password may be any.
        name: As it was given to ResilientExecutor.
        terms: `lease`, `retries`, `quarantine`, `pool` and `node`, as there.
    """
    told = Terms(**terms)
    with open_broker(broker) if isinstance(broker, str) else contextlib.nullcontext(broker) as here:
        Loop(here, name, told, threading.Event()).run()


class _Revived:
    """A worker in somebody's pool, which is given to it again when it ends before its time."""

    def __init__(self, of: ResilientExecutor, pool: str, executor: Executor) -> None:
        self._pool = pool
        self._executor = executor
        self._url, self._name, self._terms = of.broker.url, of.name, of._terms._replace(pool=pool)
        self._journal, self._stopped = of._journal, of._stop
        self._of = weakref.ref(of)
        self.broken: Exception | None = None
        """Why its pool takes it no more."""
        self._timer: threading.Timer | None = None
        self._future: PlainFuture[None] | None = None
        self._give()

    def _give(self) -> None:
        if self._stopped.is_set():
            return
        stop = self._stopped if _shares_memory(self._executor) else None
        try:
            self._future = self._executor.submit(work, self._url, self._name, self._terms, stop)
        except RuntimeError as error:  # the pool is broken, or was shut down
            self.broken = error
            self._journal.health(self._pool, "pool broken", error=story_of(error, 200))
            of = self._of()
            if of is not None:
                of._look_at_pools()
            return
        self._future.add_done_callback(self._ended)

    def _ended(self, future: PlainFuture[None]) -> None:
        if self._stopped.is_set() or future.cancelled():
            return
        self._journal.health(self._pool, "worker ended", error=_why(future))
        self._timer = threading.Timer(_REVIVE, self._give)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._future is not None:
            self._future.cancel()


def _why(future: PlainFuture[None]) -> str:
    error = future.exception()
    return "" if error is None else story_of(error, 200)


def _shares_memory(executor: Executor) -> bool:
    """Whether an Event of ours means something to what runs there."""
    return isinstance(executor, ThreadPoolExecutor)


_open: Members[ResilientExecutor] = Members()


def _leave() -> None:
    for executor in list(_open):
        executor._leave()


_before_pools_end = getattr(threading, "_register_atexit", None)
"""How concurrent.futures is told of the interpreter's end; `atexit` comes after it has waited for all its workers."""
if _before_pools_end is not None:
    _before_pools_end(_leave)
