"""What is lent to an answer is lent for as long as that lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxyfab.integrations.dask.lent import lend, lender, lending

BLOCK = memoryview(bytes(1000))


async def held(comm: Any, how: Callable[[], Any]) -> Any:
    """As Dask's handler: what is to be said is made in a thread."""
    loan = await asyncio.to_thread(lend, [BLOCK])
    assert loan is not None
    assert len(lender) == 1
    result = how()
    return await result if asyncio.iscoroutine(result) else result


def test_nothing_is_lent_where_nobody_waits() -> None:
    assert lend([BLOCK]) is None


def test_a_loan_ends_with_its_answer() -> None:
    assert asyncio.run(lending(held)("comm", how=lambda: "done")) == "done"
    assert len(lender) == 0


def test_a_loan_ends_with_an_answer_that_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(lending(held)("comm", how=lambda: 1 // 0))
    assert len(lender) == 0


def test_a_loan_ends_with_an_answer_that_is_given_up() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lending(held)("comm", how=lambda: asyncio.sleep(60)), 0.05)

    asyncio.run(run())
    assert len(lender) == 0


def test_a_thread_that_comes_late_lends_nothing() -> None:
    """An answer is given up while a thread still serializes for it, which nobody stops."""
    late: list[Any] = []

    async def slow() -> None:
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def makes() -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
            late.append(lend([BLOCK]))

        async def answers() -> None:
            waiting.append(asyncio.create_task(asyncio.to_thread(makes)))
            await asyncio.sleep(60)

        waiting: list[Any] = []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lending(answers)(), 0.05)
        gate.set()
        await waiting[0]

    asyncio.run(slow())
    assert late == [None]
    assert len(lender) == 0


def test_answers_beside_one_another_end_on_their_own() -> None:
    async def run() -> None:
        gates = [asyncio.Event(), asyncio.Event()]

        async def answers(gate: asyncio.Event) -> None:
            lend([BLOCK])
            await gate.wait()

        tasks = [asyncio.create_task(lending(answers)(gate)) for gate in gates]
        await asyncio.sleep(0)
        for gate, task, left in zip(gates, tasks, (1, 0), strict=True):
            gate.set()
            await task
            assert len(lender) == left

    asyncio.run(run())


def test_it_looks_to_dask_like_the_handler() -> None:
    from distributed.core import _expects_comm

    assert _expects_comm(lending(held))
    assert not _expects_comm(lending(asyncio.sleep))
