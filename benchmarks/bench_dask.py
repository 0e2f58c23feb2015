"""Dask: its own client, the same with `direct_to_workers=True`, and proxyfab's, each on a cluster of its own.

A cluster is two worker processes of one thread, with the scheduler in the benchmark's process, as `LocalCluster` makes
it. Every result is looked at, and arrays differ from round to round, so that no task's result is one of before.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row, timed
from benchmarks.payloads import KB, MB
from benchmarks.results import Results

BENCH = "dask"
SYSTEMS = ("dask", "dask-direct", "proxyfab", "proxystore")
SHARED = "200 tasks that share one array"
KEYWORD = "map of 1,000 tasks with a shared keyword"
ROUND = "round trip of an array"
BYTES = "round trip of bytes"
HOP = "hop from worker to worker"
STAY = "link of a chain that stays"
NOTHING = "task that does nothing"
UNDER_WAY = "scheduler's memory beyond an idle one's, 60 different arguments under way"
ARGUMENTS = 60
HOPS = 10
_seeds = itertools.count(1)
Work = Callable[[Any, int], float]


def use(array: Any, number: int) -> float:
    """Looks at its argument."""
    return float(array[number])


def use_named(number: int, array: Any) -> float:
    """The same, by keyword."""
    return float(array[number])


def grown(array: Any) -> Any:
    """An array of the same size."""
    return array + 1


def reverse(data: bytes) -> bytes:
    """As many bytes."""
    return data[::-1]


def nothing(_: object) -> None:
    """Does nothing."""


def held_back(array: Any, gate: str) -> float:
    """Looks at its argument when there is a file `gate`."""
    while not os.path.exists(gate):
        time.sleep(0.01)
    return float(array[-1])


def run(settings: Settings) -> Outcome:
    """All of it, the systems in turns."""
    outcome = Outcome([], [])
    if not find_spec("distributed"):
        outcome.skipped.append(Skipped(BENCH, "all", "distributed is not installed"))
        return outcome
    with _clients(settings, outcome) as clients:
        for what, work, nbytes, count in _works(settings):
            _measure(clients, what, work, nbytes, count, settings, outcome)
    for name in settings.wanted(("dask", "proxyfab")) if not settings.tiny else ():
        outcome.rows.append(row(BENCH, UNDER_WAY, name, [_memory(name, settings)], unit="B", nbytes=20 * MB))
    return outcome


def _works(settings: Settings) -> list[tuple[str, Work, int, int]]:
    """What is measured, how, with how many bytes, and over how many tasks the time is divided."""
    if settings.tiny:
        return [(SHARED, _shared(3), MB, 1), (ROUND, _round_trip, MB, 1), (NOTHING, _nothing(5), 0, 5)]
    return [
        (SHARED, _shared(200), 10 * MB, 1),
        (KEYWORD, _keyword, 10 * MB, 1),
        *((ROUND, _round_trip, nbytes, 1) for nbytes in (KB, 100 * KB, MB, 10 * MB, 256 * MB)),
        (BYTES, _bytes, 64 * MB, 1),
        (HOP, _chain(hops=True), 50 * MB, HOPS),
        (STAY, _chain(hops=False), 50 * MB, HOPS),
        (NOTHING, _nothing(300), 0, 300),
    ]


@contextmanager
def _clients(settings: Settings, outcome: Outcome) -> Iterator[dict[str, Any]]:
    import dask
    from distributed import LocalCluster

    made: dict[str, Any] = {}
    quiet = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}
    with dask.config.set(quiet), ExitStack() as stack:
        for name in settings.wanted(SYSTEMS):
            if name == "proxystore" and not find_spec("proxystore_ex"):
                outcome.skipped.append(Skipped(BENCH, name, "proxystore-ex is not installed"))
                continue
            options = {"dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": 50}
            cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, **options))
            made[name] = stack.enter_context(_client(name, cluster, settings, stack))
            made[name].gather(made[name].map(nothing, range(20), pure=False))
        yield made


def _client(name: str, cluster: Any, settings: Settings, stack: ExitStack) -> Any:
    if name == "proxyfab":
        from proxyfab.integrations.dask import Client

        return Client(cluster)
    if name == "proxystore":
        from proxystore.connectors.file import FileConnector
        from proxystore.store import Store
        from proxystore_ex.plugins.distributed import Client as Peer

        folder = os.path.join(settings.place.tmpfs, "proxystore-dask")
        store = stack.enter_context(Store("benchmark-dask", FileConnector(folder), register=True))
        return Peer(cluster, ps_store=store, ps_threshold=MB)
    import distributed

    return distributed.Client(cluster, direct_to_workers=name == "dask-direct" or None)


def _measure(
    clients: dict[str, Any], what: str, work: Work, nbytes: int, count: int, settings: Settings, outcome: Outcome
) -> None:
    often = 5 if nbytes >= 10 * MB else 15 if count > 1 else 75  # of 15 round trips no 5 % can be told
    rounds = 1 if settings.tiny else max(3, round(often * settings.scale))
    samples: dict[str, list[float]] = {name: [] for name in clients}
    broken: dict[str, str] = {}
    for name in [*clients, *interleaved(list(clients), rounds)]:
        if name not in broken:
            try:
                samples[name].append(work(clients[name], nbytes) / count)
            except Exception as error:  # whatever a system raises belongs in the report
                broken[name] = f"{what}: {type(error).__name__}: {str(error)[:100]}"
    outcome.skipped.extend(Skipped(BENCH, name, reason) for name, reason in broken.items())
    outcome.rows.extend(
        row(BENCH, what, name, samples[name][1:], nbytes=nbytes) for name in clients if name not in broken
    )


def _array(nbytes: int) -> Any:
    return np.random.default_rng(next(_seeds)).random(nbytes // 8)


def _shared(tasks: int) -> Work:
    def work(client: Any, nbytes: int) -> float:
        array = _array(nbytes)
        wanted = [float(array[number]) for number in range(tasks)]

        def all_of_them() -> None:
            assert client.gather(client.map(use, [array] * tasks, range(tasks))) == wanted

        return timed(all_of_them)

    return work


def _keyword(client: Any, nbytes: int) -> float:
    array = _array(nbytes)
    wanted = [float(array[number]) for number in range(1000)]

    def all_of_them() -> None:
        assert client.gather(client.map(use_named, range(1000), array=array)) == wanted

    return timed(all_of_them)


def _round_trip(client: Any, nbytes: int) -> float:
    array = _array(nbytes)
    last = float(array[-1]) + 1

    def there_and_back() -> None:
        assert float(client.submit(grown, array).result()[-1]) == last

    return timed(there_and_back)


def _bytes(client: Any, nbytes: int) -> float:
    data = os.urandom(nbytes)

    def there_and_back() -> None:
        assert client.submit(reverse, data).result()[-1] == data[0]

    return timed(there_and_back)


def _chain(*, hops: bool) -> Work:
    def work(client: Any, nbytes: int) -> float:
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        first = client.submit(np.full, nbytes // 8, float(next(_seeds)), workers=workers[:1])
        client.submit(nothing, first, workers=workers[:1]).result()

        def links() -> None:
            future = first
            for number in range(HOPS):
                where = {"workers": [workers[(number + 1) % 2]]} if hops else {}
                future = client.submit(grown, future, **where)
            client.submit(use, future, 0).result()

        return timed(links)

    return work


def _nothing(tasks: int) -> Work:
    def work(client: Any, nbytes: int) -> float:
        return timed(lambda: client.gather([client.submit(nothing, n, pure=False) for n in range(tasks)]))

    return work


def _memory(name: str, settings: Settings) -> float:
    """Bytes that a scheduler in a process of its own takes at most, beyond what it took before there was work."""
    from distributed.deploy.subprocess import SubprocessCluster

    options = {"scheduler_kwargs": {"dashboard": False}, "worker_kwargs": {"nthreads": 1, "memory_limit": 0}}
    with ExitStack() as stack:
        gate = os.path.join(stack.enter_context(TemporaryDirectory()), "gate")
        client = _client(name, stack.enter_context(SubprocessCluster(n_workers=2, **options)), settings, stack)
        stack.enter_context(client)
        client.submit(nothing, _array(2 * MB)).result()
        base = client.run_on_scheduler(_peak)
        arrays = (_array(20 * MB) for _ in range(ARGUMENTS))
        wanted, futures = [], []
        for array in arrays:
            wanted.append(float(array[-1]))
            futures.append(client.submit(held_back, array, gate))
        while client.run_on_scheduler(_tasks) < ARGUMENTS:
            time.sleep(0.1)
        Path(gate).touch()
        assert client.gather(futures) == wanted
        return float(client.run_on_scheduler(_peak) - base)


def _peak() -> int:
    """Bytes of memory that this process has had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _tasks(dask_scheduler: Any) -> int:
    """How many tasks a scheduler knows."""
    return len(dask_scheduler.tasks)


def _little_memory(results: Results) -> tuple[str, bool]:
    mine, other = (results.median(BENCH, UNDER_WAY, name, "", 20 * MB) for name in ("proxyfab", "dask"))
    return f"{mine / MB:.1f} MB (plain Dask: {other / MB:.0f} MB)", mine < 20 * MB


def _faster(what: str, nbytes: int, times: float) -> Callable[[Results], tuple[str, bool]]:
    def check(results: Results) -> tuple[str, bool]:
        mine, other, direct = (
            results.median(BENCH, what, name, "", nbytes) for name in ("proxyfab", "dask", "dask-direct")
        )
        text = f"{other / mine:.2f}x ({mine * 1e3:.1f} ms against {other * 1e3:.1f}; direct: {direct / mine:.2f}x)"
        return text, other >= times * mine

    return check


def _keyword_works(results: Results) -> tuple[str, bool]:
    mine = results.median(BENCH, KEYWORD, "proxyfab", "", 10 * MB)
    return f"{mine:.2f} s", mine > 0


TARGETS = (
    ("Dask: 200 tasks that share 10 MB", "at least 6x faster", _faster(SHARED, 10 * MB, 6)),
    ("Dask: map of 1,000 tasks with a shared keyword of 10 MB", "works", _keyword_works),
    ("Dask: round trip of 256 MB", "at least 2x faster", _faster(ROUND, 256 * MB, 2)),
    ("Dask: hop of 50 MB between workers", "at least 1.8x faster", _faster(HOP, 50 * MB, 1.8)),
    ("Dask: round trip of 64 MB of bytes", "at least 6x faster", _faster(BYTES, 64 * MB, 6)),
    ("Dask: chain that stays where it is", "within 5 %", _faster(STAY, 50 * MB, 0.95)),
    ("Dask: round trip of 1 KB", "within 5 %", _faster(ROUND, KB, 0.95)),
    ("Dask: round trip of 100 KB", "within 5 %", _faster(ROUND, 100 * KB, 0.95)),
    ("Dask: tasks that do nothing", "within 5 %", _faster(NOTHING, 0, 0.95)),
    ("Dask: scheduler's memory with 1.2 GB of arguments under way", "at most 20 MB more", _little_memory),
)
"""Name, goal and check of what is promised."""
