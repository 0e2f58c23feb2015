"""Thirteen ways to leave something behind: none does, wherever results lie."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest

from proxyfab.integrations.dask import Client
from proxyfab.testing.processes import Child, until
from tests.integrations.dask.leftovers import KILLED, SECONDS, nothing_left, objects
from tests.integrations.dask.tasks import WAIT, failing, grown, large, patient, slowly, stubborn, total


@pytest.fixture(params=["transport", "store"])
def client(cluster: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    with Client(cluster, results=request.param) as client:
        client.wait_for_workers(2)
        yield client


def args(client: Any, _path: Path) -> None:
    assert client.submit(total, large()).result() == large().sum()


def read(client: Any, _path: Path) -> None:
    future = client.submit(grown, large())
    assert (future.result() == large(1)).all()
    assert (future.result() == large(1)).all()


def unread(client: Any, _path: Path) -> None:
    futures = client.map(grown, [large(0), large(1)])
    distributed.wait(futures)
    assert objects()


def chain(client: Any, _path: Path) -> None:
    future = client.submit(grown, large())
    for _ in range(4):
        future = client.submit(grown, future)
    assert (future.result() == large(5)).all()


def keyword(client: Any, _path: Path) -> None:
    futures = client.map(grown, [large(), large(1)], more=large(2))
    assert [int(each[0]) for each in client.gather(futures)] == [3, 4]


def same_key(client: Any, _path: Path) -> None:
    first = client.submit(total, large(), key="same")
    second = client.submit(total, large(7), key="same")
    assert first.result() == second.result() == large().sum()


def error(client: Any, _path: Path) -> None:
    future = client.submit(failing, large())
    assert isinstance(future.exception(), ValueError)


def cancel(client: Any, path: Path) -> None:
    futures = [client.submit(patient, large(number), str(path / "gate")) for number in range(4)]
    assert until(objects)
    client.cancel(futures)
    (path / "gate").touch()


def cancel_running(client: Any, path: Path) -> None:
    """What a task puts when nobody wants it any more."""
    future = client.submit(stubborn, large(), str(path / "gate"), str(path / "done"))
    assert until((path / "done-begun").exists)  # else the worker need not run it at all
    future.cancel()
    del future
    (path / "gate").touch()
    assert until((path / "done").exists)


def forgotten(client: Any, path: Path) -> None:
    """Dask itself keeps for ever what is done already when it is told to forget it."""
    distributed.fire_and_forget(client.submit(stubborn, large(), str(path / "gate"), str(path / "done")))
    assert until(lambda: client.run_on_scheduler(_forgets))
    (path / "gate").touch()
    assert until((path / "done").exists)


def _forgets(dask_scheduler: Any) -> bool:
    asked = dask_scheduler.clients.get("fire-and-forget")
    return asked is not None and bool(asked.wants_what)


def collection(client: Any, _path: Path) -> None:
    values = [dask.delayed(grown)(large(number)) for number in range(3)]
    assert client.compute(dask.delayed(sum)([dask.delayed(total)(value) for value in values])).result() == sum(
        large(number + 1).sum() for number in range(3)
    )
    [kept] = client.persist([dask.delayed(grown)(large(9))])
    assert (kept.compute() == large(10)).all()


def restart(client: Any, path: Path) -> None:
    futures = [client.submit(grown, large()), client.submit(patient, large(1), str(path / "gate"))]
    distributed.wait(futures[:1])
    client.restart()
    assert futures[0].status == "cancelled"
    assert until(lambda: not objects(), SECONDS)  # also while the user holds futures that lead nowhere


def close(client: Any, path: Path) -> None:
    futures = [client.submit(grown, large()), client.submit(patient, large(1), str(path / "gate"))]
    distributed.wait(futures[:1])
    client.close()
    assert until(lambda: not objects(), SECONDS)
    (path / "gate").touch()


def worker_kill(client: Any, _path: Path) -> None:
    future = client.submit(grown, large())
    distributed.wait(future)
    [[address]] = client.who_has(future).values()
    os.kill(client.run(os.getpid, workers=[address])[address], signal.SIGKILL)
    dependent = client.submit(total, client.submit(slowly, future, 0.0))
    assert dependent.result(30) == large(2).sum()
    assert (future.result(30) == large(1)).all()


KINDS: list[Callable[[Any, Path], None]] = [
    *(args, read, unread, chain, keyword, same_key, error, cancel, cancel_running, forgotten, collection),
    *(worker_kill, restart, close),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_is_left_of(kind: Callable[[Any, Path], None], client: Any, tmp_path: Path) -> None:
    kind(client, tmp_path)
    assert nothing_left(), objects()


def busy(talk: Any, address: str, results: str, gate: str) -> None:
    """A client with large work under way, of which the scheduler has not heard all: its loop stands still."""
    client = Client(address, results=results)
    futures = [client.submit(patient, large(number), gate) for number in range(4)]
    stands = threading.Event()
    client.loop.add_callback(lambda: (stands.set(), time.sleep(WAIT)))
    stands.wait(WAIT)
    futures += client.map(grown, [large(10), large(11)])
    talk.send("sent")
    talk.recv()
    del futures


@pytest.mark.parametrize("results", ["transport", "store"])
def test_nothing_is_left_of_a_killed_client(cluster: Any, results: str, tmp_path: Path) -> None:
    with Client(cluster), Child(busy, cluster.scheduler_address, results, str(tmp_path / "gate")) as child:
        assert child.receive(60) == "sent"
        assert len(objects()) >= 2
        child.kill()
        assert nothing_left(KILLED), objects()
    (tmp_path / "gate").touch()
