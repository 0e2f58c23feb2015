"""One cluster for each module that asks: two worker processes of one thread, as a user would start them.

Dask keeps connections, threads and an event loop for as long as a cluster lives, so what is left behind is looked for
at the end of a module, not of each test.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        *(f"shared memory {path}" for path in now.shared - before.shared),
    ]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of one thread each; the scheduler in this process."""
    import dask
    from distributed import LocalCluster

    options = {"dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": 40}
    # Dask closes for good whom it finds away some time after he was lost, also if he was back and is lost again.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
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
