"""Client: whatever Dask can do with arguments, it does with large ones by reference, and nobody sees a difference."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

import dask
import distributed
from distributed import as_completed, fire_and_forget, get_client

from proxyfab.integrations.dask import Client, contents, family, near
from proxyfab.testing.processes import until
from tests.integrations.dask.tasks import LARGE, WAIT, puts


def seen(*args: Any, **kwargs: Any) -> Any:
    """What a task sees of its arguments."""

    def one(obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            obj[:1] += 0  # writable
            return type(obj).__name__, int(obj.sum())
        if isinstance(obj, (list, tuple)):
            return type(obj)(one(each) for each in obj)
        if isinstance(obj, dict):
            return {name: one(each) for name, each in obj.items()}
        return type(obj).__name__, len(obj) if hasattr(obj, "__len__") else obj

    return one(args), one(kwargs)


def look() -> Any:
    """`seen` as a function that travels by value: workers need not have this module."""
    import types

    namespace: dict[str, Any] = {"np": np, "Any": Any}
    return types.FunctionType(seen.__code__, namespace, "seen")


# -- submit and map --------------------------------------------------------------------------------------------------


def test_arguments_are_real_wherever_they_stand(client: Client, big: Any) -> None:
    small = client.submit(int, 7)
    args = (big, [big, small, {"deep": (big, 3)}], b"x" * 2_000_000, 5)
    kwargs = {"named": big, "also": {"text": "y" * 2_000_000, "word": "z"}}
    args_here = (big, [big, 7, {"deep": (big, 3)}], *args[2:])
    before = puts(client)
    assert client.submit(look(), *args, **kwargs).result(WAIT) == seen(*args_here, **kwargs)
    assert puts(client) == before + 3


def test_two_tasks_get_memory_of_their_own(client: Client, big: Any) -> None:
    def spoil(array: Any) -> int:
        array[:] = 0
        return len(array)

    total = int(big.sum())
    assert client.gather(client.map(spoil, [big] * 3, pure=False)) == [LARGE] * 3
    assert client.submit(lambda array: int(array.sum()), big, pure=False).result(WAIT) == total


def test_what_stands_twice_in_a_task_is_one_object_there(client: Client, big: Any) -> None:
    def emptied(one: Any, other: Any, *, more: Any) -> tuple[bool, bool, int]:
        one[:] = 0
        return one is other, one is more["deep"][0], int(other.sum())

    more = {"deep": [big]}
    assert client.submit(emptied, big, big, more=more).result(WAIT) == (True, True, 0)
    both = client.gather(client.map(emptied, [big] * 2, [big] * 2, more=more, pure=False))
    assert [(one, total) for one, _, total in both] == [(True, 0)] * 2
    assert client.submit(emptied, big, big.copy(), more=more).result(WAIT)[:2] == (False, True)


def test_map_stores_what_is_shared_once(client: Client, big: Any) -> None:
    before = puts(client)
    futures = client.map(
        lambda array, i, more, words: int(array[i] + more[i]) + len(words), [big] * 20, range(20), more=big, words="w"
    )
    assert client.gather(futures) == [int(2 * big[i]) + 1 for i in range(20)]
    assert puts(client) == before + 1


@pytest.mark.parametrize("count", [20_000, 200_000])
def test_two_maps_with_large_keywords_of_one_name(client: Client, count: int) -> None:
    """Plain Dask takes the name of the keyword for a key: its scheduler fails, or computes with another one's."""
    one, other = np.arange(count), np.arange(count) + 1
    words = [f"word {i}" for i in range(3000)]
    first = client.map(lambda i, big, words: int(big[i]) + len(words), range(3), big=one, words=words)
    second = client.map(lambda i, big, words: int(big[i]) + len(words), range(3), big=other, words=words)
    assert client.gather(first) == [3000, 3001, 3002]
    assert client.gather(second) == [3001, 3002, 3003]


def test_map_in_batches_and_over_what_is_no_list(client: Client, big: Any) -> None:
    arrays = tuple(big + i for i in range(4))
    assert client.gather(client.map(lambda a, i: int(a[0]) + i, arrays, range(4), batch_size=2)) == [
        int(big[0]) + 2 * i for i in range(4)
    ]
    assert client.gather(client.map(lambda row: int(row.sum()), big[:4].reshape(2, 2))) == [
        int(big[:2].sum()),
        int(big[2:4].sum()),
    ]
    with pytest.raises(TypeError, match="Iterators"):
        client.map(len, iter([big]))


def test_partials_with_large_arguments(client: Client, big: Any) -> None:
    from functools import partial

    before = puts(client)
    work = partial(lambda array, i, more: int(array[i]) + more, big, more=5)
    assert client.submit(work, 3).result(WAIT) == int(big[3]) + 5
    assert client.gather(client.map(work, range(3))) == [int(big[i]) + 5 for i in range(3)]
    assert puts(client) == before + 1


def test_functions_and_methods_on_which_much_hangs(client: Client, big: Any) -> None:
    class Model:
        def __init__(self, weights: Any) -> None:
            self.weights = weights

        def predict(self, i: int) -> int:
            return int(self.weights[i])

        def __call__(self, i: int) -> int:
            return -int(self.weights[i])

    async def later(i: int) -> int:
        return int(big[i]) + 1

    def around(i: int) -> int:
        return int(big[i])

    before = puts(client)
    future = client.submit(around, 3)
    assert future.result(WAIT) == int(big[3])
    assert future.key.startswith("around-")
    assert client.submit(later, 3, pure=False).result(WAIT) == int(big[3]) + 1
    futures = client.map(around, range(3), pure=False)
    assert client.gather(futures) == [int(big[i]) for i in range(3)]
    assert futures[0].key.startswith("around-")
    assert client.submit(Model(big).predict, 2).result(WAIT) == int(big[2])
    assert client.submit(Model(big), 2).result(WAIT) == -int(big[2])
    assert dask.delayed(around)(1).compute() == int(big[1])
    assert puts(client) >= before + 4


def test_a_function_of_the_same_content_is_one_task(client: Client, cluster: Any, big: Any) -> None:
    function = look()
    future = client.submit(function, big)
    again = client.submit(function, big.copy())
    assert again.key == future.key
    assert client.submit(function, big.astype("f8")).key != future.key
    assert client.submit(function, big.view("u8")).key != future.key
    assert client.submit(function, big.reshape(2, -1)).key != future.key
    middling = b"x" * 5000
    assert client.submit(function, middling).key == client.submit(function, bytes(bytearray(middling))).key
    assert client.submit(function, bytearray(middling)).key != client.submit(function, middling).key
    keys = [each.key for each in client.map(function, [big, middling])]
    with Client(cluster, set_as_default=False, above="1 GiB") as other:
        assert other.submit(function, big.copy()).key == future.key
        assert [each.key for each in other.map(function, [big.copy(), middling])] == keys


def test_what_was_asked_for_already_is_not_put_again(client: Client, big: Any) -> None:
    before = puts(client)
    futures = [client.submit(len, big) for _ in range(5)]
    assert len({future.key for future in futures}) == 1
    assert client.submit(len, big, key="mine").result(WAIT) == LARGE
    assert puts(client) == before + 1


@pytest.mark.parametrize("kind", [bytes, bytearray, bytes.hex, np.frombuffer])
def test_what_is_large_is_hashed_and_put_once_and_comes_back_by_shared_memory(
    client: Client, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by Dask's tokens as well, which take twenty seconds a gigabyte of bytes."""
    hashed = {"by Dask": 0, "by us": 0}

    def by_dask(data: Any = b"", *, md5: Any = hashlib.md5, **options: Any) -> Any:
        hashed["by Dask"] += memoryview(data).nbytes
        return md5(data, **options)

    def by_us(what: Any, buffers: Any, *, digest: Any = contents._digest) -> Any:
        hashed["by us"] += sum(memoryview(each).nbytes for each in buffers)
        return digest(what, buffers)

    def counts() -> Any:
        arguments, results = client._proxyfab.stats(), family.told()
        return np.array([arguments["put_bytes"], results["received_bytes"], arguments["put"], arguments["fallbacks"]])

    monkeypatch.setattr(hashlib, "md5", by_dask)
    monkeypatch.setattr(contents, "_digest", by_us)
    monkeypatch.setattr(near, "_PATIENCE", WAIT)
    obj = kind(os.urandom(1 << 21))
    before, nbytes = counts(), memoryview(obj.encode() if isinstance(obj, str) else obj).nbytes
    result = client.submit(lambda data: data[::-1], obj).result(WAIT)
    assert type(result) is type(obj)
    assert np.array_equal(result, obj[::-1], equal_nan=kind is np.frombuffer)
    assert hashed["by us"] == nbytes
    assert hashed["by Dask"] < 1 << 16
    put, received, *rest = counts() - before
    assert 0 <= put - nbytes < 1000
    assert 0 <= received - nbytes < 1000
    assert rest == [1, 0]


# -- what else Dask has ----------------------------------------------------------------------------------------------


def test_the_scheduler_holds_no_payload(client: Client, cluster: Any, big: Any) -> None:
    futures = client.map(lambda array, i: i, [big + i for i in range(3)], range(3))
    distributed.wait(futures)

    def heaviest(dask_scheduler: Any) -> int:
        import cloudpickle

        return max(len(cloudpickle.dumps(task.run_spec)) for task in dask_scheduler.tasks.values())

    assert client.run_on_scheduler(heaviest) < 10_000


def test_collections_and_graphs_made_by_hand(client: Client, big: Any) -> None:
    import dask.array as da
    import dask.bag as db
    import dask.dataframe as dd
    import pandas as pd

    before = puts(client)
    total = int(big.sum())
    assert int(da.from_array(big, chunks=LARGE // 4).sum().compute()) == total
    assert dask.delayed(lambda array, more: int(array.sum()) + more)(big, 1).compute() == total + 1
    assert int(dask.delayed(np.sum)([big, big]).persist().compute()) == 2 * total
    frame = pd.DataFrame({"a": big, "b": big % 7})
    expected = frame.groupby("b").a.sum()
    assert (dd.from_pandas(frame, npartitions=2).groupby("b").a.sum().compute().sort_index() == expected).all()
    assert (
        int(da.map_blocks(lambda block, other: block + other[:2], da.ones(4, chunks=2), other=big).sum().compute()) >= 4
    )
    assert db.from_sequence([big, big + 1], npartitions=2).map(lambda a: int(a.sum())).compute() == [
        total,
        total + LARGE,
    ]
    assert client.get({"x": (np.sum, big), "y": (lambda x: int(x) + 1, "x")}, "y") == total + 1
    assert client.compute(dask.delayed(len)(big)).result(WAIT) == LARGE
    assert puts(client) >= before + 8


def test_annotations_stay_with_a_graph_that_is_made_lighter(client: Client, big: Any) -> None:
    with dask.annotate(priority=17, retries=2):
        node = dask.delayed(lambda array: int(array[0]))(big)
    future = client.compute(node, optimize_graph=False)
    assert future.result(WAIT) == int(big[0])

    def told(dask_scheduler: Any) -> Any:
        return dask_scheduler.tasks[future.key].annotations, dask_scheduler.tasks[future.key].priority[0]

    annotations, priority = client.run_on_scheduler(told)
    assert annotations["retries"] == 2
    assert priority == -17


def test_one_can_do_without(client: Client, big: Any) -> None:
    before = puts(client)
    assert client.submit(len, big, proxyfab=False).result(WAIT) == LARGE
    assert client.gather(client.map(len, [big, big], proxyfab=False, batch_size=1)) == [LARGE] * 2
    with dask.annotate(proxyfab=False):
        assert client.submit(len, big, pure=False).result(WAIT) == LARGE
        assert dask.delayed(len)(big).compute() == LARGE
        spared = dask.delayed(len)(big)
    assert spared.compute(optimize_graph=False) == LARGE
    assert puts(client) == before


def test_actors_tasks_that_are_coroutines_and_all_that_takes_options(client: Client, big: Any) -> None:
    class Counter:
        def __init__(self, array: Any) -> None:
            self.array = array

        def add(self, other: Any) -> int:
            self.array += other
            return int(self.array[0])

    actor = client.submit(Counter, big, actor=True).result(WAIT)
    assert actor.add(big).result() == 2 * int(big[0])

    async def later(array: Any) -> int:
        await asyncio.sleep(0)
        return int(array[1])

    assert client.submit(later, big).result(WAIT) == int(big[1])
    options: dict[str, Any] = {"retries": 2, "priority": 3, "fifo_timeout": "1s", "allow_other_workers": True}
    worker = next(iter(client.scheduler_info()["workers"]))
    assert client.submit(len, big, key="named", workers=worker, resources={}, **options).key == "named"
    with pytest.raises(TypeError, match="callable"):
        client.submit(5, big)
    with pytest.raises(TypeError, match="callable"):
        client.submit(big, 5)
    with pytest.raises(TypeError, match="callable"):
        client.map(big, [5])


def test_completion_executor_and_tasks_that_nobody_waits_for(client: Client, big: Any) -> None:
    arrays = [big + i for i in range(3)]
    done = as_completed(client.map(lambda array: int(array[0]), arrays), with_results=True)
    assert sorted(result for _, result in done) == [int(array[0]) for array in arrays]
    with client.get_executor(pure=False) as executor:
        assert executor.submit(len, big).result(WAIT) == LARGE
        assert list(executor.map(len, arrays)) == [LARGE] * 3
    said = distributed.Event("done", client=client)
    fire_and_forget(client.submit(lambda array: distributed.Event("done").set(), big))
    assert said.wait(WAIT)


def test_results_scatter_data_sets_and_variables(client: Client, big: Any) -> None:
    held = client.scatter(big, broadcast=True)
    assert client.submit(lambda a, b: int((a - b).sum()), held, big).result(WAIT) == 0
    future = client.submit(lambda array: array + 1, big)
    client.publish_dataset(grown=future)
    del future
    assert (client.get_dataset("grown").result(WAIT) == big + 1).all()
    client.unpublish_dataset("grown")
    future = client.submit(lambda array: array + 2, big)
    distributed.wait(future, WAIT)  # a variable has a deadline of its own until the scheduler knows the task
    distributed.Variable("it", client=client).set(future)
    del future
    found = distributed.Variable("it", client=client).get().result(WAIT)
    assert type(found) is np.ndarray
    found += 1
    assert (found == big + 3).all()
    distributed.Variable("it", client=client).delete()


def test_a_task_is_complete_though_its_last_future_goes_while_it_is_submitted_again(client: Client, big: Any) -> None:
    futures = [client.submit(len, big)]
    key = futures[0].key

    def plain(*args: Any, **kwargs: Any) -> Any:
        futures.clear()
        assert until(lambda: key not in client.futures, WAIT)
        return distributed.Client.submit(client, *args, **kwargs)

    assert client._proxyfab.submit(plain, len, (big,), {}).result(WAIT) == LARGE


def test_a_task_that_is_retried_and_one_that_fails(client: Client, big: Any) -> None:
    def second_time(array: Any, name: str) -> int:
        event = distributed.Event(name)
        if not event.is_set():
            event.set()
            raise OSError("not yet")
        return int(array[0])

    assert client.submit(second_time, big, "tried", retries=1).result(WAIT) == int(big[0])
    with pytest.raises(ZeroDivisionError):
        client.submit(lambda array: 1 / 0, big).result(WAIT)


def test_a_client_inside_a_task_goes_by_reference_too(client: Client, big: Any) -> None:
    def inside(array: Any) -> Any:
        client = get_client()
        future = client.submit(lambda other: int(other[0]), array + 1)
        distributed.secede()
        return future.result(), client._proxyfab.stats()["put"]

    first, put = client.submit(inside, big).result(WAIT)
    assert first == int(big[0]) + 1
    assert put == 1
