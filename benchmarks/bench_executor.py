"""Tasks in a process pool: many that share one large argument, and many with nothing large at all.

The pool itself, `ProxyExecutor` around one, and ProxyStore's `StoreExecutor` around one, over files on tmpfs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row, timed
from benchmarks.pairs import missing
from benchmarks.payloads import KB, MB
from benchmarks.results import Results
from proxyfab import Store
from proxyfab.patterns import ProxyExecutor

BENCH = "executor"
SYSTEMS = ("pool", "proxyfab", "proxystore")
WORKERS = 2
SHARED = "100 tasks that share one argument"
SMALL = "a task that does nothing, 100 bytes"


def use(array: Any, number: int) -> float:
    """Looks at its argument."""
    return float(array[number])


def nothing(_: bytes) -> None:
    """Does nothing."""


def run(settings: Settings) -> Outcome:
    """The pool, and what stands around one."""
    outcome = Outcome([], [])
    with _executors(settings, outcome) as executors:
        sizes = (100 * KB,) if settings.tiny else (MB, 10 * MB)
        for nbytes in sizes:
            _shared(executors, nbytes, 3 if settings.tiny else 100, settings, outcome)
        _small(executors, 10 if settings.tiny else 500, settings, outcome)
    return outcome


@contextmanager
def _executors(settings: Settings, outcome: Outcome) -> Iterator[dict[str, Executor]]:
    made: dict[str, Executor] = {}
    with Store() as store:
        try:
            for name in settings.wanted(SYSTEMS):
                reason = missing(name) if name == "proxystore" else ""
                if reason:
                    outcome.skipped.append(Skipped(BENCH, name, reason))
                    continue
                pool = ProcessPoolExecutor(WORKERS, get_context("fork"))
                made[name] = _around(name, pool, store, settings)
                list(made[name].map(nothing, [b""] * 8))  # its processes are there
            yield made
        finally:
            for executor in made.values():
                executor.shutdown()


def _around(name: str, pool: Executor, store: Store, settings: Settings) -> Executor:
    if name == "proxyfab":
        return ProxyExecutor(pool, store)
    if name == "proxystore":
        from proxystore.connectors.file import FileConnector
        from proxystore.store import Store as Peer
        from proxystore.store.executor import ProxyType, StoreExecutor

        folder = os.path.join(settings.place.tmpfs, "proxystore-executor")
        peer = Peer("benchmark-executor", FileConnector(folder), register=True)
        return StoreExecutor(pool, peer, ProxyType(np.ndarray))
    return pool


def _shared(executors: dict[str, Executor], nbytes: int, tasks: int, settings: Settings, outcome: Outcome) -> None:
    array = np.random.default_rng(1).random(nbytes // 8)
    wanted = [float(array[number]) for number in range(tasks)]

    def work(executor: Executor) -> Callable[[], None]:
        def tasks_of_one() -> None:
            futures = [executor.submit(use, array, number) for number in range(tasks)]
            assert [future.result() for future in futures] == wanted

        return tasks_of_one

    rounds = 1 if settings.tiny else max(3, round(7 * settings.scale))
    samples: dict[str, list[float]] = {name: [] for name in executors}
    for name in interleaved(list(executors), rounds):
        samples[name].append(timed(work(executors[name])))
    outcome.rows.extend(row(BENCH, SHARED, name, samples[name], nbytes=nbytes) for name in executors)


def _small(executors: dict[str, Executor], tasks: int, settings: Settings, outcome: Outcome) -> None:
    argument = bytes(100)

    def work(executor: Executor) -> Callable[[], None]:
        def tasks_of_nothing() -> None:
            for future in [executor.submit(nothing, argument) for _ in range(tasks)]:
                future.result()

        return tasks_of_nothing

    rounds = 1 if settings.tiny else max(9, round(31 * settings.scale))
    samples: dict[str, list[float]] = {name: [] for name in executors}
    for name in interleaved(list(executors), rounds):
        samples[name].append(timed(work(executors[name])) / tasks)
    outcome.rows.extend(row(BENCH, SMALL, name, samples[name], nbytes=100) for name in executors)


def _shared_is_faster(results: Results) -> tuple[str, bool]:
    mine, other = (results.median(BENCH, SHARED, name, "", 10 * MB) for name in ("proxyfab", "pool"))
    return f"{other / mine:.0f}x ({mine * 1e3:.0f} ms against {other * 1e3:.0f} ms)", other >= 10 * mine


def _small_costs_little(results: Results) -> tuple[str, bool]:
    mine, other = (results.median(BENCH, SMALL, name, "", 100) for name in ("proxyfab", "pool"))
    return f"{mine / other:.2f}x the time ({mine * 1e6:.0f} us against {other * 1e6:.0f} us)", mine <= 1.1 * other


TARGETS = (
    ("ProxyExecutor: 100 tasks that share 10 MB, against a plain pool", "at least 10x faster", _shared_is_faster),
    ("ProxyExecutor: a task that does nothing, against a plain pool", "at most 1.1x", _small_costs_little),
)
"""Name, goal and check of what is promised."""
