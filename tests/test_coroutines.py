"""Blocking calls for event loops: none holds up a loop that ends, nor the process, nor more than its share."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxyfab.coroutines import in_thread
from proxyfab.testing.processes import until

LATE = 5.0
"""Seconds that a machine full of others' work may add; what hangs here does so for a minute."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


async def _given_up(call: Callable[[], object], *, waits: bool = False) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(in_thread(call, waits=waits), 0.01)


def test_outcomes_reach_who_awaits_them_with_his_context() -> None:
    name = contextvars.ContextVar[str]("name")

    async def main() -> None:
        name.set("here")
        assert await in_thread(lambda: (name.get(), threading.get_ident() != threading.main_thread().ident)) == (
            "here",
            True,
        )
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 / 0)
        with pytest.raises(RuntimeError) as caught:
            await in_thread(lambda: next(iter(())))
        assert isinstance(caught.value.__cause__, StopIteration)

    asyncio.run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_a_loop_that_ends_waits_for_no_call_that_was_given_up(gate: threading.Event, waits: bool) -> None:
    began = time.monotonic()
    asyncio.run(_given_up(lambda: gate.wait(60), waits=waits))
    assert time.monotonic() - began < LATE
    asyncio.run(_given_up(lambda: gate.wait(60)))  # whose loop is gone when it ends
    gate.set()
    assert asyncio.run(in_thread(lambda: 7)) == 7


def test_so_many_at_once_and_calls_that_were_given_up_do_not_count(gate: threading.Event) -> None:
    most, under_way, turn = [0], [0], threading.Lock()

    def work() -> None:
        with turn:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.001)
        with turn:
            under_way[0] -= 1

    async def main() -> None:
        await asyncio.gather(*(_given_up(lambda: gate.wait(60)) for _ in range(40)))
        await asyncio.gather(*(in_thread(work) for _ in range(200)))

    asyncio.run(main())
    assert 1 <= most[0] <= 32


def test_who_waits_for_others_takes_no_turn_from_them(gate: threading.Event) -> None:
    async def main() -> None:
        waiting = [asyncio.create_task(in_thread(lambda: gate.wait(60), waits=True)) for _ in range(40)]
        await asyncio.wait_for(in_thread(gate.set), 30)
        assert await asyncio.gather(*waiting) == [True] * 40

    asyncio.run(main())


def test_what_was_given_up_before_it_began_is_not_done() -> None:
    async def main() -> list[int]:
        done: list[int] = []
        waiting = [asyncio.create_task(in_thread(lambda: time.sleep(0.01))) for _ in range(32)]
        await asyncio.sleep(0)
        await _given_up_now(lambda: done.append(1))
        await asyncio.gather(*waiting)
        await asyncio.gather(*(in_thread(lambda: None) for _ in range(32)))
        return done

    async def _given_up_now(call: Callable[[], object]) -> None:
        task = asyncio.create_task(in_thread(call))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert asyncio.run(main()) == []


SCRIPT = """
import asyncio, threading
from proxyfab import exit
from proxyfab.coroutines import in_thread

exit.AT_EXIT = 0.5
both = threading.Barrier(3)

def ends():
    both.wait(60)
    threading.main_thread().join()  # until the interpreter ends
    print("done", flush=True)

def hangs():
    both.wait(60)
    threading.Event().wait()

async def main():
    tasks = [asyncio.create_task(in_thread(call)) for call in (ends, hangs)]
    await in_thread(lambda: both.wait(60))
    for task in tasks:
        task.cancel()
    print(len(await asyncio.gather(*tasks, return_exceptions=True)), flush=True)

asyncio.run(main())
"""


def test_a_process_that_ends_lets_them_go_on_for_a_moment_and_no_longer() -> None:
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", SCRIPT], timeout=60, check=True, capture_output=True, text=True)
    assert ended.stdout == "2\ndone\n"
    assert ended.stderr == ""
    assert time.monotonic() - began < 30


def test_a_forked_child_waits_for_nothing_of_its_parents(gate: threading.Event) -> None:
    from proxyfab import coroutines

    asyncio.run(_given_up(lambda: gate.wait(60)))
    assert coroutines._left
    child = os.fork()
    if child == 0:
        os._exit(0 if not coroutines._left and asyncio.run(in_thread(lambda: 3)) == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
    gate.set()
    assert until(lambda: not coroutines._left)
