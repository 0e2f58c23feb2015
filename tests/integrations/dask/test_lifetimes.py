"""The life of what a client puts: as long as claims and keys name it, and never beyond the scheduler's process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import distributed
import pytest

from proxyfab.integrations.dask import Client
from proxyfab.store import Store, received_store
from proxyfab.testing.processes import Child, until
from tests.integrations.dask.leftovers import nothing_left, objects
from tests.integrations.dask.tasks import grown, large, patient, total


def counts(client: Any) -> dict[str, float]:
    return dict(client.sync(client.scheduler.proxyfab_stats))


def test_an_argument_lives_until_its_last_key_is_forgotten(client: Any) -> None:
    argument = large(1)
    first = client.submit(total, argument)
    second = client.submit(grown, argument)
    distributed.wait([first, second])
    assert len(objects()) == 1  # the same object is there once
    assert until(lambda: counts(client)["uses"] == 2)
    del first
    assert until(lambda: counts(client)["uses"] == 1)
    assert len(objects()) == 1
    del second
    assert nothing_left(), objects()


def test_an_argument_outlives_the_client_that_brought_it(cluster: Any, client: Any, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with Client(cluster) as other:
        theirs = other.submit(patient, large(3), gate, key="theirs")
        assert until(lambda: counts(client)["uses"] == 1)  # two clients' messages have no order between them
        ours = distributed.Future("theirs", client)
        dependent = client.submit(int, ours)
        assert until(partial(cluster.scheduler.tasks.__contains__, dependent.key))  # it came by another way
        del theirs
    assert len(objects()) == 1
    Path(gate).touch()
    assert dependent.result(30) == large(3).sum()
    del ours, dependent
    assert nothing_left(), objects()


def test_what_a_client_never_claimed_is_swept_up_behind_it(cluster: Any) -> None:
    with Client(cluster):
        keeper = cluster.scheduler.plugins["proxyfab"]
        received_store(keeper.store.url).put(large())
        with Store(name="not-ours") as others:
            kept = others.put(large())
            try:
                cluster.scheduler.plugins["proxyfab"].sweep(0.0)
                assert until(lambda: not _of(keeper.store), 5)
                assert others.exists(kept)
            finally:
                others.clear()


def _of(store: Store) -> list[str]:
    return [name for name in objects() if store.connector.namespace in name]  # type: ignore[attr-defined]


def scheduler_alone(talk: Any) -> None:
    """A scheduler and a worker in this process, and a client with large work, for one who kills it."""
    with distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp://"
    ) as cluster:
        client = Client(cluster)
        futures = client.map(grown, [large(0), large(1)])
        distributed.wait(futures)
        talk.send(cluster.scheduler.plugins["proxyfab"].store.url)
        talk.recv()


def test_nothing_is_left_of_a_killed_scheduler() -> None:
    with Child(scheduler_alone, fresh=True) as child:
        url = child.receive(60)
        assert url.startswith("shm://~")
        assert len(objects()) >= 2
        os.kill(child.pid, signal.SIGKILL)
        assert until(lambda: not _running(child.pid), 10)
    with Store() as any_store:
        any_store.connector.reap()  # type: ignore[attr-defined]  # as the next process does that looks there
    assert objects() == []


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def apart() -> Iterator[Any]:
    """A cluster whose scheduler has a process of its own."""
    from distributed.deploy.subprocess import SubprocessCluster

    options = {"scheduler_kwargs": {"dashboard": False}, "worker_kwargs": {"nthreads": 1}}
    with SubprocessCluster(n_workers=2, **options) as cluster:
        yield cluster


def _peak() -> int:
    """Bytes of memory of its own that this process has had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.slow
def test_the_scheduler_never_holds_the_arguments(apart: Any, tmp_path: Path) -> None:
    count, nbytes = 60, 20_000_000
    with Client(apart) as client:
        assert client.submit(total, large()).result(60)
        base = client.run_on_scheduler(_peak)
        gate = str(tmp_path / "gate")
        futures = [client.submit(patient, large(number, nbytes // 8), gate) for number in range(count)]
        assert until(lambda: counts(client)["bytes"] >= count * nbytes, 60)
        (tmp_path / "gate").touch()
        assert client.gather(futures) == [large(number, nbytes // 8).sum() for number in range(count)]
        assert client.run_on_scheduler(_peak) - base < 20 << 20
        del futures
        assert nothing_left(), objects()
