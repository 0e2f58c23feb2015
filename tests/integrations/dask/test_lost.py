"""What happens when what Dask relies on goes away: the store's content, workers at any moment, plugin and package."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask
import pytest
from distributed import Nanny

from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask import Client, family
from proxyfab.integrations.dask.home import version
from proxyfab.integrations.dask.loading import loaded
from proxyfab.integrations.dask.scheduler import Keeper, safely
from proxyfab.integrations.dask.strangers import Strangers, about, introduced
from proxyfab.integrations.dask.worker import Hand
from proxyfab.keys import Key
from proxyfab.osio.owner import Writer, running, this_process
from proxyfab.osio.shared import default_root
from proxyfab.testing.processes import Child, until
from tests.integrations.dask.leftovers import KILLED, nothing_left, objects
from tests.integrations.dask.tasks import LARGE, WAIT, fleeting, grown, large, patient, puts, slowly, total

SECONDS = 20.0
WITHOUT = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "proxyfab"] + ["proxyfab"]:
    sys.modules[name] = None
"""
"""What a worker has to run that is to be without proxyfab."""


def keeper(cluster: Any) -> Any:
    return cluster.scheduler.plugins["proxyfab"]


@pytest.fixture(params=["transport", "store"])
def client(cluster: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    with Client(cluster, results=request.param) as client:
        client.wait_for_workers(2)
        yield client


def wipe(cluster: Any) -> None:
    """Delete every object of the scheduler's store, as an administrator might."""
    namespace = keeper(cluster).store.connector.namespace
    for entry in Path(default_root(), namespace).iterdir():
        if not entry.name.startswith("."):
            entry.unlink()


def test_tasks_whose_arguments_were_lost_fail_by_name_and_in_time(client: Any, cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    futures = [client.submit(patient, large(number), str(gate)) for number in range(8)]
    dependent = client.submit(grown, futures[-1])
    assert until(lambda: len(objects()) == len(futures))
    wipe(cluster)
    gate.touch()
    outcomes = [_outcome(future) for future in futures]
    for number, outcome in enumerate(outcomes):  # those that had begun have their argument
        assert outcome == large(number).sum() if isinstance(outcome, int) else _is_named(outcome)
    assert sum(not isinstance(outcome, int) for outcome in outcomes) >= len(futures) - 2
    assert _is_named(_outcome(dependent))
    assert client.submit(total, large(99)).result(SECONDS) == large(99).sum()  # and life goes on


def _outcome(future: Any) -> Any:
    try:
        return future.result(SECONDS)
    except ProxyfabError as error:
        return str(error), type(error)


def _is_named(outcome: Any) -> bool:
    text, kind = outcome
    return issubclass(kind, ProxyfabError) and "shm://~" in text


def test_an_argument_is_there_for_every_retry_and_for_recomputing(client: Any, tmp_path: Path) -> None:
    future = client.submit(fleeting, large(), str(tmp_path / "tries"), 2, retries=3)
    assert (future.result(SECONDS) == large(1)).all()
    [[address]] = client.who_has(future).values()
    os.kill(client.run(os.getpid, workers=[address])[address], signal.SIGKILL)
    assert client.submit(total, future).result(2 * SECONDS) == large(1).sum()
    assert (future.result(SECONDS) == large(1)).all()


def test_a_wrong_word_does_not_break_the_scheduler(client: Any, cluster: Any) -> None:
    client._send_to_scheduler({"op": "proxyfab-claim", "url": 3, "keys": 7})
    client._send_to_scheduler({"op": "proxyfab-release", "url": "shm://~nobody", "keys": ["never"]})
    assert client.submit(total, large(), pure=False).result(SECONDS) == large().sum()
    assert client.sync(client.scheduler.proxyfab_read, url="shm://~nobody", key="never") is None
    answer = client.sync(client.scheduler.proxyfab_hello, client="me", version="0", store="nonsense://there")
    assert "nonsense" in answer["error"]
    assert not answer["url"]


def test_what_goes_wrong_in_a_hook_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    @safely
    def shaky(number: int) -> int:
        return 1 // number

    assert shaky(1) == 1
    assert [shaky(0), shaky(0)] == [None, None]
    assert len([each for each in caplog.records if "shaky" in each.getMessage()]) == 1
    assert Keeper().name == "proxyfab"


def test_what_a_process_has_not_fetched_that_has_ended_does_not_stay() -> None:
    with Child(_says_who_it_is) as reader:
        here, there = this_process().writer, Writer.unpack(reader.receive())
        lane = family.Lane()
        try:
            keys = [lane.published.publish([memoryview(bytes(LARGE))], each) for each in (here, there, None)]
            lane.published.sweep()
            assert lane.published.waiting()[0] == len(keys)
            reader.kill()
            assert until(lambda: running(there) is False)
            lane.published.sweep()
            assert [lane._connector.exists(Key.parse(key or "")) for key in keys] == [True, False, True]
        finally:
            lane.close()


def _says_who_it_is(talk: Any) -> None:
    talk.send(this_process().writer.pack(0))
    talk.recv()


@contextmanager
def comer(cluster: Any, client: Any, name: str, *preload: str) -> Iterator[Any]:
    """One more worker, of this name."""

    async def started() -> Any:
        options = {"memory_limit": 0, "preload": list(preload), "dashboard": False}
        return await Nanny(cluster.scheduler_address, nthreads=1, name=name, **options)

    nanny = client.sync(started)
    try:
        yield nanny
    finally:
        client.sync(nanny.close)
        assert until(lambda: len(client.scheduler_info()["workers"]) == 2)


def stranger(cluster: Any, client: Any) -> Any:
    """One more worker, of this name, of a process where nobody can import proxyfab."""
    return comer(cluster, client, "stranger", WITHOUT)


def test_tasks_that_wait_for_a_worker_get_there_by_reference(cluster: Any) -> None:
    with Client(cluster) as client, patch("proxyfab.integrations.dask.node.loaded", wraps=loaded) as scheduler:
        waiting = [client.submit(total, large(number), workers=["comer"]) for number in range(6)]
        with comer(cluster, client, "comer"):
            assert client.gather(waiting) == [large(number).sum() for number in range(6)]  # on all of its host
        scheduler.assert_not_called()


def _shadowed(seed: int) -> Any:
    held = large(seed)
    return lambda: int(held.sum())


def test_its_tasks_need_nothing_of_ours_and_the_client_goes_plain(
    cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    there = {"workers": ["stranger"]}
    with Client(cluster) as client:
        waiting = client.submit(total, large(), **there)
        closure = client.submit(_shadowed(1), **there)
        mapped = client.map(grown, [1, 2], more=large(2), **there)
        literal = client.compute(dask.delayed(total)(dask.delayed(large(3))), optimize_graph=False, **there)
        assert puts(client) == 4
        with stranger(cluster, client) as nanny:
            assert waiting.result(WAIT) == large().sum()
            assert closure.result(WAIT) == large(1).sum()
            assert [int(each) for each in client.gather(mapped)] == [4, 5]
            assert literal.result(WAIT) == large(3).sum()
            assert client.submit(grown, large(4), **there).result(WAIT).sum() == large(5).sum()
            assert client.submit(total, large(6), workers=[nanny.worker_address]).result(WAIT) == large(6).sum()
            assert puts(client) == 4
            [said] = [each.getMessage() for each in caplog.records if each.name == "proxyfab.dask"]
            assert nanny.worker_address in said
            with Client(cluster, set_as_default=False) as second:
                assert second._proxyfab is None
        assert not about()
        del waiting, closure, mapped, literal
        assert nothing_left(), objects()
        with Client(cluster, set_as_default=False) as third:
            assert third._proxyfab is not None


def test_where_results_are_stored_it_is_sent_away(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Client(cluster, results="store") as client:
        kept = client.submit(grown, large())
        with stranger(cluster, client) as nanny:
            assert until(lambda: nanny.status.name == "closed", WAIT)
            assert (client.submit(grown, kept).result(WAIT) == large(2)).all()
            assert until(lambda: "sent away" in caplog.text)


def test_the_plugin_unpickles_in_any_python() -> None:
    assert isinstance(pickle.loads(pickle.dumps(Hand())), Hand)
    other = eval(introduced(())[1][0], {"settings": (), "version": "0.0"})
    assert type(other).__name__ == "Stranger"
    code = f"import pickle; {WITHOUT}\nprint(type(pickle.loads({pickle.dumps(Hand())!r})).__name__)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "Stranger\n"


def test_what_a_scheduler_knows_of_who_comes() -> None:
    strangers = Strangers()
    try:
        strangers.comes("one")
        assert about()
        assert not strangers.says("one", version())
        assert not about()
        assert strangers.says("two", "")
        strangers.goes("two")
        assert not about()
        strangers.comes("three")
    finally:
        strangers.forget()
    assert not about()
    assert strangers.versions == {}


class Stream:
    """As Dask's `BatchedSend`."""

    def __init__(self) -> None:
        self.comm: Any = None
        self.begun: list[Any] = []

    def start(self, comm: Any) -> None:
        self.begun.append(comm)


def test_what_is_sent_to_who_comes_waits_until_he_has_said_what_he_is() -> None:
    strangers = Strangers()
    streams = {name: Stream() for name in ("one", "two", "three", "four", "five")}
    for name, stream in streams.items():
        strangers.waits(name, stream)
    assert not about()
    strangers.says("one", version())
    for name, stream in streams.items():
        stream.start(name)
        assert stream.begun == (["one"] if name == "one" else [])
    assert streams["two"].comm == "two"  # so that Dask finds it closed
    strangers.late("one")
    strangers.says("two", version())
    assert not about()
    strangers.late("three")
    strangers.goes("three")
    assert not about()
    strangers.says("four", "")
    assert about()
    assert not streams["five"].begun
    strangers.forget()
    assert not about()
    assert all(stream.begun == [name] for name, stream in streams.items())


def kill_some_day(client: Any, rng: random.Random) -> threading.Timer:
    """Kill a worker at a moment of the next half second."""
    pid = rng.choice(list(client.run(os.getpid).values()))
    timer = threading.Timer(rng.random() * 0.5, os.kill, (pid, signal.SIGKILL))
    timer.start()
    return timer


def one_run(cluster: Any, results: str, seed: int) -> None:
    """A graph in three layers, of which a worker is killed under way."""
    rng = random.Random(seed)
    with Client(cluster, results=results) as client:
        client.wait_for_workers(2)
        timer = kill_some_day(client, rng)
        shared = large(seed)
        first = [client.submit(slowly, shared, 0.03, more=large(number), pure=False) for number in range(5)]
        second = client.map(grown, first, pure=False)
        sums = client.map(total, second, pure=False)
        got = client.gather(sums)
        timer.join()
        assert got == [int((shared + 2 + number).sum()) for number in range(5)]
        assert sorted(int(each[0]) for each in client.gather(second)) == [seed + 2 + number for number in range(5)]
        del first, second, sums
        assert nothing_left(KILLED), (seed, objects())


@pytest.mark.parametrize("seed", range(5))
def test_a_worker_killed_at_any_moment_changes_nothing(cluster: Any, seed: int) -> None:
    one_run(cluster, ["transport", "store"][seed % 2], seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_workers_killed_at_random_moments(cluster: Any) -> None:
    for seed in range(100, 200):
        one_run(cluster, ["transport", "store"][seed % 2], seed)
