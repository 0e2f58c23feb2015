"""What is told: the figures of all who take part, the workers' metrics, and the page in the dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from distributed import Client, LocalCluster

from proxyfab.integrations.dask.dashboard import PATH
from proxyfab.integrations.dask.figures import COUNTED, Figures, total
from proxyfab.integrations.dask.worker import Hand
from proxyfab.testing.processes import until

MB = 1 << 20


@pytest.fixture(scope="module")
def moved(cluster: LocalCluster) -> Iterator[Client]:
    """One value has gone from one worker to the other."""
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2)
        client.register_plugin(Hand())
        one, other = sorted(client.scheduler_info()["workers"])
        made = client.submit(np.ones, MB, workers=one)
        assert client.submit(np.sum, made, workers=other).result() == MB
        yield client


def page(cluster: LocalCluster, query: str = "") -> str:
    with urlopen(f"http://127.0.0.1:{cluster.scheduler.http_server.port}/{PATH}{query}", timeout=10) as answer:
        return str(answer.read().decode())


def test_the_page_tells_what_is_held_and_what_moved(cluster: LocalCluster, moved: Client, client: Client) -> None:
    argument = client.submit(np.sum, np.ones(MB))
    assert argument.result() == MB

    def told() -> Any:
        return json.loads(page(cluster, "?json"))

    assert until(lambda: told()["total"].get("received_bytes", 0) >= 8 * MB, 10)
    assert told()["scheduler"]["objects"] >= 1
    assert told()["scheduler"]["bytes"] >= 8 * MB
    assert set(told()["workers"]) == set(moved.scheduler_info()["workers"])
    html = page(cluster)
    assert "Kept off the scheduler" in html
    assert "8.00 MiB" in html
    assert all(address in html for address in told()["workers"])


def test_metrics_are_in_dasks_own_place(cluster: LocalCluster, moved: Client) -> None:
    def metrics() -> list[Any]:
        return [worker.metrics.get("proxyfab") for worker in cluster.scheduler.workers.values()]

    assert until(lambda: sum(each["lent"] + each["published"] for each in metrics() if each) >= 1, 10)
    assert all(set(COUNTED) < set(each) for each in metrics())


def test_stats_of_a_client(client: Client, moved: Client) -> None:
    from proxyfab.integrations.dask import stats

    told = stats(client)
    assert set(told["workers"]) == set(client.scheduler_info()["workers"])
    assert told["total"]["lent"] + told["total"]["published"] >= 1
    assert told["total"] == total([told["client"], *told["workers"].values()])
    assert "objects" in told["scheduler"]
    assert "put" in told["arguments"]


def test_a_forked_child_counts_anew() -> None:
    figures = Figures()
    figures.add("published", 5)
    figures.add("fallbacks")
    assert figures.told()["published_bytes"] == 5
    assert figures.told()["fallbacks"] == 1
    figures.after_fork()
    assert set(figures.told().values()) == {0}
