"""One cluster for each module that asks: two worker processes of one thread.

Dask keeps connections, threads and an event loop for as long as a cluster lives, so what is left behind is looked for
at the end of a module, not of each test. Worker processes are forks of one that has imported what they need, which
takes a tenth of the time; `test_client_far` has one that is started as a user starts it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from proxyfab.testing.leaks import GRACE, Belongings
from proxyfab.testing.processes import until
from tests.integrations.dask.tasks import LARGE

KEPT = ("Dask-Offload", "Profile", "IO loop", "Dask-Default-Threads", "TCP-Executor", "AsyncProcess")
"""Threads that Dask starts once for a process, or that end some time after what started them."""
PRELOADED = [
    *("dask.array", "distributed", "distributed.http.worker.prometheus.core", "numpy.ma", "pandas", "pyarrow"),
    *("proxyfab.integrations.dask.preload", "proxyfab.serialize.codecs.numpy", "tornado.platform.asyncio"),
]
"""What worker processes find imported."""


@pytest.fixture
def no_leaks() -> None:
    """In place of the check after each test: see `nothing_left_of_dask`."""


@pytest.fixture(scope="module", autouse=True)
def shared_memory_of_its_own(shared_memory_root: Path) -> Iterator[None]:
    """The scheduler runs in this process, in whose namespace other modules' objects lie."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="dask-", dir=shared_memory_root) as root:
        patch.setenv("PROXYFAB_SHM_DIR", root)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_left_of_dask(shared_memory_of_its_own: None) -> Iterator[None]:
    """No process, thread or object of shared memory is left of a module."""
    before = Belongings.now()
    yield
    assert until(lambda: not left_since(before), 4 * GRACE), left_since(before)


def left_since(before: Belongings) -> list[str]:
    """What a module left behind; descriptors are Dask's own business."""
    now = Belongings.now()
    return [
        *(thread.name for thread in now.threads - before.threads if not thread.name.startswith(KEPT)),
        *(f"child process {pid}" for pid in now.children - before.children),
        *(f"worker process {pid}" for pid in forks()),
        *(f"shared memory {path}" for path in now.shared - before.shared),
    ]


def forks() -> list[int]:
    """Processes that the one has forked which has everything imported; it lives as long as this one."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # it does not tell
    if pid is None:
        return []
    with contextlib.suppress(FileNotFoundError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


@pytest.fixture(scope="session")
def forked() -> dict[str, str]:
    """Dask's configuration with which workers are forks."""
    import dask
    from distributed.utils import get_mp_context

    chosen = {"distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set(chosen):
        get_mp_context()  # sets what is imported, once
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    return chosen


@pytest.fixture(scope="module")
def cluster(forked: dict[str, str]) -> Iterator[Any]:
    """Two worker processes of one thread each; the scheduler in this process."""
    import dask
    from distributed import LocalCluster

    options: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": 40}
    options["env"] = {"PROXYFAB_SHM_DIR": os.environ["PROXYFAB_SHM_DIR"]}  # forks have what held when the first came
    # Dask closes for good whom it finds away some time after he was lost, also if he was back and is lost again.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h", **forked}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **options) as cluster,
    ):
        yield cluster


@pytest.fixture
def big(request: pytest.FixtureRequest) -> Any:
    """An array of 1.6 MB that no other test has."""
    return np.arange(LARGE) + len(request.node.name) * 1000 + hash(request.node.name) % 1000


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    """A client of ours on the module's cluster."""
    from proxyfab.integrations.dask import Client

    with Client(cluster) as client:
        yield client
