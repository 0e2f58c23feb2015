"""Retries: within a budget, with jitter, until a deadline, and never a storm."""

from __future__ import annotations

import heapq
import random
import threading

import pytest

from proxyfab.errors import AccessDenied, ConnectorError, KeyNotFound
from proxyfab.retry import TOKENS, Attempts, Backoff, Patience, RetryBudget, attempt, budget_of, retryable
from proxyfab.testing.processes import in_fork


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


class Flaky:
    """Fails as often as it is told to, then answers."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.times = times
        self.error = error or ConnectorError("The link broke.")
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


def run(call, *, clock=None, budget=None, sleep=None, **options):
    clock = clock or Clock()
    attempts = Attempts(budget or RetryBudget(), clock=clock, **options)
    return attempt(call, attempts, "get at test://", sleep=sleep or clock.sleep)


def test_what_fails_a_few_times_succeeds_in_the_end():
    flaky = Flaky(3)

    assert run(flaky) == "done"
    assert flaky.calls == 4


def test_who_gives_up_says_how_often_it_tried_and_why_it_failed():
    flaky = Flaky(99)

    with pytest.raises(ConnectorError, match=r"get at test:// failed 4 times in .*The link broke") as caught:
        run(flaky, most=4)
    assert caught.value.__cause__ is flaky.error
    assert flaky.calls == 4


@pytest.mark.parametrize("error", [KeyNotFound("gone"), AccessDenied("no"), ValueError("bug")])
def test_an_answer_is_not_asked_for_again(error):
    flaky = Flaky(1, error)

    with pytest.raises(type(error)):
        run(flaky)
    assert flaky.calls == 1
    assert not retryable(error)


def test_what_may_not_be_repeated_is_not_and_its_error_is_its_own():
    flaky = Flaky(1)

    with pytest.raises(ConnectorError) as caught:
        run(flaky, idempotent=False)
    assert caught.value is flaky.error
    assert flaky.calls == 1


@pytest.mark.parametrize("timeout", [0.0, 0.1, 1.0, 5.0])
def test_nobody_waits_past_the_deadline(timeout):
    clock = Clock()
    flaky = Flaky(99)

    with pytest.raises(ConnectorError):
        run(flaky, clock=clock, timeout=timeout, most=99, backoff=Backoff(random=lambda: 1.0))
    assert clock.now - 100 <= timeout


def test_an_attempt_knows_how_long_it_may_take():
    clock = Clock()
    attempts = Attempts(RetryBudget(), timeout=5, clock=clock)
    clock.now += 2
    assert attempts.left == 3
    clock.now += 9
    assert attempts.left == 0
    assert Attempts(RetryBudget()).left is None


def test_pauses_grow_are_bounded_and_jittered():
    top = Backoff(first=0.1, factor=2, longest=1.0, random=lambda: 1.0)
    assert [top.pause(n) for n in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert top.pause(10**6) == 1.0
    drawn = [Backoff().pause(8) for _ in range(100)]
    assert len(set(drawn)) > 90
    assert max(drawn) <= 0.05 * 2**7


def test_a_budget_runs_out_and_comes_back_with_successes():
    budget = RetryBudget()
    assert [budget.spend() for _ in range(12)] == [True] * 10 + [False] * 2
    for _ in range(10):
        budget.earn()
    assert budget.tokens == pytest.approx(1)
    for _ in range(1000):
        budget.earn()
    assert budget.tokens == 10


def test_a_budget_is_shared_by_all_who_call_one_place_and_goes_with_them():
    mine = budget_of("test://shared")
    assert budget_of("test://shared") is mine
    assert budget_of("test://other") is not mine
    mine.spend()
    del mine
    assert budget_of("test://shared").tokens == 10


def test_threads_spend_each_token_once():
    budget = RetryBudget(1000)
    spent: list[bool] = []
    threads = [threading.Thread(target=lambda: spent.extend(budget.spend() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(spent) == 1000


def test_a_fork_while_a_thread_pays_leaves_the_child_a_usable_budget():
    budget = RetryBudget()
    with budget._lock:
        assert in_fork(budget.spend)


def simulate(clients: int, seconds: float, rate: float, works, seed: int) -> tuple[int, int]:
    """Calls that clients make and requests that the server sees, in simulated time; a budget for each client."""
    source = random.Random(seed)
    backoff = Backoff(random=source.random)
    budgets = [RetryBudget() for _ in range(clients)]
    offered = requests = 0
    events: list[tuple[float, int, int, Attempts | None]] = []
    for client in range(clients):
        heapq.heappush(events, (source.expovariate(rate), len(events), client, None))
    serial = clients
    now = 0.0
    while events:
        now, _, client, attempts = heapq.heappop(events)
        if now > seconds:
            continue
        moment = now
        if attempts is None:
            offered += 1
            serial += 1
            heapq.heappush(events, (now + source.expovariate(rate), serial, client, None))
            attempts = Attempts(budgets[client], timeout=60, backoff=backoff, clock=lambda moment=moment: moment)
        requests += 1
        if works(now, source):
            attempts.succeeded()
        elif (pause := attempts.failed(ConnectorError("503"))) is not None:
            serial += 1
            heapq.heappush(events, (now + pause, serial, client, attempts))
    return offered, requests


@pytest.mark.parametrize("seed", range(5))
def test_fifty_clients_of_a_server_that_answers_only_errors_make_no_storm(seed):
    offered, requests = simulate(50, 30.0, 2.0, lambda now, source: False, seed)

    assert offered > 2500
    assert requests <= 1.2 * offered


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_nor_do_those_of_a_server_that_fails_now_and_then(seed, share):
    offered, requests = simulate(50, 30.0, 10.0, lambda now, source: source.random() > share, seed)

    assert requests <= 1.2 * offered


def test_after_a_storm_retries_come_back():
    def works(now: float, source: random.Random) -> bool:
        return not 5 < now < 15 and source.random() > 0.02

    calm = simulate(50, 60.0, 10.0, works, 1)
    assert calm[1] > calm[0] + 500, "the failures of two in a hundred, after the storm, are tried again"
    assert calm[1] <= 1.2 * calm[0]


# -- who waits -------------------------------------------------------------------------------------------------------


def test_a_wait_outlives_outages_that_are_short_enough_and_pays_for_none():
    clock, budget = Clock(), RetryBudget()
    patience = Patience(budget, threading.Lock(), outage=10, clock=clock)
    for _ in range(3):
        began = clock.now
        while clock.now < began + 9:
            pause = patience.failed(ConnectorError("refused"))
            assert pause is not None
            assert pause <= 1.0
            clock.sleep(pause)
        patience.up()
        clock.sleep(500)  # it waits there
    assert budget.tokens == TOKENS


def test_a_wait_ends_when_an_outage_lasts_too_long_or_with_its_own_deadline():
    for outage, timeout in [(10.0, None), (10.0, 500.0), (500.0, 10.0)]:
        clock = Clock()
        patience = Patience(RetryBudget(), threading.Lock(), outage=outage, timeout=timeout, clock=clock)
        began = clock.now
        while (pause := patience.failed(ConnectorError("refused"))) is not None:
            clock.sleep(pause)
        patience.over()
        assert clock.now - began == pytest.approx(10.0)
    assert Patience(RetryBudget(), threading.Lock(), outage=10.0).failed(KeyNotFound("not there")) is None


def test_a_short_wait_ends_no_later_than_it_says_and_a_mere_look_may_be_tried_again():
    for timeout, ends in [(0.3, 0.3), (0.0, 1.0)]:
        clock = Clock()
        patience = Patience(RetryBudget(), threading.Lock(), outage=60.0, timeout=timeout, clock=clock)
        began = clock.now
        while (pause := patience.failed(ConnectorError("refused"))) is not None:
            clock.sleep(pause + 1e-6)
        patience.over()
        assert clock.now - began == pytest.approx(ends, abs=0.01)
        assert isinstance(patience.trouble, ConnectorError)
        patience.up()
        assert patience.trouble is None


def test_of_many_who_wait_one_looks():
    turn = threading.Lock()
    first, second = (Patience(RetryBudget(), turn, outage=20) for _ in range(2))
    assert first.failed(ConnectorError("refused")) is not None
    paused: list[float | None] = []
    other = threading.Thread(target=lambda: paused.append(second.failed(ConnectorError("refused"))))
    other.start()
    other.join(0.3)
    assert other.is_alive(), "it looks, too"
    first.up()
    other.join(20)
    assert paused == [0.0], "who was told that it is back goes there at once"
    second.over()
    assert not turn.locked()
