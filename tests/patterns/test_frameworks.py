"""`proxied` over and under other people's tasks, ProxyExecutor around their executors; each where it is installed.

Those that leave threads and processes of their own behind run in an interpreter of their own.
"""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyfab import Store, is_proxy, is_resolved, ref_of
from proxyfab.errors import RemoteError
from proxyfab.patterns import ProxyExecutor, proxied
from proxyfab.testing import until
from proxyfab.testing.content import held

ROOT = Path(__file__).parents[2]
PROGRAMS = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
"""Where Parsl's and MPI's lie."""
BIG = np.arange(50_000.0)


@pytest.fixture
def store(shared_memory_root: Path) -> Iterator[Store]:
    with Store(name="test-frameworks") as opened:
        yield opened
        opened.clear()


def report(x: Any, *_: Any, **__: Any) -> Any:
    return is_proxy(x), is_resolved(x), type(x).__name__, x * 2


def first(x: Any, *_: Any) -> float:
    return float(x[0])


def double(x: Any) -> Any:
    return x * 2


def raise_odd(_: Any) -> None:
    class Odd(Exception):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)

    raise Odd(1, "odd")


def both_ways(executor: ProxyExecutor, store: Store, *, empties: bool = True) -> None:
    """What is to work with every executor of other processes."""
    futures = [executor.submit(first, BIG, number) for number in range(4)]
    assert [future.result(60) for future in futures] == [0.0] * 4
    result = executor.submit(double, BIG).result(60)
    assert is_proxy(result)
    assert np.array_equal(result, BIG * 2)
    assert executor.submit(first, result).result(60) == 0
    assert [first(x) for x in executor.map(double, [BIG + 1, BIG[:3], BIG + 2], chunksize=2)] == [2, 0, 4]
    with pytest.raises(RemoteError, match="odd"):
        executor.submit(raise_odd, BIG).result(60)
    del result, futures
    gc.collect()
    assert not empties or until(lambda: held(store) == 0, 20)


def needs(package: str) -> None:
    """Skip where a package is not installed; imported, it might start a thread."""
    if find_spec(package) is None:
        pytest.skip(f"could not import '{package}'")


def needs_program(name: str) -> None:
    """Skip where there is no such program."""
    if shutil.which(name, path=PROGRAMS) is None:
        pytest.skip(f"there is no {name}")


def alone(function: Callable[..., None], *args: Any, under: Sequence[str] = (sys.executable,)) -> None:
    """Call one of this module's functions in an interpreter of its own."""
    call = f"from tests.patterns.test_frameworks import *; {function.__name__}(*{args!r})"
    main = f"if __name__ == '__main__': {call}"
    with tempfile.TemporaryDirectory() as shm:  # some end their workers by force
        script = Path(shm, "main.py")  # a file: MPI's workers import it
        script.write_text(main)
        done = subprocess.run(
            [*under, str(script)],
            cwd=ROOT,
            env={**os.environ, "PATH": PROGRAMS, "PYTHONPATH": str(ROOT), "PROXYFAB_SHM_DIR": shm},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr


# -- functions by value ------------------------------------------------------------------------------------------------


def closure(store: Store, **options: Any) -> Any:
    factor = 3

    @proxied(store, above="10 KB", **options)
    def scaled(x: Any) -> Any:
        """Scales."""
        return is_proxy(x), x * factor

    return scaled


@pytest.mark.parametrize("library", ["cloudpickle", "dill"])
def test_a_decorated_function_goes_by_value(store: Store, library: str) -> None:
    module = pytest.importorskip(library)

    for options in ({}, {"lazy": False}):
        copy = module.loads(module.dumps(closure(store, **options)))
        given, result = copy(store.proxy(BIG))

        assert given is not options
        assert given == (options == {})
        assert is_proxy(result)
        assert np.array_equal(pickle.loads(pickle.dumps(result)), BIG * 3)
        assert copy.__doc__ == "Scales."


def test_globus_computes_serializers() -> None:
    needs("globus_compute_sdk")
    alone(with_globus_computes_serializers)


def with_globus_computes_serializers() -> None:
    from globus_compute_sdk import serialize

    with Store(name="test-frameworks-globus") as store:
        for strategy in (serialize.DillCode, serialize.CombinedCode):
            facade = serialize.ComputeSerializer(strategy_code=strategy())
            copy = facade.deserialize(facade.serialize(closure(store)))
            data = facade.deserialize(facade.serialize(store.proxy(BIG)))

            given, result = copy(data)
            assert given
            assert np.array_equal(result, BIG * 3)
        store.clear()


# -- Dask --------------------------------------------------------------------------------------------------------------


def test_under_delayed(store: Store) -> None:
    dask = pytest.importorskip("dask")

    task = dask.delayed(proxied(store, above="10 KB")(report))

    (given, _, _, result) = task(BIG).compute(scheduler="sync")
    assert given
    assert is_proxy(result)
    assert np.array_equal(result, BIG * 2)


@pytest.mark.parametrize("scheduler", ["threads", "processes", "sync"])
def test_over_delayed(store: Store, scheduler: str) -> None:
    dask = pytest.importorskip("dask")
    pool = ThreadPoolExecutor(1) if scheduler == "threads" else None

    task = proxied(store, above="10 KB")(dask.delayed(report))
    real = proxied(store, above="10 KB", lazy=False)(dask.delayed(report))

    given, resolved, _, result = task(BIG).compute(scheduler=scheduler, pool=pool)
    assert given
    assert resolved == (scheduler != "processes")
    assert np.array_equal(result, BIG * 2)
    assert real(BIG).compute(scheduler=scheduler, pool=pool)[:3] == (False, True, "ndarray")
    if pool is not None:
        pool.shutdown()
    assert task.__name__ == "report"
    assert (held(store) > 0) == (scheduler == "processes")


def test_delayed_tasks_that_depend_on_one_another(store: Store) -> None:
    dask = pytest.importorskip("dask")
    twice = proxied(store, above="10 KB")(dask.delayed(double, pure=True))

    graph = twice(twice([1, twice(BIG)][1]))

    assert np.array_equal(graph.compute(scheduler="sync"), BIG * 8)
    assert twice(BIG).key == twice(BIG).key, "tasks that are pure are named by what they take"


@pytest.mark.parametrize("processes", [True, False])
def test_dasks_executor(processes: bool) -> None:
    pytest.importorskip("distributed")

    alone(with_dasks_executor, processes)


def with_dasks_executor(processes: bool) -> None:
    import distributed

    with (
        Store(name="test-frameworks-dask") as store,
        distributed.LocalCluster(
            1, threads_per_worker=1, processes=processes, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
        ProxyExecutor(client.get_executor(), store, above="10 KB") as executor,
    ):
        # Workers of this very process remember a result that was handed on to them for as long as they live.
        both_ways(executor, store, empties=processes)


def test_loky() -> None:
    pytest.importorskip("loky")

    alone(with_loky)


def with_loky() -> None:
    import loky

    with (
        Store(name="test-frameworks-loky") as store,
        ProxyExecutor(loky.ProcessPoolExecutor(1), store, above="10 KB") as executor,
    ):
        both_ways(executor, store)


# -- Parsl -------------------------------------------------------------------------------------------------------------


@contextmanager
def parsl_kernel(directory: str) -> Iterator[Any]:
    """A kernel with one worker process and retries."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    workers = HighThroughputExecutor(max_workers_per_node=1, address="127.0.0.1", cores_per_worker=1)
    with parsl.load(Config(executors=[workers], run_dir=directory, retries=1, usage_tracking=0)):
        yield parsl


def fails_once(x: Any, path: str) -> float:
    import os

    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return float(x.sum())
    raise OSError("the first time")


def ticket(_: Any) -> str:
    import uuid

    return uuid.uuid4().hex


def test_parsls_apps_and_executor(tmp_path: Path) -> None:
    needs("parsl")
    alone(with_parsl, str(tmp_path))


def with_parsl(directory: str) -> None:
    """One kernel for all: it takes seconds of processor time to start."""
    with Store(name="test-frameworks-parsl") as store:
        with parsl_kernel(directory) as parsl:
            parsls_apps(store, parsl, directory)
            parsls_memory(store, parsl)
            parsls_executor(store, parsl, directory)
            result = proxied(store, above="10 KB")(parsl.python_app(double))(BIG).result(60)
            assert is_proxy(result)
            del result
        gc.collect()
        assert until(lambda: held(store) == 0, 20), "what the kernel held goes with it"


def parsls_apps(store: Store, parsl: Any, directory: str) -> None:
    over = proxied(store, above="10 KB")(parsl.python_app(report))
    under = parsl.python_app(proxied(store, above="10 KB")(report))
    real = proxied(store, above="10 KB", lazy=False)(parsl.python_app(report))
    again = proxied(store, above="10 KB")(parsl.python_app(fails_once))
    twice = proxied(store, above="10 KB")(parsl.python_app(double))

    given, resolved, _, result = over(BIG).result(60)
    assert (given, resolved) == (True, False)
    assert is_proxy(result)
    assert np.array_equal(result, BIG * 2)
    assert ref_of(under(BIG).result(60)[3]).evict()
    assert real(BIG).result(60)[:3] == (False, True, "ndarray")
    assert again(BIG, f"{directory}/apps").result(60) == BIG.sum(), "tried again"
    assert np.array_equal(twice(twice(BIG)).result(60), BIG * 4)
    assert np.array_equal(twice(twice(BIG).result(60)).result(60), BIG * 4)
    del result
    assert twice(1).result(60) == 2  # for Parsl's thread of results holds the last message until the next one
    gc.collect()
    assert until(lambda: held(store) == 0, 20)


def parsls_memory(store: Store, parsl: Any) -> None:
    """Parsl names what it remembers by the types of function and arguments, and refuses those it does not know."""
    cached = proxied(store, above="10 KB")(parsl.python_app(ticket, cache=True))
    other = proxied(store, above="10 KB")(parsl.python_app(double, cache=True))

    assert cached(3).result(60) == cached(3).result(60)
    assert cached(3).result(60) != cached(4).result(60)
    assert other(3).result(60) == 6


def parsls_executor(store: Store, parsl: Any, directory: str) -> None:
    from parsl.concurrent import ParslPoolExecutor

    with (
        ParslPoolExecutor(dfk=parsl.dfk()) as inner,
        ProxyExecutor(inner, store, above="10 KB") as executor,
    ):
        both_ways(executor, store)
        assert executor.submit(fails_once, BIG, f"{directory}/executor").result(60) == BIG.sum(), "tried again"


# -- MPI ---------------------------------------------------------------------------------------------------------------


def test_mpi4py() -> None:
    needs("mpi4py")
    needs_program("mpiexec")
    alone(with_mpi4py, under=("mpiexec", "-n", "2", sys.executable, "-m", "mpi4py.futures"))


def with_mpi4py() -> None:
    from mpi4py.futures import MPIPoolExecutor

    with (
        Store(name="test-frameworks-mpi") as store,
        ProxyExecutor(MPIPoolExecutor(), store, above="10 KB") as executor,
    ):
        both_ways(executor, store)
