"""Results that go to the store: they outlive workers, tasks get objects, and everything that Dask can do goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest

from proxyfab.errors import ObjectLost, ProxyfabError
from proxyfab.integrations.dask import Client
from proxyfab.integrations.dask.holdings import Place
from proxyfab.integrations.dask.home import mark_of
from proxyfab.integrations.dask.keeping import Keeping
from proxyfab.integrations.dask.results import Kept
from proxyfab.keys import Key
from proxyfab.serialize import dumps
from proxyfab.store import Store, received_store
from proxyfab.testing.content import held
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import until
from proxyfab.testing.servers import RedisServer
from tests.integrations.dask.leftovers import SECONDS
from tests.integrations.dask.tasks import counted, grown, large, total


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.database()


@pytest.fixture
def client(cluster: Any, url: str) -> Iterator[Any]:
    with Client(cluster, store=url, results="store") as client:
        client.wait_for_workers(2)
        yield client


def stored(url: str) -> int:
    """How many objects lie in a database."""
    with Store(url) as any_store:
        return held(any_store)


def kill_all_workers(client: Any) -> None:
    pids = client.run(os.getpid)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: len(workers := client.scheduler_info()["workers"]) == 2 and not workers.keys() & pids, 60)


def test_a_result_outlives_all_workers_and_is_not_computed_again(client: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    future = client.submit(counted, large(), str(runs))
    distributed.wait(future)
    kill_all_workers(client)
    assert (future.result(60) == large(1)).all()
    assert client.submit(total, future).result(60) == large(1).sum()
    assert runs.read_text() == "x"


def test_so_it_does_at_a_node_server_until_its_key_is_forgotten(cluster: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with NodeServer() as server, Client(cluster, store=(url := server.url), results="store") as client:
        first, second = [client.submit(counted, large(number), str(runs)) for number in range(2)]
        distributed.wait([first, second])
        kill_all_workers(client)
        assert (first.result(60) == large(1)).all()
        assert client.submit(total, second).result(60) == large(2).sum()
        assert runs.read_text() == "xx"
        assert stored(url) == 4
        first.cancel()
        assert until(lambda: stored(url) == 2, SECONDS)
        del second
        assert until(lambda: stored(url) == 0, SECONDS)


def test_a_store_that_goes_takes_every_result_by_name_and_in_time(cluster: Any) -> None:
    with NodeServer() as server, Client(cluster, store=server.url, results="store") as client:
        futures = client.map(grown, [large(number) for number in range(2)])
        distributed.wait(futures)
        server.kill()
        for future in futures:
            with pytest.raises(ProxyfabError, match=r"127\.0\.0\.1"):
                future.result(60)
        assert (client.submit(_made, 7).result(60) == large(7)).all()


def test_what_dask_holds_is_a_handle_and_what_users_see_an_object(client: Any, url: str) -> None:
    future = client.submit(grown, large())
    assert set(client.run(_types, str(future.key)).values()) <= {"Kept", ""}
    distributed.wait(future)
    assert "Kept" in client.run(_types, str(future.key)).values()
    result = future.result()
    assert type(result) is np.ndarray
    result += 1  # private, and writable
    assert (future.result() == large(1)).all()
    assert [type(each) for each in client.gather([future, future])] == [np.ndarray] * 2
    assert client.submit(_kinds, [future, {"a": future}], future).result() == ["ndarray"] * 3
    assert stored(url) == 2  # argument and result, for as long as the future lives
    del future
    assert until(lambda: stored(url) == 0, 5)


def _types(key: str, dask_worker: Any) -> str:
    return type(dask_worker.data[key]).__name__ if key in dask_worker.data else ""


def _kinds(nested: Any, last: Any) -> list[str]:
    return [type(each).__name__ for each in (nested[0], nested[1]["a"], last)]


def test_small_results_and_what_does_not_pickle_stay_with_the_worker(client: Any, url: str) -> None:
    assert client.submit(total, large(), pure=False).result() == large().sum()
    lock = client.submit(_locked, large())
    assert client.submit(_is_lock, lock).result()
    del lock
    assert until(lambda: stored(url) == 0, 5)


def _locked(_: Any) -> Any:
    return [threading.Lock(), bytes(1 << 21)]


def _is_lock(value: Any) -> bool:
    return isinstance(value[0], type(threading.Lock()))


async def _async_grown(array: Any) -> Any:
    return array + 1


def test_async_tasks_collections_and_actors(client: Any) -> None:
    assert (client.submit(_async_grown, large()).result() == large(1)).all()
    assert client.submit(total, client.submit(_async_grown, large(5))).result() == large(6).sum()
    values = [dask.delayed(grown)(large(number)) for number in range(3)]
    first, second = dask.compute(values[0], dask.delayed(total)(values[1]))
    assert (first == large(1)).all()
    assert second == large(2).sum()
    actor = client.submit(Counter, actor=True).result()
    assert actor.add(3).result() == 3


class Counter:
    """An actor."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, more: int) -> int:
        self.count += more
        return self.count


def test_a_result_that_was_lost_is_a_named_error(client: Any, url: str) -> None:
    future = client.submit(grown, large())
    distributed.wait(future)
    with Store(url) as any_store:
        keys = [stat.key for stat in any_store.connector.scan()]  # type: ignore[attr-defined]  # as above
        any_store.evict_many(keys)
    with pytest.raises(ObjectLost, match=str(future.key)):
        future.result(20)
    with pytest.raises(ObjectLost, match=str(future.key)):
        client.submit(total, future).result(20)


def test_a_plain_client_gets_objects_and_so_do_its_tasks(client: Any, cluster: Any, url: str) -> None:
    futures = client.map(grown, [large(), large(1)], key=["kept", "lost"])
    distributed.wait(futures)
    client.publish_dataset(kept=futures[0], lost=futures[1])
    with distributed.Client(cluster, set_as_default=False) as plain:
        known = plain.get_dataset("kept")
        assert (known.result(60) == large(1)).all()
        assert plain.submit(_kinds, [known, {"a": known}], known).result(60) == ["ndarray"] * 3
        with Store(url) as any_store:
            any_store.evict_many([stat.key for stat in any_store.connector.scan()])  # type: ignore[attr-defined]  # as above
        with pytest.raises(ObjectLost, match="'lost'"):
            plain.get_dataset("lost").result(60)
        plain.unpublish_dataset("kept")
        plain.unpublish_dataset("lost")


def test_an_annotation_leaves_results_with_workers_and_arguments_in_their_graph(client: Any, url: str) -> None:
    kept = client.submit(grown, large())
    distributed.wait(kept)
    assert stored(url) == 2
    with dask.annotate(proxyfab=False):
        spared = client.submit(grown, large(1))
        collection = dask.delayed(grown)(large(2))
    distributed.wait([spared, computed := client.compute(collection, optimize_graph=False)])
    assert stored(url) == 2
    held_as = client.run(_types, str(spared.key)), client.run(_types, str(computed.key))
    assert all("ndarray" in each.values() for each in held_as)
    with dask.annotate(proxyfab=False):
        assert client.submit(_kinds, [kept, {"a": spared}], kept).result(60) == ["ndarray"] * 3
    assert (client.gather([spared, computed, kept])[1] == large(3)).all()


def test_a_store_that_is_away_leaves_results_with_workers(cluster: Any, tmp_path: Path) -> None:
    with RedisServer() as server, Client(cluster, store=server.url, results="store") as client:
        future = client.submit(grown, large(), key="before")
        distributed.wait(future)
        server.kill()
        after = client.submit(_made, 7, key="after")
        assert (after.result(60) == large(7)).all()
        with pytest.raises(Exception, match="before|127.0.0.1") as caught:
            future.result(60)
        assert type(caught.value).__module__ == "proxyfab.errors"


def _made(seed: int) -> Any:
    return large(seed)


def test_a_handle_says_what_it_is() -> None:
    with Store() as store:
        kept = Kept("k", store.ref(large()))
        assert "'k'" in repr(kept)
        assert (kept.load() == large()).all()
        store.evict(kept.ref.key)  # type: ignore[arg-type]  # it has one
        with pytest.raises(ObjectLost, match="'k'"):
            kept.load()


@pytest.mark.parametrize("where", ["shared memory", "redis"])
def test_what_a_killed_client_never_claimed_goes_though_others_are_at_work(client: Any, url: str, where: str) -> None:
    asked = url if where == "redis" else None
    told = client.sync(client.scheduler.proxyfab_hello, client="killed", version="", store=asked)
    store = received_store(told["url"])
    unheard, named, theirs = [_put(store, name) for name in ("killed", "killed", "another")]
    client.run_on_scheduler(_end, client="killed", names=Place(store.url, str(named)))
    try:
        assert until(lambda: not store.exists(unheard), 10)
        assert store.exists(named)
        assert store.exists(theirs)
    finally:
        client.run_on_scheduler(_end, client="", names=None)
        store.evict_many([named, theirs])


def _put(store: Store, client: str) -> Key:
    return store.put_payload(dumps(large()), Keeping(store, print, mark_of(client)).reserve())


def _end(dask_scheduler: Any, client: str, names: Place | None) -> None:
    """A client ends without a word; one task that it leaves names an object, until it is forgotten."""
    keeper = dask_scheduler.plugins["proxyfab"]
    if names is None:
        keeper.holdings.forget("of a killed client")
    else:
        keeper.holdings.name("of a killed client", {names: 1})
        keeper.remove_client(dask_scheduler, client)
