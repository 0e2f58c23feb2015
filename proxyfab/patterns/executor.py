"""ProxyExecutor: any executor of `concurrent.futures`, with large arguments and results by reference.

    with ProxyExecutor(ProcessPoolExecutor(), store, above="100 KB") as executor:
        futures = [executor.submit(analyse, image, row) for row in rows]

Promises:
1. Inputs live from the sending of their task until its future is done: a task that is tried again finds them.
2. Results live as long as the caller's future or the proxy it answered with.
3. A task with nothing large in it is the executor's own, with a few microseconds around it.
4. What is submitted, the order, cancelling and errors are the executor's; only sizes differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import replace
from types import FunctionType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from proxyfab.abc import check_timeout, check_ttl
from proxyfab.errors import ConfigurationError
from proxyfab.patterns.crossing import Crossing
from proxyfab.patterns.custody import Custody
from proxyfab.patterns.line import Line
from proxyfab.patterns.passing import SMALL, limits
from proxyfab.patterns.shipment import Shipment
from proxyfab.patterns.sizes import weigh
from proxyfab.patterns.tasks import Task, Terms
from proxyfab.patterns.wishes import VALUE, Wishes
from proxyfab.spec import StoreSpec
from proxyfab.store import Store, open_store

P = ParamSpec("P")
T = TypeVar("T")

LEASE = 30.0
"""Seconds that inputs and results outlive a killed process, and half as long again."""
FLUSH = 5.0
"""Seconds that `shutdown` waits at most for the store to be tidied up."""
_PLAIN = frozenset((int, str, bytes))
_REMEMBERED = 64


class _Known(NamedTuple):
    """What was found out about a function."""

    task: Task
    crossing: Crossing
    above: int
    """The least size of an argument that wants a second look; 0 where annotations have a say."""


class ProxyExecutor(Executor):
    """An Executor around an Executor. Thread-safe.

    Args:
        executor: Threads, processes, loky, mpi4py, Parsl's, Dask's, Globus Compute's: whatever has `submit`. It is shut
            down with this one.
        store: Where large objects go: a Store, which stays open, or its URL.
        above: How large an object is, in bytes or as `"100 KB"`, that travels by reference.
        args: Whether arguments travel by reference. A function's `Annotated[T, ByRef]` or `ByValue` decides for one.
        result: Whether results do.
        lazy: Whether functions get proxies. With False they get real objects, fetched just before the call.
        depth: How many levels of lists, tuples, dicts and dataclasses are searched for large objects.
        lease: Seconds that inputs and results outlive a process that was killed, and half as long again; a result must
            arrive in that time.
        prefetch: Whether a worker fetches the inputs of the next task while it computes.

    Raises:
        ConfigurationError: An argument makes no sense.
    """

    def __init__(
        self,
        executor: Executor,
        store: Store | str,
        *,
        above: int | str = "100 KB",
        args: bool = True,
        result: bool = True,
        lazy: bool = True,
        depth: int = 1,
        lease: float = LEASE,
        prefetch: bool = True,
    ) -> None:
        if not callable(getattr(executor, "submit", None)):
            raise ConfigurationError(f"{executor!r} is no executor: it has no submit().")
        check_ttl(lease, "lease")
        self.executor = executor
        self.store = store if isinstance(store, Store) else open_store(store)
        limit = limits(above, depth)
        self._crossing = Crossing(self.store, limit, args, result, lazy)
        self._custody = Custody(self.store, lease)
        ahead = StoreSpec.parse(self.store.url).cache // 4 if prefetch and not self.store.local else 0
        self._line = Line(getattr(executor, "_max_workers", None) or 1, ahead)
        home, ttl = self._custody.home, self._custody.holding.ttl
        self._terms = Terms(self.store.url, *limit, lazy, home, ttl, None if result else VALUE)
        self._by_name = any(base.__module__ == "concurrent.futures.process" for base in type(executor).__mro__)
        self._known: dict[Any, _Known] = {}

    def __repr__(self) -> str:
        return f"<ProxyExecutor around {self.executor!r} over {self.store.url}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule `fn(*args, **kwargs)`.

        A large result is a proxy in the future: a `T` in all but `type()`.

        Raises:
            ConnectorError: An argument is large and the store was closed.
        """
        try:
            known = self._known.get(fn) or self._learn(fn)
        except TypeError:  # it has no hash
            known = self._learn(fn, remember=False)
        return self._submit(known, args, kwargs)

    def _submit(self, known: _Known, args: tuple[Any, ...], kwargs: dict[str, Any], call: object = None) -> Future[Any]:
        task, crossing, above = known
        for value in (*args, *kwargs.values()) if kwargs else args:
            if not above or (type(value) not in SMALL and (type(value) not in _PLAIN or weigh(value, above) >= above)):
                shipment = Shipment(crossing, self._custody, call)
                args, kwargs = shipment.pack(args, kwargs)
                return shipment.send(self.executor, self._line, task, args, kwargs)
        return self.executor.submit(task, *args, **kwargs)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """`fn` of each element, in order, as `Executor.map`; large elements travel by reference, one by one.

        Args:
            fn: Takes as many arguments as there are iterables.
            *iterables: Exhausted at once, as `Executor.map` does.
            timeout: Seconds from now until the last result must have come.
            chunksize: How many calls travel in one message. A worker fetches the inputs of the next while one runs.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        known = self._of(fn)
        calls = list(zip(*iterables, strict=False))
        call = object()
        if chunksize == 1:
            return _results([self._submit(known, args, {}, call) for args in calls], deadline)
        chunks = [calls[start : start + chunksize] for start in range(0, len(calls), chunksize)]
        return _flat(_results([self._chunk(known, chunk, call) for chunk in chunks], deadline))

    def _chunk(self, known: _Known, calls: list[tuple[Any, ...]], call: object) -> Future[list[Any]]:
        shipment = Shipment(known.crossing, self._custody, call)
        task = Task(known.task.function, known.task.terms, True, self._by_name)
        return shipment.send(self.executor, self._line, task, ([shipment.pack(args, {})[0] for args in calls],), {})

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down, as it does; the store stays open.

        Args:
            wait: Until all futures are done, and what they do not need any more is gone from the store.
            cancel_futures: Those that have not begun.
        """
        self._known.clear()
        options = {"cancel_futures": True} if cancel_futures else {}
        self.executor.shutdown(wait=wait, **options)
        if wait:
            self._custody.complete()
            self._custody.flush(FLUSH)

    def _of(self, fn: Callable[..., Any]) -> _Known:
        try:
            return self._known.get(fn) or self._learn(fn)
        except TypeError:  # it has no hash
            return self._learn(fn, remember=False)

    def _learn(self, fn: Callable[..., Any], *, remember: bool = True) -> _Known:
        wishes = Wishes(fn)
        terms = self._terms if wishes.result is None else self._terms._replace(result=wishes.result)
        task = Task(fn, terms, by_name=self._by_name)
        known = _Known(task, replace(self._crossing, wishes=wishes), 0 if wishes.any else self._crossing.limit.above)
        # Not a method, and not what closes over something: they would keep data alive.
        if remember and type(fn) is FunctionType and fn.__closure__ is None and len(self._known) < _REMEMBERED:
            self._known[fn] = known
        return known


def _results(futures: list[Any], deadline: float | None) -> Generator[Any, None, None]:
    """What they answer, in order; those that were not asked for are cancelled."""
    futures.reverse()  # so that each is let go when its result was handed out
    try:
        while futures:
            yield _taken(futures.pop(), deadline)
    finally:
        for future in futures:
            _cancel(future)


def _flat(chunks: Generator[list[Any], None, None]) -> Generator[Any, None, None]:
    """The results of chunks, each let go when it was handed out."""
    with closing(chunks):
        for chunk in chunks:
            chunk.reverse()
            while chunk:
                yield chunk.pop()


def _taken(future: Future[T], deadline: float | None) -> T:
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    except BaseException:
        _cancel(future)
        raise
    finally:
        del future  # or the error's traceback, and with it the error, would hold it


def _cancel(future: Future[Any]) -> None:
    try:
        future.cancel()
    except NotImplementedError:  # Parsl's futures
        pass
