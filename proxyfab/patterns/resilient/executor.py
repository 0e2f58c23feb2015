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
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import Future as PlainFuture
from typing import Any, ParamSpec, TypeVar

from proxyfab.brokers.opening import open_broker
from proxyfab.errors import CapabilityError, ConfigurationError, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Topic, check_topic
from proxyfab.keys import Key
from proxyfab.patterns.future.handle import Future
from proxyfab.patterns.resilient.crew import Crew
from proxyfab.patterns.resilient.failures import Quarantine, Retries
from proxyfab.patterns.resilient.journal import Journal
from proxyfab.patterns.resilient.nodes import Roll, Worker
from proxyfab.patterns.resilient.task import Call, Task
from proxyfab.patterns.resilient.worker import GROUP, Terms, work
from proxyfab.ref import Ref
from proxyfab.store import Store

P = ParamSpec("P")
T = TypeVar("T")
_NEEDED = Capability.GROUPS | Capability.PER_EVENT_ACK | Capability.STATE
_FRAMES = 64
_REVIVE = 0.5
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
        self.broker = broker if isinstance(broker, Broker) else open_broker(broker)
        if _NEEDED & ~self.broker.capabilities:
            raise CapabilityError(f"{self.broker.url} cannot lease single tasks and keep values; take redis or nats.")
        if lease <= 0:
            raise ConfigurationError(f"A lease of {lease} s makes no sense.")
        self.name = check_topic(name or f"tasks-{Key.draw().id[:12]}")
        self.timeout = timeout
        self._keeps = name is not None
        self._owned = Store() if store is None else None
        self.store: Store = store if store is not None else self._owned  # type: ignore[assignment]  # one of them is
        self._terms = Terms(lease, Retries(retries) if isinstance(retries, int) else retries, quarantine)
        self._topic = f"{self.name}.tasks"
        self.broker.ensure(Topic(self._topic, release="never", groups=(GROUP,)))
        self.broker.ensure_group(self._topic, GROUP)
        self._id = Key.draw().id[:16]
        self._journal = Journal(self.broker, self.name, f"executor/{self._id}")
        self._outbox = _Outbox(self.broker, self._topic)
        self._janitor = _Janitor()
        self._open: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._shut = False
        self._terms = self._terms._replace(of=self._id)
        self._roll.present(self._id, _PRESENT)
        self._presence = threading.Thread(target=self._stay, name="proxyfab-executor", daemon=True)
        self._presence.start()
        own = (0 if pools else os.cpu_count() or 1) if workers is None else workers
        self._crew = Crew(self.broker.url, self.name, self._terms, own, self._told) if own else None
        self._loops = [
            _Revived(self, pool, executor) for pool, (executor, n) in (pools or {}).items() for _ in range(n)
        ]

    # -- tasks -------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PlainFuture[T]:
        """Have `fn(*args, **kwargs)` run by some worker.

        Raises:
            SerializationError: The call cannot become bytes.
            RuntimeError: It was shut down.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        id = Key.draw().id
        call: Ref[Call] = self.store.ref(Call(fn, args, kwargs), once=True)
        future: Future[T] = Future(self.store, broker=self.broker, key=id, timeout=None)
        self._open.add(future)
        if call.key is not None:
            future.add_done_callback(lambda _: self._janitor.add(call.evict))
        weakref.finalize(future, self._janitor.add, future.ref().evict).atexit = False
        self._outbox.add(Task(id, call, self.store.url, self.timeout, _RESULTS), future)
        self._journal.task(id, "submitted")
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End it, after the tasks that were submitted or, with `cancel_futures`, after those that run.

        Without a name its topic goes with it. Pools are their makers' to end.
        """
        with self._lock:
            first, self._shut = not self._shut, True
        if not first:
            return
        self._outbox.flush()
        left = list(self._open)
        if cancel_futures:
            for future in left:
                with contextlib.suppress(ProxyfabError):
                    future.cancel()
        elif wait:
            for future in left:
                with contextlib.suppress(BaseException):
                    future.exception()
        self._stop.set()
        self._presence.join()
        if self._crew is not None:
            self._crew.close()
        for loop in self._loops:
            loop.close()
        self._journal.flush(2.0)
        self._janitor.close()
        if not self._keeps and wait:
            with contextlib.suppress(ProxyfabError):
                self.broker.delete(self._topic)
        if self._owned is not None and wait:
            self._owned.close()

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
                self._roll.present(self._id, _PRESENT)
        with contextlib.suppress(ProxyfabError):
            self._roll.absent(self._id)

    def _told(self, what: str, pid: int) -> None:
        self._journal.health(f"worker/{pid}", what, pid=pid)


def work_for(broker: Broker | str, name: str, **terms: Any) -> None:
    """Work for the executor of that name, in this process, until it ends: for workers that are started elsewhere.

    Args:
        broker: Where its tasks wait.
        name: As it was given to ResilientExecutor.
        terms: `lease`, `retries`, `quarantine`, `pool` and `node`, as there.
    """
    url = broker if isinstance(broker, str) else broker.url
    work(url, name, Terms(**terms))


class _Outbox:
    """Publishes tasks in the background, all that have gathered at once."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._producer = Key.draw().id[:16]
        self._number = 0
        self._waiting: deque[tuple[Task, Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, task: Task, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.append((task, future))
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._work, name="proxyfab-tasks", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _FRAMES))]
                if not batch:
                    self._thread = None
                    return
            try:
                records = [task.record(self._producer, self._number + n) for n, (task, _) in enumerate(batch)]
                self._number += len(batch)
                self._broker.publish(self._topic, records)
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told
                for _, future in batch:
                    with contextlib.suppress(ProxyfabError, InvalidStateError):
                        future.set_exception(error)

    def flush(self) -> None:
        thread = self._thread
        if thread is not None:
            thread.join()


class _Janitor:
    """Deletes what nobody needs, in a thread by need: who lets go of a future is not held up."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._lock = threading.RLock()  # a future may be let go at any instruction, also under it
        self._thread: threading.Thread | None = None

    def add(self, call: Callable[[], object]) -> None:
        self._calls.append(call)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="proxyfab-janitor", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter ends
                    self._thread = None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._thread = None
                    return
            with contextlib.suppress(ProxyfabError):  # it expires, or `proxyfab gc` finds it
                self._calls.popleft()()

    def close(self) -> None:
        thread = self._thread
        if thread is not None:
            thread.join(5.0)


class _Revived:
    """A worker in somebody's pool, which is given to it again when it ends before its time."""

    def __init__(self, of: ResilientExecutor, pool: str, executor: Executor) -> None:
        self._pool = pool
        self._executor = executor
        self._url, self._name, self._terms = of.broker.url, of.name, of._terms._replace(pool=pool)
        self._journal, self._stopped = of._journal, of._stop
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
            self._journal.health(self._pool, "pool broken", error=repr(error)[:200])
            return
        self._future.add_done_callback(self._ended)

    def _ended(self, future: PlainFuture[None]) -> None:
        if self._stopped.is_set() or future.cancelled():
            return
        self._journal.health(self._pool, "worker ended", error=repr(future.exception())[:200])
        self._timer = threading.Timer(_REVIVE, self._give)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._future is not None:
            self._future.cancel()


def _shares_memory(executor: Executor) -> bool:
    """Whether an Event of ours means something to what runs there."""
    return isinstance(executor, ThreadPoolExecutor)
