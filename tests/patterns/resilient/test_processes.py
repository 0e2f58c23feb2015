"""ResilientExecutor with processes that are killed and stopped, over a real server."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from proxyfab.brokers import open_broker
from proxyfab.errors import AccessDenied, WorkerDied
from proxyfab.events.broker import Broker, received
from proxyfab.patterns.resilient.executor import ResilientExecutor, work_for
from proxyfab.patterns.resilient.failures import Retries
from proxyfab.patterns.resilient.leavings import sweep_tasks
from proxyfab.store import Store
from proxyfab.testing.content import held
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.processes import until
from proxyfab.testing.servers import RedisServer

LEASE = 1.0


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[Broker]:
    with open_broker(redis_server.url) as broker:
        yield broker
        for topic in broker.topics():
            broker.delete(topic)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


def square(x: int) -> int:
    time.sleep(0.01)
    return x * x


def who_at(place: str, seconds: float) -> int:
    """Say who began and when; be at it for so long."""
    with open(place, "a") as file:
        file.write(f"{os.getpid()} {time.time()}\n")
    time.sleep(seconds if len(Path(place).read_text().splitlines()) == 1 else 0)
    return os.getpid()


def begun(place: Path) -> list[tuple[int, float]]:
    lines = place.read_text().splitlines() if place.exists() else []
    return [(int(pid), float(when)) for pid, when in (line.split() for line in lines)]


def test_workers_that_are_killed_lose_nothing(broker: Broker, store: Store) -> None:
    """One is killed each time that a quarter of the work is done, however long that took."""
    with ResilientExecutor(broker, store, workers=2, lease=LEASE, retries=20) as executor:
        futures = [executor.submit(square, n) for n in range(160)]
        for done in (40, 80, 120):
            assert until(lambda done=done: futures[done].done(), 60)
            os.kill(executor.pids[-1], signal.SIGKILL)
        assert [future.result(60) for future in futures] == [n * n for n in range(160)]


def test_a_killed_workers_task_is_begun_again_within_its_lease(broker: Broker, store: Store, tmp_path: Path) -> None:
    late = []
    with ResilientExecutor(broker, store, workers=2, lease=LEASE) as executor:
        for number in range(3):
            place = tmp_path / str(number)
            future = executor.submit(who_at, str(place), 60)
            assert until(lambda place=place: len(begun(place)) == 1, 30)
            killed = time.time()
            os.kill(begun(place)[0][0], signal.SIGKILL)
            assert future.result(30) != begun(place)[0][0]
            late.append(begun(place)[1][1] - killed)
    assert statistics.median(late) < LEASE + 1.5, f"begun again after {late}"  # 0.5 where the machine is quiet


def test_a_worker_that_was_only_paused_changes_nothing(broker: Broker, store: Store, tmp_path: Path) -> None:
    place = tmp_path / "paused"
    with ResilientExecutor(broker, store, workers=2, lease=LEASE) as executor:
        future = executor.submit(who_at, str(place), 1.5)
        assert until(lambda: len(begun(place)) == 1, 30)
        paused = begun(place)[0][0]
        os.kill(paused, signal.SIGSTOP)
        try:
            other = future.result(30)
        finally:
            os.kill(paused, signal.SIGCONT)
        assert other != paused
        assert [executor.submit(square, n).result(30) for n in range(10)] == [n * n for n in range(10)]
        assert future.result() == other


def test_a_pool_that_others_made(broker: Broker, store: Store) -> None:
    with (
        ProcessPoolExecutor(2) as pool,
        ResilientExecutor(broker, store, pools={"processes": (pool, 2)}, lease=LEASE) as executor,
    ):
        assert list(executor.map(square, range(20))) == [n * n for n in range(20)]
        assert {worker.pool for worker in executor.workers()} == {"processes"}


def test_a_pool_that_breaks_leaves_the_work_to_another(broker: Broker, store: Store) -> None:
    with (
        ProcessPoolExecutor(1) as pool,
        ResilientExecutor(
            broker, store, pools={"weak": (pool, 1)}, workers=1, lease=LEASE, retries=Retries(10)
        ) as executor,
    ):
        assert until(lambda: len(executor.workers()) == 2, 30)
        (weak,) = [worker.pid for worker in executor.workers() if worker.pool == "weak"]
        os.kill(weak, signal.SIGKILL)
        assert list(executor.map(square, range(20))) == [n * n for n in range(20)]


def test_workers_end_with_their_executor(broker: Broker, store: Store) -> None:
    script = (
        "import sys, time\n"
        "from proxyfab.brokers import open_broker\n"
        "from proxyfab.store import Store\n"
        "from proxyfab.patterns.resilient.executor import ResilientExecutor\n"
        "executor = ResilientExecutor(open_broker(sys.argv[1]), Store(), workers=2)\n"
        "print(*executor.pids, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, broker.url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2
    assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 30)


def test_workers_may_be_started_elsewhere(broker: Broker, store: Store) -> None:
    with ResilientExecutor(broker, store, workers=0, name="shared", lease=LEASE) as executor:
        worker = threading.Thread(target=work_for, args=(broker, "shared"), kwargs={"lease": LEASE})
        worker.start()
        assert executor.submit(square, 5).result(30) == 25
        broker.delete("shared.tasks")
        worker.join(30)
        assert not worker.is_alive()


def test_who_works_by_hand_opens_a_url_of_his_own(
    nats_server: NatsServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "secret")
    url = f"{nats_server.url}?user=me&password=env:MINE"
    with pytest.raises(AccessDenied, match="env:MINE"):
        received(url)
    with (
        open_broker(nats_server.url) as broker,
        ResilientExecutor(broker, store, workers=0, name="hand", lease=LEASE) as executor,
    ):
        worker = threading.Thread(target=work_for, args=(url, "hand"), kwargs={"lease": LEASE})
        worker.start()
        assert executor.submit(square, 5).result(30) == 25
        received(url).close()  # it is open here
        broker.delete("hand.tasks")
        worker.join(30)
        assert not worker.is_alive()


def leave(place: str, n: int) -> None:
    time.sleep(0.02)
    Path(place, str(n)).touch()


def test_tasks_that_nobody_waits_for_are_done_before_it_ends(broker: Broker, store: Store, tmp_path: Path) -> None:
    with ResilientExecutor(broker, store, workers=1) as executor:
        for n in range(20):
            executor.submit(leave, str(tmp_path), n)
    assert len(list(tmp_path.iterdir())) == 20


def test_without_waiting_it_ends_when_its_tasks_are_done(broker: Broker) -> None:
    executor = ResilientExecutor(broker, workers=1)
    futures = [executor.submit(square, n) for n in range(10)]
    executor.shutdown(wait=False)
    assert [future.result(60) for future in futures] == [n * n for n in range(10)]
    executor.shutdown()  # waits for what is going on
    assert executor.pids == []
    assert f"{executor.name}.tasks" not in broker.topics()


def end_worker() -> None:
    os._exit(1)


def test_where_all_pools_are_broken_who_waits_is_told(broker: Broker, store: Store) -> None:
    with (
        ProcessPoolExecutor(1) as pool,
        ResilientExecutor(broker, store, pools={"only": (pool, 1)}, lease=LEASE) as executor,
    ):
        with pytest.raises(WorkerDied, match="pools are broken"):
            executor.submit(end_worker).result(60)
        with pytest.raises(WorkerDied, match="pools are broken"):
            executor.submit(square, 3)


@pytest.mark.parametrize("pool", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_an_interpreter_ends_though_nobody_has_shut_it_down(broker: Broker, pool: str) -> None:
    script = (
        "import sys\n"
        "from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor\n"
        "from proxyfab.patterns import ResilientExecutor\n"
        f"executor = ResilientExecutor(sys.argv[1], pools={{'p': ({pool}(1), 1)}})\n"
        "print(executor.submit(pow, 2, 3).result(60))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, broker.url], capture_output=True, text=True, timeout=100, check=True
    )
    assert (done.stdout, done.stderr) == ("8\n", "")


def test_workers_print_nothing_when_they_begin_and_end(broker: Broker) -> None:
    script = (
        "import os, sys\n"
        "from proxyfab.patterns import ResilientExecutor\n"
        "if __name__ == '__main__':\n"
        "    with ResilientExecutor(sys.argv[1], workers=2, retries=0, lease=1.0) as executor:\n"
        "        print(executor.submit(pow, 2, 3).result(60))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, broker.url], capture_output=True, text=True, timeout=100, check=True
    )
    assert (done.stdout, done.stderr) == ("8\n", "")


def test_what_a_killed_executor_without_a_name_leaves_is_swept(broker: Broker, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from proxyfab.patterns.resilient import executor as ours\n"
        "from proxyfab.store import Store\n"
        "ours._PRESENT = 0.5\n"
        "executor = ours.ResilientExecutor(sys.argv[1], Store(sys.argv[2], name='left'), workers=0)\n"
        "executor.submit(len, bytes(100_000))\n"
        "executor._outbox.flush()\n"
        "print(executor.name, flush=True)\n"
        "sys.stdin.read()\n"
    )
    url = f"file://{tmp_path}/s"
    call = [sys.executable, "-c", script, broker.url, url]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        topic = process.stdout.readline().strip() + ".tasks"
        assert sweep_tasks(broker, older=0.0) == [], "it lives"
        process.kill()
    assert broker.groups(topic)["workers"].lag == 1
    with Store(url, name="left") as store, ResilientExecutor(broker, store, workers=0, name="named"):
        assert held(store) == 1
        assert sweep_tasks(broker) == [], "it may come back: only a day is long enough by itself"
        assert until(lambda: sweep_tasks(broker, older=0.0, dry_run=True), 20)
        (found,) = sweep_tasks(broker, older=0.0)
        assert topic in found.what
        assert broker.topics().count(topic) == 0
        assert (sweep_tasks(broker, older=0.0), held(store)) == ([], 0)
