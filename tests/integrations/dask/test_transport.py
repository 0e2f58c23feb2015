"""The transport: large values go past the sockets between workers, and to the client, and stay what they are."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import distributed
import numpy as np
import pytest
from distributed import Client, LocalCluster, worker_client
from distributed.protocol import deserialize, serialize
from distributed.utils import ensure_memoryview
from distributed.utils_comm import gather_from_workers

from proxyfab.integrations.dask import family
from proxyfab.integrations.dask.near import Near
from proxyfab.integrations.dask.published import Published
from proxyfab.integrations.dask.scheduler import Keeper
from proxyfab.integrations.dask.worker import Hand
from proxyfab.osio.owner import Writer, this_process
from proxyfab.testing.conformance.disks import small_disks
from proxyfab.testing.processes import until
from proxyfab.wire.layout import spans_of

MB = 1 << 20
OTHER = {"lent": "published", "published": "lent"}


class Holder:
    """Nothing that Dask has heard of."""

    def __init__(self, array: Any) -> None:
        self.array = array


@pytest.fixture(scope="module")
def plain(cluster: LocalCluster) -> Iterator[Client]:
    """Dask's own client; the workers take part, and the scheduler."""
    with Client(cluster, set_as_default=False) as client:
        client.register_plugin(Keeper())
        client.register_plugin(Hand())
        client.amm.stop()  # it would drop one of two copies, and perhaps not the one that a test has changed
        yield client


@pytest.fixture
def workers(plain: Client) -> list[str]:
    return sorted(plain.scheduler_info()["workers"])


@pytest.fixture
def near(plain: Client) -> Iterator[Near]:
    """The client's own part in it."""
    near = Near(plain)
    assert plain.sync(_attach, near)
    yield near
    near.detach()


async def _attach(near: Near) -> bool:
    return near.attach()


@pytest.fixture(params=["lent", "published"])
def way(request: pytest.FixtureRequest, plain: Client) -> Iterator[str]:
    """How values go: out of the other process's memory, or through shared memory. It is what counts them, too."""
    before = next(iter(plain.run(_lends).values()))
    assert before, "the kernel does not allow one process to read another's memory"
    if request.param == "published":
        plain.run(_lends, "")
    yield request.param
    plain.run(_lends, before)


def _lends(to: str | None = None) -> str:
    """To whom this process lends, and what it does from now on."""
    lane = family._lane
    assert lane is not None
    before = lane.horizon
    lane.horizon = before if to is None else to
    return before


def counted(client: Client) -> dict[str, int]:
    """The sums over the workers."""
    return dict(sum_of(client.run(family.told).values()))


def sum_of(each: Any) -> dict[str, int]:
    each = list(each)
    return {name: sum(one.get(name, 0) for one in each) for name in each[0]}


def past_sockets(figures: dict[str, int]) -> int:
    return figures["lent"] + figures["published"]


def move(client: Client, workers: list[str], make: Any, look: Any) -> Any:
    """What `look` sees on one worker of what `make` made on the other."""
    made = client.submit(make, workers=workers[0], pure=False)
    return client.submit(look, made, workers=workers[1], pure=False).result()


def big_array() -> Any:
    return np.arange(MB, dtype="f8").reshape(1024, 1024)


def fortran() -> Any:
    return np.asfortranarray(big_array())


def read_only() -> Any:
    array = big_array()
    array.flags.writeable = False
    return array


def with_gaps() -> Any:
    return np.arange(4 * MB, dtype="f8")[::2]


def broadcast() -> Any:
    return np.broadcast_to(np.arange(MB, dtype="f8"), (3, MB))


def records() -> Any:
    return np.ones(MB, dtype=[("a", "i4"), ("b", "f8")])


def masked() -> Any:
    return np.ma.masked_less(big_array(), 5)


def dates() -> Any:
    return np.arange(MB).astype("M8[s]")


def some_bytes() -> bytes:
    return bytes(range(256)) * (8 * MB // 256)


def bytes_array() -> bytearray:
    return bytearray(some_bytes())


def holder() -> Holder:
    return Holder(big_array())


def nested() -> Any:
    return {"a": [big_array(), 1], "b": (big_array(), "text"), 3: b"x"}


def frame() -> Any:
    import pandas as pd

    return pd.DataFrame({"x": np.arange(MB // 4), "y": np.ones(MB // 4), "z": ["a", "b"] * (MB // 8)})


def table() -> Any:
    import pyarrow as pa

    return pa.table({"x": np.arange(MB // 4), "y": ["text"] * (MB // 4)})


def described(value: Any) -> list[str]:
    """Everything of a value that Dask keeps, as text."""
    if isinstance(value, Holder):
        return ["Holder", *described(value.array)]
    if isinstance(value, dict):
        return ["dict", *(text for item in value.items() for each in item for text in described(each))]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(text for each in value for text in described(each))]
    if isinstance(value, np.ndarray):
        flags = value.flags
        shape = (value.dtype, value.shape, value.strides, flags.writeable, flags.f_contiguous)
        return [type(value).__name__, *map(str, shape), str(crc32(value.tobytes()))]
    if hasattr(value, "to_pandas"):
        return [type(value).__name__, str(value.schema), *described(value.to_pandas())]
    if hasattr(value, "to_numpy"):
        from pandas.util import hash_pandas_object

        return [type(value).__name__, str(value.dtypes), str(hash_pandas_object(value).sum())]
    return [type(value).__name__, str(crc32(value) if isinstance(value, (bytes, bytearray)) else value)]


MAKERS = [
    *(big_array, fortran, read_only, with_gaps, broadcast, records, masked, dates),
    *(some_bytes, bytes_array, holder, nested, frame),
]
if not distributed.__version__.startswith(
    "2025.4."
):  # which knows nothing of Arrow before somebody imports `pyarrow.fs`
    MAKERS.append(table)


def by_sockets(value: Any) -> Any:
    """A value after Dask's own way: each frame in memory of its own."""
    header, frames = serialize(value, iterate_collection=True)
    return deserialize(header, [bytearray(ensure_memoryview(frame)) for frame in frames])


def test_every_kind_of_value_arrives_as_by_plain_dask(plain: Client, workers: list[str], way: str) -> None:
    for make in MAKERS:
        before = counted(plain)
        ours = move(plain, workers, make, described)
        after = counted(plain)
        assert ours == described(by_sockets(make())), make.__name__
        assert {name: after[name] > before[name] for name in ("lent", "published")} == {way: True, OTHER[way]: False}
        assert after["received_bytes"] - before["received_bytes"] >= MB, make.__name__
    assert until(lambda: counted(plain)["live"] == counted(plain)["on_loan"] == 0, 5)


def changed(array: Any) -> float:
    array += 1
    return float(array.sum())


@pytest.mark.usefixtures("way")
def test_what_arrives_is_private_and_writable(plain: Client, workers: list[str]) -> None:
    made = plain.submit(np.ones, MB, workers=workers[0], pure=False)
    looks = [plain.submit(changed, made, workers=workers[1], pure=False)]
    assert looks[0].result() == 2 * MB
    assert plain.submit(np.sum, made, workers=workers[0], pure=False, key="there").result() == MB


def test_small_values_go_as_ever(plain: Client, workers: list[str]) -> None:
    before = counted(plain)
    assert move(plain, workers, lambda: np.ones(MB // 16), np.sum) == MB // 16
    assert move(plain, workers, lambda: [1, "two", {3: b"four"}], repr) == "[1, 'two', {3: b'four'}]"
    assert past_sockets(counted(plain)) == past_sockets(before)


def test_a_client_that_takes_no_part_gets_results_as_ever(plain: Client) -> None:
    before = counted(plain)
    assert described(plain.submit(big_array, pure=False).result()) == described(big_array())
    assert past_sockets(counted(plain)) == past_sockets(before)


@pytest.mark.usefixtures("way")
def test_a_client_that_takes_part_gets_results_past_the_sockets(plain: Client, near: Near) -> None:
    before = family.told()["received"]
    futures = [plain.submit(make, pure=False) for make in MAKERS]
    results = plain.gather(futures)
    for make, result in zip(MAKERS, results, strict=True):
        assert described(result) == described(by_sockets(make())), make.__name__
    assert family.told()["received"] - before >= len(MAKERS)


def test_what_is_small_comes_with_the_first_answer(
    client: Client, workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def fetch(who_has: Any, **_: Any) -> Any:
        asked.append(set(who_has))
        return await gather_from_workers(who_has, **_)

    monkeypatch.setattr("proxyfab.integrations.dask.near.gather_from_workers", fetch)
    small = [client.submit(make, pure=False, key=name) for name, make in SMALL.items()]
    large = client.submit(holder, pure=False)  # of whose size Dask knows nothing
    assert client.gather(small)[:2] == [0, "text"]
    assert asked == []
    assert described(client.gather([*small, large])[-1]) == described(holder())
    assert asked == [{large.key}]
    lost = client.submit(fails, pure=False)
    with pytest.raises(ValueError, match="as it should"):
        client.gather([*small, large, lost])


SMALL: dict[str, Any] = {"a number": int, "a text": lambda: "text", "numbers": lambda: np.ones(9)}


def fails() -> None:
    raise ValueError("as it should")


def test_a_client_elsewhere_than_the_scheduler_gets_results_of_workers_near_it(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyfab.integrations.dask import Client as Ours

    monkeypatch.setattr("proxyfab.integrations.dask.client.sight", lambda: "elsewhere")
    with Ours(cluster, set_as_default=False) as far:
        before = family.told()["received"]
        assert (far.submit(big_array, pure=False).result() == big_array()).all()
        assert family.told()["received"] == before + 1
        assert "put" not in far._proxyfab.stats()


def test_a_client_is_as_it_was_when_it_takes_no_part_any_more(plain: Client) -> None:
    near = Near(plain)
    plain.sync(_attach, near)
    assert "gather" in vars(plain.scheduler)
    near.detach()
    assert "gather" not in vars(plain.scheduler)
    assert family.MARK not in plain.rpc.connection_args["handshake_overrides"]
    assert plain.submit(big_array, pure=False).result().shape == (1024, 1024)
    assert family.told() == {}


def test_who_does_not_see_the_same_memory_gets_results_as_ever(plain: Client, near: Near) -> None:
    assert near._lane is not None
    near._lane.sight, mine = "of another host", near._lane.sight
    try:
        assert plain.submit(big_array, pure=False).result().shape == (1024, 1024)
        assert set(near._known.values()) == {False}
    finally:
        near._lane.sight = mine


def _limited(limit: int) -> int:
    lane = family._lane
    assert lane is not None
    lane.published._limit, before = limit, lane.published._limit
    return before


@pytest.mark.parametrize("way", ["published"], indirect=True)
@pytest.mark.usefixtures("way")
def test_what_is_too_much_to_wait_goes_by_sockets(plain: Client, workers: list[str]) -> None:
    limit = next(iter(plain.run(_limited, 0).values()))
    before = counted(plain)
    try:
        assert move(plain, workers, holder, described) == described(holder())
        assert move(plain, workers, big_array, described) == described(big_array())
        after = counted(plain)
        assert after["published"] == before["published"]
        assert after["fallbacks"] == before["fallbacks"] + 2
    finally:
        plain.run(_limited, limit)


def test_a_full_file_system_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, filled a bit more with each value that waits."""
    with small_disks(tmp_path) as mount:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(mount("size=8m") / "root"))
        lane = family.Lane()
        array = np.arange(3 * MB // 8, dtype="f8")
        context = {"recipient": {family.MARK: lane.sight}}
        try:
            with pytest.warns(RuntimeWarning, match="go through its sockets"):
                sent = [lane.send(array, context) for _ in range(4)]
            told = lane.told()
            assert (told["published"], told["fallbacks"]) == (2, 2)
            for header, frames in sent:
                mark = header.get(family.MARK)
                if mark is not None:
                    header, frames = mark["inner"], lane.fetch(mark, frames)
                assert np.array_equal(deserialize(header | {"serializer": "dask"}, frames), array)
            assert family.MARK in lane.send(array, context)[0]  # there is room again
        finally:
            lane.close()
            del lane


def _lossy() -> None:
    """What this worker announces next is not there."""
    lane = family._lane
    assert lane is not None
    put, lend = lane.published.publish, family.lend

    def losing(*buffers: Any) -> str:
        lane.published.publish, family.lend = put, lend  # type: ignore[method-assign]  # once
        key = put(*buffers)
        lane.published.close()
        return key

    def ending(views: Any) -> Any:
        lane.published.publish, family.lend = put, lend  # type: ignore[method-assign]  # once
        loan = lend(views)
        family.lender.end(loan)
        return loan

    lane.published.publish, family.lend = losing, ending  # type: ignore[method-assign]


@pytest.mark.usefixtures("way")
def test_what_is_lost_on_its_way_is_asked_for_again(plain: Client, workers: list[str]) -> None:
    before = counted(plain)
    plain.run(_lossy, workers=[workers[0]])
    assert move(plain, workers, big_array, np.sum) == np.sum(big_array())
    assert counted(plain)["lost"] == before["lost"] + 1


def test_where_the_kernel_refuses_values_go_through_shared_memory(plain: Client, workers: list[str]) -> None:
    def refuses() -> None:
        from proxyfab.osio import across

        across._read, real = _no, across._read
        vars(across)["real"] = real

    def allows() -> None:
        from proxyfab.osio import across

        across._read = vars(across).pop("real")

    horizon = next(iter(plain.run(_lends).values()))
    before = counted(plain)
    plain.run(refuses, workers=[workers[1]])
    try:
        for _ in range(3):
            assert move(plain, workers, big_array, np.sum) == np.sum(big_array())
        after = counted(plain)
        assert after["lost"] - before["lost"] == 1
        assert after["published"] - before["published"] == 3
        assert plain.run(_lends) == {workers[0]: horizon, workers[1]: ""}
    finally:
        plain.run(allows, workers=[workers[1]])
        plain.run(_lends, horizon)


def _no(*_: Any) -> int:
    ctypes.set_errno(errno.EPERM)
    return -1


def test_what_nobody_fetches_is_evicted_in_time() -> None:
    lane = family.Lane()
    published = Published(lane._connector, lane.shared, 4 * MB, keep=0.0)
    try:
        key = published.publish([memoryview(bytes(MB))])
        assert published.waiting()[1] == MB
        published.sweep()
        assert published.waiting() == (0, 0)
        assert not lane._connector.exists(family.Key.parse(key or ""))
    finally:
        lane.close()


def test_what_is_published_amid_a_sweep_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = family.Lane()
    published = Published(lane._connector, lane.shared, 4 * MB)
    try:
        for _ in range(2):
            published.publish([memoryview(bytes(MB))], this_process().writer)
        late = published._waiting.popitem()

        def is_running(_: Writer) -> bool:  # another thread's copy is done just then
            published._waiting.update([late])
            return True

        monkeypatch.setattr("proxyfab.integrations.dask.published.running", is_running)
        published.sweep()
        assert published.waiting() == (2, 2 * MB)
        published.close()
    finally:
        lane.close()


def test_no_more_than_the_limit_waits() -> None:
    lane = family.Lane()
    published = Published(lane._connector, lane.shared, 3 * MB)
    try:
        keys = [published.publish([memoryview(bytes(MB))]) for _ in range(3)]
        assert published.publish([memoryview(bytes(1))]) is None
        lane._connector.evict(family.Key.parse(keys[1] or ""))  # as its reader does
        assert published.publish([memoryview(bytes(MB))])
        published.close()
        assert published.waiting() == (0, 0)
    finally:
        lane.close()


def test_buffers_lie_aligned() -> None:
    assert [low for low, _ in spans_of([1, 64, 65, 3], 0, 259)] == [0, 64, 128, 256]


def test_a_lane_warns_once_and_stops_asking_when_nothing_is_there() -> None:
    class Pool:
        def __init__(self) -> None:
            self.connection_args: dict[str, Any] = {}

        def collect(self) -> None: ...

    lane = family.Lane()
    pool = Pool()
    lane.announce(pool)
    gone = {"key": str(lane._connector.reserve()), "sizes": (MB,), "places": (0,), "bytes": False}
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="not in shared memory any more"):
                lane.fetch(gone, [])
        assert pool.connection_args["handshake_overrides"][family.MARK] == lane.sight
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(3):
                with pytest.raises(OSError, match="not in shared memory any more"):
                    lane.fetch(gone, [])
        assert len(said) == 1
        assert pool.connection_args["handshake_overrides"] == {}
    finally:
        lane.close()


def test_pools_come_while_others_are_looked_through() -> None:
    """A value may be lost in any thread, while a client starts in another."""

    class Pool:
        """Of connections."""

        connection_args: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

        def collect(self) -> None: ...

    lane, pools = family.Lane(), [Pool(), Pool(), Pool()]
    try:
        lane.announce(pools[0])
        for _, pool in zip(lane._pools, pools[1:], strict=False):
            lane.announce(pool)
    finally:
        lane.close()
    assert [pool.connection_args["handshake_overrides"] for pool in pools[:2]] == [{}, {}]


def asked_inside(other: str) -> tuple[bool, int, float]:
    """Whether the client of a task is one of ours, what it received, and a sum over that."""
    with worker_client() as inside:
        before = family.told()["received"]
        array = inside.submit(big_array, workers=other, pure=False).result()
        return getattr(inside, "_proxyfab", None) is not None, family.told()["received"] - before, float(array.sum())


def test_clients_inside_tasks_take_part(client: Client, workers: list[str]) -> None:
    ours, received, total = client.submit(asked_inside, workers[1], workers=workers[0], pure=False).result()
    assert (ours, received, total) == (True, 1, float(big_array().sum()))


@pytest.mark.slow
def test_a_worker_killed_while_it_is_asked_leaves_nothing() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(Hand())
        workers = sorted(client.scheduler_info()["workers"])
        pids = client.run(os.getpid)
        many = range(2 * MB, 2 * MB + 9)
        made = [client.submit(np.ones, size, workers=workers[0], allow_other_workers=True) for size in many]
        sums = [client.submit(np.sum, each, workers=workers[1], allow_other_workers=True) for each in made]
        assert until(lambda: any(each.status == "finished" for each in sums), 30)
        os.kill(pids[workers[0]], signal.SIGKILL)
        assert client.gather(sums) == list(many)
