"""Workers, and clients, that do not see the shared memory of the scheduler's host: what is large still arrives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

from distributed import LocalCluster

from proxyfab.errors import KeyNotFound
from proxyfab.integrations.dask import Client
from tests.integrations.dask.tasks import LARGE, WAIT


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster whose one worker sees another root of shared memory, as one on another host does."""
    root: Path = tmp_path_factory.mktemp("elsewhere")
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        env={"PROXYFAB_SHM_DIR": str(root)},
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=40,
    ) as cluster:
        yield cluster


def test_a_worker_elsewhere_asks_the_scheduler_once_for_each_object(far: Any) -> None:
    array = np.arange(LARGE)
    with Client(far, set_as_default=False) as client:

        async def later(array: Any) -> int:
            array += 1  # private, and writable
            return int(array[0])

        assert client.gather(client.map(lambda array, i: int(array[i]), [array] * 4, range(4))) == [0, 1, 2, 3]
        assert client.submit(later, array).result(WAIT) == 1  # on the worker's own loop
        assert client.submit(later, array, pure=False).result(WAIT) == 1
        assert client._proxyfab.stats()["put"] == 1

        def fetched() -> int:
            from proxyfab.integrations.dask import loading

            return len(loading._far)

        assert set(client.run(fetched).values()) == {1}
        grown = client.submit(lambda array: array + 1, array)
        assert (grown.result(WAIT) == array + 1).all()


def test_lazy_tasks_elsewhere_get_the_object_itself(far: Any) -> None:
    array = np.arange(LARGE)
    with Client(far, set_as_default=False, lazy=True) as client:
        told = client.submit(lambda array: (type(array).__name__, int(array.sum())), array).result(WAIT)
        assert told == ("ndarray", array.sum())


def test_what_lies_nowhere_any_more_is_an_error_of_a_name(far: Any) -> None:
    with Client(far, set_as_default=False) as client:
        keeping = client._proxyfab.keeping
        put = keeping.store.put_payload

        keeping.store.put_payload = lambda payload, key: keeping.store.evict(put(payload, key))
        try:
            future = client.submit(lambda array: len(array), np.arange(LARGE) + 5)
            with pytest.raises(KeyNotFound, match="Nothing lies under"):
                future.result(WAIT)
        finally:
            del keeping.store.put_payload


def test_results_of_a_worker_elsewhere_stay_with_it(far: Any) -> None:
    """A client would look for them in the shared memory of its own host."""
    array = np.arange(LARGE) + 9
    with Client(far, set_as_default=False, results="store") as client:
        first = client.submit(lambda array: array + 1, array)
        assert (first.result(WAIT) == array + 1).all()
        assert client.submit(lambda array: int(array[0]), first).result(WAIT) == 10


def test_a_client_elsewhere_is_a_plain_one(
    far: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("proxyfab.integrations.dask.client.sight", lambda: "elsewhere")
    with caplog.at_level("INFO", "proxyfab.dask"), Client(far, set_as_default=False) as client:
        assert client.submit(len, np.arange(LARGE)).result(WAIT) == LARGE
        assert "put" not in client._proxyfab.stats()
        assert client.gather(client.map(lambda i, big: int(big[i]), [1, 2], big=np.arange(LARGE))) == [1, 2]
    assert [record.levelname for record in caplog.records if record.name == "proxyfab.dask"] == ["INFO"]
