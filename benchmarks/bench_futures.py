"""Futures: how late who waits elsewhere goes on, and a chain of tasks of which each begins before its input is there.

The chain is that of ProxyStore's authors (TPDS 2024, https://arxiv.org/abs/2407.01764): 8 tasks of 1 s, each of which
starts up, takes the 10 MB of the one before, computes, and hands over 10 MB. Without futures a task is submitted when
the one before has ended; with them all are at once, and half of a task's work (its start) overlaps with the one before.
Work is sleep, so that what is left is the hand-over. The ideal is what the sleeping alone takes. Workers have imported
and connected before, to each system's place.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row
from benchmarks.pairs import missing
from benchmarks.payloads import MB
from benchmarks.results import Results
from proxyfab import Store, resolve
from proxyfab.patterns import Future, as_completed
from proxyfab.testing.processes import Child
from proxyfab.testing.servers import RedisServer, ServerMissing

BENCH = "futures"
TASKS, NBYTES, WORK, OVERLAP = 8, 10 * MB, 1.0, 0.5
PLAIN, IDEAL = "process-pool", "ideal"
WAKES, TOLD, CHAIN = "result() in another process wakes", "as_completed in another process wakes", "chain of 8 tasks"
_FAST, _SLOW = 60, 5


class System(NamedTuple):
    """Whose futures, and where they lie."""

    make: Callable[[], Any]
    drop: Callable[[Any], object]
    whole: Callable[[Any], Any]
    """From a proxy to the bytes, which neither's proxies export before Python 3.12."""
    polls: float = 0.0
    """Seconds between two looks of who waits."""


def run(settings: Settings) -> Outcome:
    """Wakings, then the chain."""
    outcome = Outcome([], [])
    with contextlib.ExitStack() as stack:
        systems = _systems(settings, stack, outcome)
        for name in settings.wanted(list(systems)):
            _wakes(name, systems[name], settings, outcome)
        _chains(systems, settings, outcome)
    return outcome


def _systems(settings: Settings, stack: contextlib.ExitStack, outcome: Outcome) -> dict[str, System]:
    urls = {"proxyfab-shm": "shm://"}
    if not settings.tiny:
        urls["proxyfab-file"] = f"file://{settings.place.tmpfs}/futures"
    redis: RedisServer | None = None
    try:
        redis = stack.enter_context(RedisServer())
        urls["proxyfab-redis"] = redis.url
    except ServerMissing as reason:
        outcome.skipped.append(Skipped(BENCH, "proxyfab-redis", str(reason)))
    if find_spec("zmq"):
        from proxyfab.testing.nodes import NodeServer

        urls["proxyfab-zmq"] = stack.enter_context(NodeServer()).url
    found = {}
    for name, url in urls.items():
        store = stack.enter_context(Store(url))
        stack.callback(store.clear)
        found[name] = System(partial(Future, store), partial(_evict, store), resolve)
    for name, connector in _connectors(settings, redis, outcome):
        from benchmarks.baselines.proxystore_futures import Futures, extract

        for interval in (0.01,) if settings.tiny else (None, 0.01):
            peer = stack.enter_context(contextlib.closing(Futures(connector(), interval)))
            label = name if interval is None else f"{name}-10ms"
            found[label] = System(peer.make, peer.drop, extract, 1.0 if interval is None else interval)
    return found


def _evict(store: Store, future: Future[Any]) -> None:
    store.evict(future.key)


def _connectors(
    settings: Settings, redis: RedisServer | None, outcome: Outcome
) -> Iterator[tuple[str, Callable[[], Any]]]:
    why = missing("proxystore")
    if why:
        outcome.skipped.append(Skipped(BENCH, "proxystore", why))
        return
    from proxystore.connectors.file import FileConnector

    yield "proxystore-tmpfs", lambda: FileConnector(os.path.join(settings.place.tmpfs, "proxystore-futures"))
    if redis is not None:
        from proxystore.connectors.redis import RedisConnector

        port = int(redis.url.rpartition(":")[2].partition("/")[0])
        yield "proxystore-redis", lambda: RedisConnector("127.0.0.1", port, clear=False)


# -- waking ------------------------------------------------------------------------------------------------------


def _wakes(name: str, system: System, settings: Settings, outcome: Outcome) -> None:
    """From the beginning of `set_result` to the result, in another process."""
    count = 2 if settings.tiny else _SLOW if system.polls > 0.1 else _FAST
    waits = {WAKES: _result, TOLD: _first} if name.startswith("proxyfab") else {WAKES: _result}
    futures = {what: [system.make() for _ in range(count)] for what in waits}
    with Child(_waiter, [(wait, futures[what]) for what, wait in waits.items()]) as child:
        for what in waits:
            samples = []
            for number, future in enumerate(futures[what]):
                child.receive()
                time.sleep(0.02 + system.polls * number / count)  # so that it waits, anywhere between two looks
                start = time.monotonic()
                future.set_result(number)
                samples.append(child.receive() - start)
                system.drop(future)
            outcome.rows.append(row(BENCH, what, name, samples))


def _waiter(talk: Connection, work: list[tuple[Callable[[Any], object], list[Any]]]) -> None:
    for wait, futures in work:
        for future in futures:
            talk.send("waiting")
            wait(future)
            talk.send(time.monotonic())


def _result(future: Any) -> object:
    return future.result()


def _first(future: Any) -> object:
    return next(iter(as_completed([future]))).result()


# -- the chain ---------------------------------------------------------------------------------------------------


def _chains(systems: dict[str, System], settings: Settings, outcome: Outcome) -> None:
    tasks, work = (2, 0.02) if settings.tiny else (TASKS, WORK)
    rounds = 1 if settings.tiny else max(2, round(3 * settings.scale))
    names = settings.wanted([PLAIN, *(name for name in systems if name != "proxyfab-file")])
    samples: dict[str, list[float]] = {name: [] for name in names}
    if not names:
        return
    with ProcessPoolExecutor(tasks, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_warm, range(8 * tasks)))
        for name in names:
            if name != PLAIN:
                _meet(pool, systems[name], tasks)
        for name in interleaved(names, rounds):
            start = time.perf_counter()
            drop = _plain(pool, tasks, work) if name == PLAIN else _piped(pool, systems[name], tasks, work)
            samples[name].append(time.perf_counter() - start)
            drop()
    ideal = work + (tasks - 1) * work * (1 - OVERLAP)
    for name in names:
        outcome.rows.append(row(BENCH, CHAIN, name, samples[name], nbytes=NBYTES))
    outcome.rows.append(row(BENCH, CHAIN, IDEAL, [ideal], nbytes=NBYTES))


def _meet(pool: ProcessPoolExecutor, system: System, tasks: int) -> None:
    """Have each worker import what a system needs, and connect: clients alone take a quarter of a second to import."""
    future = system.make()
    future.set_result(os.urandom(NBYTES))
    list(pool.map(_met, [future] * 8 * tasks))
    system.drop(future)


def _met(future: Any) -> None:
    _check(future.result())
    time.sleep(0.05)


_data = b""


def _warm(_: int) -> None:
    """Have each worker import what it needs and its output at hand."""
    global _data
    _data = _data or os.urandom(NBYTES)
    time.sleep(0.05)


def _plain(pool: ProcessPoolExecutor, tasks: int, work: float) -> Callable[[], None]:
    """Data through the pool: a task begins when the one before has ended."""
    result = None
    for _ in range(tasks):
        result = pool.submit(_task, result, work).result()
    _check(result)
    return lambda: None


def _task(data: bytes | None, work: float) -> bytes:
    time.sleep(work * OVERLAP)
    _use(data)
    time.sleep(work * (1 - OVERLAP))
    return _data


def _piped(pool: ProcessPoolExecutor, system: System, tasks: int, work: float) -> Callable[[], None]:
    """All tasks at once; each waits for its input where it needs it."""
    futures = [system.make() for _ in range(tasks)]
    running = [
        pool.submit(_stage, None if before is None else before.proxy(), future, work, system.whole)
        for before, future in itertools.pairwise([None, *futures])
        if future is not None
    ]
    for one in running:
        one.result()
    _check(futures[-1].result())
    return lambda: [system.drop(future) for future in futures] and None


def _stage(data: Any, future: Any, work: float, whole: Callable[[Any], Any]) -> None:
    time.sleep(work * OVERLAP)
    _use(None if data is None else whole(data))
    time.sleep(work * (1 - OVERLAP))
    future.set_result(_data)


def _use(data: Any) -> None:
    """Read all of it, if there is any."""
    if data is not None:
        _check(data)
        xxh3_64_intdigest(data)


def _check(data: Any) -> None:
    if len(data) != NBYTES:
        raise ValueError(f"{len(data)} bytes were handed over, not {NBYTES}")


# -- what is promised --------------------------------------------------------------------------------------------


def _wakes_soon(results: Results, *, system: str, limit: float) -> tuple[str, bool]:
    late = results.median(BENCH, WAKES, system)
    return f"{late * 1e3:.2f} ms", late < limit


def _wakes_sooner(results: Results) -> tuple[str, bool]:
    ours, theirs = results.median(BENCH, WAKES, "proxyfab-redis"), results.median(BENCH, WAKES, "proxystore-redis")
    return f"{theirs / ours:.0f}x ({ours * 1e3:.2f} ms against {theirs * 1e3:.0f} ms)", theirs >= 10 * ours


def _chain_is_ideal(results: Results, *, system: str) -> tuple[str, bool]:
    spent, ideal, plain = (results.median(BENCH, CHAIN, name, "", NBYTES) for name in (system, IDEAL, PLAIN))
    return f"{spent / ideal:.3f}x ({spent:.2f} s; without futures {plain:.2f} s)", spent <= 1.05 * ideal


TARGETS = (
    (
        "futures on shm: result() in another process wakes",
        "< 20 ms",
        partial(_wakes_soon, system="proxyfab-shm", limit=20e-3),
    ),
    (
        "futures on redis: result() in another process wakes",
        "< 5 ms",
        partial(_wakes_soon, system="proxyfab-redis", limit=5e-3),
    ),
    (
        "futures on zmq: result() in another process wakes",
        "< 5 ms",
        partial(_wakes_soon, system="proxyfab-zmq", limit=5e-3),
    ),
    (
        "futures on redis: waking, against ProxyStore's futures as they poll by default",
        "at least 10x sooner",
        _wakes_sooner,
    ),
    *(
        (
            f"futures on {place}: chain of 8 tasks, 10 MB, half of the work overlapping, against the ideal",
            "at most 1.05x",
            partial(_chain_is_ideal, system=f"proxyfab-{place}"),
        )
        for place in ("shm", "redis")
    ),
)
"""Name, goal and check of what is promised."""
