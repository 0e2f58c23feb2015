"""What is lent to an answer is lent for as long as that lasts; who cannot have it does without."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed.comm import utils as comm
from distributed.protocol import deserialize
from distributed.utils import nbytes

from proxyfab.integrations.dask import family
from proxyfab.integrations.dask.lent import grows_to, lend, lender, lending
from proxyfab.integrations.dask.worker import ANSWER, Hand
from proxyfab.osio.across import Loan, horizon
from proxyfab.osio.owner import Writer, this_process

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


def test_a_loan_ends_with_a_loop_that_is_closed_over_its_answer() -> None:
    """Whoever collects the coroutine then does so in a context of his own."""

    async def waits() -> None:
        lend([BLOCK])
        await asyncio.sleep(0)

    answer = lending(waits)()
    contextvars.copy_context().run(answer.send, None)
    assert len(lender) == 1
    answer.close()
    assert len(lender) == 0


def test_an_answer_grows_heavy_once() -> None:
    async def answers() -> list[bool]:
        return [grows_to(100, nbytes) for nbytes in (99, 1, 100)]

    assert asyncio.run(lending(answers)()) == [False, True, False]
    assert not grows_to(100, 100)


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


class Pool:
    """Of connections."""

    def __init__(self) -> None:
        self.connection_args: dict[str, Any] = {}

    def collect(self) -> None: ...

    def said(self) -> set[str]:
        return set(self.connection_args["handshake_overrides"])


@pytest.fixture
def lane() -> Iterator[family.Lane]:
    lane = family.Lane()
    yield lane
    lane.close()


@pytest.fixture
def loan() -> Iterator[Loan]:
    loan = lender.lend([BLOCK])
    yield loan
    lender.end(loan)


ENDED = Writer(this_process().writer.machine, (1 << 22) - 1, 1).pack(0)
"""A process that is not there."""


@pytest.mark.skipif(not horizon(), reason="the kernel does not allow one process to read another's memory")
@pytest.mark.parametrize(
    ("wrong", "until"),
    [({"lender": ENDED}, None), ({"number": 1}, 10), ({"starts": [8]}, 1)],
    ids=["of a process that has ended", "that is over", "of what nobody else may read"],
)
def test_loans_that_come_to_nothing(wrong: dict[str, Any], until: int | None, lane: family.Lane, loan: Loan) -> None:
    """They are no reason to do without shared memory, and only some are one to do without loans."""
    pool = Pool()
    lane.announce(pool)
    mark = {"loan": loan._replace(**wrong), "sizes": [BLOCK.nbytes], "places": [0], "bytes": True, "weights": 0}
    for count in range(1, 12):
        with pytest.raises(family.TransportLost):
            lane.fetch(mark, [])
        assert family.MARK in pool.said()
        assert (family.HORIZON in pool.said()) is (until is None or count < until)
    assert lane.told()["lost"] == 11


@pytest.mark.parametrize("lends", [True, False])
def test_the_event_loop_of_who_gets_much_copies_none_of_it(
    lends: bool, lane: family.Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes by the socket is enough for Dask to have a thread do it, once in each answer."""
    monkeypatch.setattr(comm, "OFFLOAD_THRESHOLD", 1 << 18)
    recipient = {family.MARK: lane.sight} | ({family.HORIZON: lane.horizon} if lends else {})
    values = [np.arange(size) for size in (1 << 18, 1 << 18, 1 << 17)]

    async def answers() -> list[tuple[int, bool]]:
        found = []
        for value in values:
            header, frames = lane.send(value, {"recipient": recipient})
            size = sum(map(nbytes, frames))
            mark = header[family.MARK]
            back = deserialize(mark["inner"] | {"serializer": "dask"}, lane.fetch(mark, frames))
            found.append((size, bool((back == value).all())))
        return found

    assert asyncio.run(lending(answers)()) == [(0, True), ((1 << 18) + 1, True), (0, True)]


class Foreign:
    """A worker, as far as the plugin looks at it."""

    address = "inproc://here"

    def __init__(self) -> None:
        self.memory_manager = SimpleNamespace(memory_limit=0)
        self.handlers: dict[str, Any] = {ANSWER: held}
        self.metrics: dict[str, Any] = {}
        self.periodic_callbacks: dict[str, Any] = {}
        self.rpc = Pool()
        self.batched_stream = SimpleNamespace(interval=0.002)

    def batched_send(self, message: Any) -> None: ...


def test_no_view_that_is_lent_holds_another_one_by_its_buffer(
    lane: family.Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two such in a reference cycle, as of a failed answer, end the process: a fault of CPython's."""
    left: list[memoryview] = []
    monkeypatch.setattr(lane, "_left", lambda buffers, *_: left.extend(buffers))
    for array in (np.ones(1 << 20), np.ones((1 << 10, 1 << 10), order="F")):
        lane.send(array, {"recipient": {}})

    assert len(left) == 2
    assert not any(isinstance(view.obj, memoryview) for view in left)


def test_a_plugin_takes_back_its_own_handler_alone() -> None:
    async def run() -> tuple[Any, Any]:
        worker, hand = Foreign(), Hand()
        hand.setup(worker)
        ours = worker.handlers[ANSWER]
        assert ours is not held
        hand.teardown(worker)
        first = worker.handlers[ANSWER]
        hand.setup(worker)
        worker.handlers[ANSWER] = theirs = lending(worker.handlers[ANSWER])  # as somebody else's plugin may
        hand.teardown(worker)
        return first is held, worker.handlers[ANSWER] is theirs

    assert asyncio.run(run()) == (True, True)
