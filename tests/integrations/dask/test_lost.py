"""What happens when what Dask relies on goes away under it: the store's content, workers at any moment, the plugin."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask import Client, family
from proxyfab.integrations.dask.scheduler import Keeper, safely
from proxyfab.keys import Key
from proxyfab.osio.owner import Writer, running, this_process
from proxyfab.osio.shared import default_root
from proxyfab.testing.processes import Child, until
from tests.integrations.dask.leftovers import KILLED, nothing_left, objects
from tests.integrations.dask.tasks import LARGE, fleeting, grown, large, patient, slowly, total

SECONDS = 20.0


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
