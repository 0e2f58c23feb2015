"""Clients of every making go by reference, and where that cannot be they are plain ones and say so once."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("distributed")

import dask
import distributed
from distributed import LocalCluster

from proxyfab.errors import CapacityError, ConfigurationError
from proxyfab.integrations.dask import Client, disable, enable, stats
from proxyfab.integrations.dask.settings import Settings, settings
from proxyfab.proxy import is_proxy
from proxyfab.testing.processes import until
from tests.integrations.dask.tasks import LARGE, WAIT, large, puts, total

# -- clients ---------------------------------------------------------------------------------------------------------


def test_the_client_of_another_is_made_one_of_ours_and_back(cluster: Any, big: Any) -> None:
    class Special(distributed.Client):
        """Somebody's own."""

    with Special(cluster, set_as_default=False) as client:
        assert enable(client, above="2 MB") is client
        assert isinstance(client, Special)
        assert client.submit(len, big).result(WAIT) == LARGE
        assert puts(client) == 0
        enable(client, above=1000)
        future = client.submit(lambda array: int(array[0]), big)
        assert puts(client) == 1
        assert disable(client) is client
        assert type(client) is Special
        assert future.result(WAIT) == int(big[0])
        assert client.submit(len, big, pure=False).result(WAIT) == LARGE
        assert not hasattr(client, "stats")
    with pytest.raises(ConfigurationError, match="no client of Dask's"):
        enable(cluster)


def test_a_client_that_was_made_a_plain_one_is_that_also_after_a_lost_connection(cluster: Any) -> None:
    again = threading.Semaphore(0)

    class Told(Client):
        async def _reconnect(self) -> None:
            await super()._reconnect()
            again.release()

    with Told(cluster, set_as_default=False) as client:
        for change, ours in ((enable, True), (disable, False), (enable, True)):
            change(client)
            client.loop.add_callback(client.scheduler_comm.comm.abort)
            assert again.acquire(timeout=WAIT)
            assert bool(stats(client)["arguments"]) is ours


def test_what_client_scheduler_and_workers_say_goes_out_sooner() -> None:
    def of_cluster(dask_scheduler: Any, streams: str) -> dict[str, float]:
        return {address: stream.interval for address, stream in getattr(dask_scheduler, streams).items()}

    with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as cluster:
        [worker] = cluster.workers.values()
        with distributed.Client(cluster, set_as_default=False) as client, distributed.Client(cluster) as other:
            before = client.scheduler_comm.interval, worker.batched_stream.interval
            [to_worker] = client.run_on_scheduler(of_cluster, streams="stream_comms").values()
            to_client = client.run_on_scheduler(of_cluster, streams="client_comms")[client.id]
            enable(client)
            assert client.scheduler_comm.interval < before[0] / 3
            assert worker.batched_stream.interval < before[1]
            cluster.scale(2)
            client.wait_for_workers(2, WAIT)
            assert all(
                each < to_worker for each in client.run_on_scheduler(of_cluster, streams="stream_comms").values()
            )
            assert all(each.batched_stream.interval < before[1] for each in cluster.workers.values())
            found = client.run_on_scheduler(of_cluster, streams="client_comms")
            assert found[client.id] < to_client == found[other.id]
            enable(client)
            disable(client)
            client.unregister_worker_plugin("proxyfab")
            assert (client.scheduler_comm.interval, worker.batched_stream.interval) == before


def test_lazy_tasks_get_proxies(cluster: Any, big: Any) -> None:
    with Client(cluster, set_as_default=False, lazy=True) as client:
        lazy, total = client.submit(lambda array: (is_proxy(array), int(array.sum())), big).result(WAIT)
        assert lazy
        assert total == int(big.sum())


def test_claims_end_when_no_future_needs_them(client: Client, big: Any) -> None:
    future = client.submit(lambda array: int(array[0]), big)
    future.result(WAIT)
    assert stats(client)["arguments"]["claimed"] >= 1
    del future
    assert until(lambda: stats(client)["arguments"]["claimed"] == 0, WAIT)
    assert until(lambda: stats(client)["scheduler"]["objects"] == 0, WAIT)


def test_settings_come_from_arguments_and_from_configuration(client: Client) -> None:
    assert settings() == Settings()
    with dask.config.set({"proxyfab.dask": {"above": "2 MiB", "lazy": True}}):
        assert settings(lazy=False) == Settings(above=2 << 20)
    with pytest.raises(ConfigurationError, match="results"):
        settings(results="both")


@pytest.fixture
def preload() -> Iterator[None]:
    with dask.config.set({"distributed.client.preload": ["proxyfab.integrations.dask"]}):
        yield


def test_no_line_of_code_at_all(preload: None, cluster: Any, big: Any) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        assert client.submit(lambda array: int(array.sum()), big).result(WAIT) == int(big.sum())
        assert stats(client)["arguments"]["put"] == 1
    with dask.config.set({"proxyfab.dask.enabled": False}), distributed.Client(cluster, set_as_default=False) as client:
        assert client.submit(len, big, pure=False).result(WAIT) == LARGE
        assert stats(client)["arguments"] == {}


def test_an_asynchronous_client(cluster: Any, big: Any) -> None:
    async def work() -> Any:
        async with Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
            first = await client.submit(lambda array: int(array[0]), big)
            rest = await client.gather(client.map(lambda array, i: int(array[i]), [big] * 3, range(3)))
            return first, rest, puts(client)

    assert asyncio.run(work()) == (int(big[0]), [int(big[i]) for i in range(3)], 1)


def test_joblib_hands_large_arguments_by_reference(client: Client, big: Any) -> None:
    import joblib

    from proxyfab.integrations.joblib import register

    register()
    before = puts(client)
    with joblib.parallel_config(backend="proxyfab"):
        work = [joblib.delayed(nth)(big, place, more=[big]) for place in range(20)]
        assert joblib.Parallel()(work) == [2 * int(big[place]) for place in range(20)]
        assert puts(client) == before + 1
        assert joblib.Parallel()(joblib.delayed(nested)(big, place) for place in range(2)) == [int(big[0]), int(big[1])]
    with joblib.parallel_config(backend="proxyfab", scatter=[big]):
        assert joblib.Parallel()(joblib.delayed(nth)(big, place) for place in range(3)) == [
            int(big[i]) for i in range(3)
        ]
    disable(client)
    with joblib.parallel_config(backend="proxyfab"):
        assert joblib.Parallel()(joblib.delayed(nth)(big, place) for place in range(3)) == [
            int(big[i]) for i in range(3)
        ]


def nth(array: Any, place: int, more: Any = ()) -> int:
    return int(array[place]) + sum(int(each[place]) for each in more)


def nested(array: Any, place: int) -> int:
    """As `nth`, by tasks of its own."""
    import joblib

    return int(joblib.Parallel()(joblib.delayed(nth)(array, each) for each in (place,))[0])


# -- where it cannot be ----------------------------------------------------------------------------------------------


def test_a_full_store_is_plain_dask_with_one_warning(
    client: Client, big: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client._proxyfab.keeping.store = _Full(client._proxyfab.keeping.store)
    with caplog.at_level(logging.WARNING, "proxyfab.dask"):
        for i in range(3):
            assert client.submit(lambda array: int(array[0]), big + i).result(WAIT) == int(big[i]) + 0 * i
        assert client.gather(client.map(len, [big] * 2, pure=False)) == [LARGE] * 2
        assert dask.delayed(len)(big).compute() == LARGE
    assert [record.message for record in caplog.records if "could not be stored" in record.message] != []
    assert len(caplog.records) == 1


class _Full:
    """A store on a device without room."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_payload(self, *_: Any, **__: Any) -> Any:
        raise CapacityError("No room is left.")


def test_clusters_of_threads_get_names_by_content_and_keywords(big: Any) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=40
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert client.gather(client.map(lambda i, array: int(array[i]), range(3), array=big)) == [
            int(big[i]) for i in range(3)
        ]
        assert client.submit(len, big).key == client.submit(len, big.copy()).key
        assert "put" not in client._proxyfab.stats()


def test_a_scheduler_that_takes_no_plugins_has_plain_clients(caplog: pytest.LogCaptureFixture, big: Any) -> None:
    async def work() -> int:
        with dask.config.set({"distributed.scheduler.blocked-handlers": ["register_scheduler_plugin"]}):
            async with distributed.Scheduler(dashboard_address="127.0.0.1:0", port=0) as scheduler:
                async with distributed.Worker(scheduler.address, nthreads=1, dashboard_address="127.0.0.1:0"):
                    async with Client(scheduler.address, asynchronous=True, set_as_default=False) as client:
                        return await client.submit(len, big)

    with caplog.at_level(logging.WARNING, "proxyfab.dask"):
        assert asyncio.run(work()) == LARGE
    assert len([record for record in caplog.records if record.name == "proxyfab.dask"]) == 1


def test_another_version_at_the_scheduler_is_a_plain_client(
    caplog: pytest.LogCaptureFixture, big: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyfab.integrations.dask.client.version", lambda: "0.0.0")
    with caplog.at_level(logging.WARNING, "proxyfab.dask"), Client(cluster, set_as_default=False) as client:
        assert client.submit(len, big, pure=False).result(WAIT) == LARGE
        assert stats(client)["arguments"] == {}
    assert len(caplog.records) == 1
    assert "install the same" in caplog.records[0].message


def test_another_dask_is_used_as_it_is_known(
    caplog: pytest.LogCaptureFixture, big: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyfab.integrations.dask.client.GRAPH", ("self", "graph"))
    with caplog.at_level(logging.WARNING, "proxyfab.dask"), Client(cluster) as client:
        assert client.submit(len, big, pure=False).result(WAIT) == LARGE
        assert puts(client) == 1
        assert dask.delayed(len)(big).compute() == LARGE
        assert puts(client) == 1
    assert len(caplog.records) == 1


def test_encrypted_connections_and_scheduler_files(big: Any, tmp_path: Any) -> None:
    security = distributed.Security.temporary()
    path = tmp_path / "scheduler.json"

    async def work() -> Any:
        async with distributed.Scheduler(
            protocol="tls", security=security, dashboard_address="127.0.0.1:0", port=0, host="127.0.0.1"
        ) as scheduler:
            path.write_text(json.dumps(scheduler.identity()))
            async with distributed.Worker(
                scheduler.address, security=security, nthreads=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
            ):
                async with Client(
                    scheduler_file=str(path), security=security, asynchronous=True, set_as_default=False
                ) as client:
                    return await client.submit(lambda array: int(array[0]), big), puts(client)

    assert asyncio.run(work()) == (int(big[0]), 1)


def test_a_client_that_takes_no_pickles_gets_none(cluster: Any) -> None:
    without = ["dask", "msgpack"]
    with Client(cluster, serializers=without, deserializers=without) as client:
        assert client.submit(total, large()).result(WAIT) == large().sum()
        with pytest.raises(TypeError):
            client.submit(list, [(1, total), bytes(1 << 21)]).result(WAIT)
