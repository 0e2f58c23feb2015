"""ResilientExecutor in threads: what is done with tasks, and what is told about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyfab.errors import CapabilityError, ConfigurationError, WorkerDied
from proxyfab.events.broker import Broker
from proxyfab.events.handle import broker_of
from proxyfab.events.model import EARLIEST, Capability
from proxyfab.patterns.resilient.executor import ResilientExecutor
from proxyfab.patterns.resilient.failures import Quarantine, Retries
from proxyfab.patterns.resilient.nodes import Roll
from proxyfab.patterns.resilient.task import Past
from proxyfab.store import Store
from proxyfab.testing.content import held
from proxyfab.testing.processes import until
from proxyfab.wire.events import decode, unpack_metadata
from tests.events.emptied import emptied

Make = Callable[..., AbstractContextManager[ResilientExecutor]]


@pytest.fixture
def broker() -> Iterator[Broker]:
    with emptied("memory://resilient") as broker:
        yield broker


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}/s", name="resilient") as store:
        yield store


@pytest.fixture
def make(broker: Broker, store: Store) -> Make:
    @contextmanager
    def made(workers: int = 2, **options: Any) -> Iterator[ResilientExecutor]:
        with ThreadPoolExecutor(workers) as pool:
            options.setdefault("retries", Retries(times=3, pause=0.01))
            with ResilientExecutor(broker, store, pools={"threads": (pool, workers)}, **options) as executor:
                yield executor

    return made


def told(broker: Broker, topic: str) -> list[tuple[str, str]]:
    with broker.subscribe(topic, group=None, start=EARLIEST) as reader:
        frames = [decode(delivery.body) for delivery in reader.fetch(1000, 0)]
    return [(str(event.key), unpack_metadata(event.metadata)["what"]) for frame in frames for event in frame.events]


CALLS: list[int] = []
GATE = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()
    GATE.clear()


def square(x: int) -> int:
    return x * x


def note(x: int) -> None:
    CALLS.append(x)


def hold() -> bool:
    return GATE.wait(20)


def wrong() -> None:
    CALLS.append(1)
    raise ValueError("it")


def full_twice() -> int:
    CALLS.append(1)
    if len(CALLS) < 3:
        raise OSError(28, "No space left on device")
    return 7


def full() -> None:
    raise MemoryError("none left")


def lock() -> object:
    return threading.Lock()


def test_tasks_are_done(make: Make) -> None:
    with make() as executor:
        assert list(executor.map(square, range(50))) == [x * x for x in range(50)]
        futures = [executor.submit(square, x) for x in range(10)]
        assert sorted(future.result() for future in as_completed(futures)) == [x * x for x in range(10)]


def test_large_arguments_and_results_go_through_the_store_and_leave_it(
    make: Make, store: Store, broker: Broker
) -> None:
    array = np.arange(100_000.0)
    with make() as executor:
        result = executor.submit(np.sqrt, array).result()
        assert (result == np.sqrt(array)).all()
        assert broker.describe(f"{executor.name}.tasks").nbytes < 10_000
    assert until(lambda: held(store) == 0)


def test_exceptions_cross_and_are_not_tried_again(make: Make) -> None:
    with make() as executor, pytest.raises(ValueError, match="it"):
        executor.submit(wrong).result()
    assert CALLS == [1]


def test_faults_of_what_is_around_are_tried_again(make: Make, broker: Broker) -> None:
    with make(name="again") as executor:
        assert executor.submit(full_twice).result() == 7
    assert [what for _, what in told(broker, "again.events")].count("retried") == 2


def test_they_are_not_tried_for_ever(make: Make) -> None:
    with make(retries=Retries(times=2, pause=0.01)) as executor, pytest.raises(MemoryError, match="none left"):
        executor.submit(full).result()


def test_a_node_with_many_faults_is_left_alone(make: Make, broker: Broker) -> None:
    with make(name="bad", quarantine=Quarantine(failures=3, seconds=30), retries=2) as executor:
        with pytest.raises(MemoryError):
            executor.submit(full).result()
        (node,) = executor.left_alone()
        waiting = executor.submit(square, 3)
        assert not waiting.done()
        executor.pardon(node)
        assert waiting.result() == 9
    assert "quarantined" in [what for _, what in told(broker, "fabric.health")]


def test_what_its_workers_die_of_is_not_tried_for_ever(make: Make, broker: Broker) -> None:
    with make(workers=1, name="deaths", lease=0.3, retries=2) as executor:
        blocking = executor.submit(hold)
        assert until(lambda: any(worker.task for worker in executor.workers()), 10)
        task = executor.submit(square, 2)
        with broker.subscribe("deaths.tasks", group="workers", ack_wait=0.2) as dying:
            (delivery,) = dying.fetch(1, 10)
            roll = Roll(broker.state("deaths.tasks"), Quarantine())
            roll.remember(task.key.id, Past(3, "elsewhere", "others"))  # type: ignore[attr-defined]  # a Future of ours
            assert delivery.attempt == 1
        GATE.set()
        assert blocking.result(10) is True
        with pytest.raises(WorkerDied, match="elsewhere"):
            task.result(20)


def test_a_cancelled_task_is_not_begun(make: Make) -> None:
    with make(workers=1) as executor:
        first = executor.submit(hold)
        second = executor.submit(note, 1)
        assert until(lambda: any(worker.task for worker in executor.workers()), 10)
        assert second.cancel()
        GATE.set()
        assert first.result() is True
        assert executor.submit(square, 2).result() == 4
    assert CALLS == []


def test_a_task_that_takes_too_long_fails(make: Make) -> None:
    with make(workers=2, lease=0.6, timeout=0.2) as executor:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"did not end within 0\.2 s"):
            executor.submit(hold).result(10)
        assert time.monotonic() - began < 5
        GATE.set()


def test_what_does_not_pickle_is_told(make: Make) -> None:
    with make() as executor, pytest.raises(Exception, match="lock"):
        executor.submit(lock).result(10)


class Unreadable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __repr__


def unreadable() -> None:
    raise Unreadable


def test_what_cannot_be_told_ends_no_worker(make: Make) -> None:
    with make(workers=1) as executor:
        with pytest.raises(Unreadable):
            executor.submit(unreadable).result(10)
        assert executor.submit(square, 4).result(10) == 16


def test_shutdown(make: Make, broker: Broker) -> None:
    with make() as executor:
        future = executor.submit(square, 4)
    assert future.result() == 16
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 4)
    assert set(broker.topics()) <= {"fabric.tasks", "fabric.health"}, "what is told of them stays, and nothing else"
    executor.shutdown()


def test_what_makes_no_sense_is_refused(broker: Broker, store: Store) -> None:
    for lease in (0, "x"):
        with pytest.raises(ConfigurationError, match="lease="):
            ResilientExecutor(broker, store, workers=0, lease=lease)  # type: ignore[arg-type]  # is to be refused
    for workers in (-1, "two"):
        with pytest.raises(ConfigurationError, match="workers="):
            ResilientExecutor(broker, store, workers=workers)  # type: ignore[arg-type]  # as above
    with ThreadPoolExecutor(1) as pool:
        for wrong in (5, (5, 1), (pool,), (pool, "two"), (pool, -1)):
            with pytest.raises(ConfigurationError, match=r"pools\['x'\] is .*as in pools="):
                ResilientExecutor(broker, store, workers=0, pools={"x": wrong})  # type: ignore[dict-item]  # as above
    with pytest.raises(ConfigurationError, match="pools=5 names no executors"):
        ResilientExecutor(broker, store, workers=0, pools=5)  # type: ignore[arg-type]  # as above
    with pytest.raises(ConfigurationError, match="this process's own"):
        ResilientExecutor(broker, store, workers=1)

    class Bare(type(broker_of(broker))):  # type: ignore[misc]  # of whatever class it is
        capabilities = Capability.GROUPS

    with pytest.raises(CapabilityError, match="lease"):
        ResilientExecutor(Bare("bare"), store, workers=0)
