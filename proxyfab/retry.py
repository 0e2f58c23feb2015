"""When to try again, and when not: a budget that all calls to one place share, pauses with jitter, a call's attempts.
And the patience of who waits, which costs none of that: of all who wait for one place, one looks whether it is back.

Promises: a place that answers nothing but errors is asked at most ten times more in all than it would be without
retries, and a healthy one at most a tenth more; nobody waits past a deadline; clients that failed together do not come
back together. Pure: clock, sleep and random source can be handed in, and nothing here knows a connector.
Leaves to the caller: which operations may be repeated (what only reads always may; a put when its key was drawn before
the first attempt), and sending the same request id again where the server remembers ids.

Sources: retry throttling in gRPC's proposal A6; full jitter in "Exponential Backoff And Jitter", AWS Architecture Blog.
"""

from __future__ import annotations

import math
import random as _random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from proxyfab.errors import ConnectorError
from proxyfab.fork import on_fork
from proxyfab.members import Known

T = TypeVar("T")

TOKENS = 10.0
COST = 1.0
GAIN = 0.1
MOST = 8
_GLANCE = 1.0
"""Seconds at most from one look whether a place is back to the next."""
_STOOD = 1.0
"""Seconds without a failure after which the next one is a new outage."""


class RetryBudget:
    """Tokens that retries cost and successes earn; all calls to one place share it. Thread-safe, fork-safe.

    While everything fails the tokens run out and calls fail after their first attempt; they return with the successes.
    """

    __slots__ = ("__weakref__", "_gain", "_lock", "_most", "_tokens", "refused", "retries")

    def __init__(self, tokens: float = TOKENS, *, gain: float = GAIN) -> None:
        self._most = tokens
        self._tokens = tokens
        self._gain = gain
        self.retries = 0
        """Retries that were paid for."""
        self.refused = 0
        """Retries that were not made, because nothing was left."""
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may end somebody who puts or evicts
        on_fork(self)

    @property
    def tokens(self) -> float:
        """What is left."""
        return self._tokens

    def spend(self) -> bool:
        """Pay for one retry; False when there is not enough left, and then it must not be made."""
        with self._lock:
            if self._tokens < COST:
                self.refused += 1
                return False
            self._tokens -= COST
            self.retries += 1
            return True

    def earn(self) -> None:
        """Count one success."""
        if self._tokens < self._most:  # unlocked: the usual case costs nothing, and a late look at it costs a tenth
            with self._lock:
                self._tokens = min(self._most, self._tokens + self._gain)

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self._lock = threading.RLock()


_budgets: Known[str, RetryBudget] = Known()


def budget_of(place: str) -> RetryBudget:
    """This process's budget for a place (a connector's spec or address); keep it as long as you use it."""
    mine = RetryBudget()
    return _budgets.setdefault(place, mine)


def budgets() -> dict[str, RetryBudget]:
    """The budgets that are in use in this process, by place."""
    return _budgets.now()


def drawn() -> float:
    """From 0 to 1, from the system's randomness: nobody's seeded numbers change because a thread of ours retries."""
    return _system.random()


_system = _random.SystemRandom()


class Backoff(NamedTuple):
    """How long to pause before a retry: at random up to `first * factor ** (retry - 1)` or `longest` seconds."""

    first: float = 0.05
    factor: float = 2.0
    longest: float = 10.0
    random: Callable[[], float] = drawn  # pickles by name

    def pause(self, retry: int) -> float:
        """Seconds before the `retry`-th retry, which is counted from 1."""
        return self.random() * min(self.longest, self.first * self.factor ** min(retry - 1, 64))


def retryable(error: BaseException) -> bool:
    """Whether another attempt might end better: the place was not reached. What it answered, it would answer again."""
    return isinstance(error, ConnectorError)


class Attempts:
    """One call's attempts: after each failure it says whether to try again, and when. Belongs to one caller.

    Args:
        budget: Of the place that is called.
        timeout: Seconds from now after which no attempt may begin; None for no deadline.
        idempotent: Whether the call may be repeated at all.
        most: Attempts at most, the first among them.
        backoff: Pauses between them.
        retryable: Whether an error is worth another attempt.
        clock: Monotonic seconds.
    """

    __slots__ = ("_backoff", "_clock", "_idempotent", "_most", "_retryable", "_started", "_timeout", "budget", "number")

    def __init__(
        self,
        budget: RetryBudget,
        *,
        timeout: float | None = None,
        idempotent: bool = True,
        most: int = MOST,
        backoff: Backoff | None = None,
        retryable: Callable[[BaseException], bool] = retryable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self.number = 1
        """Of the attempt that is being made; the first is 1."""
        self._timeout = timeout
        self._idempotent = idempotent
        self._most = most
        self._backoff = backoff or Backoff()
        self._retryable = retryable
        self._clock = clock
        self._started = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return self._clock() - self._started

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, never negative; None without one."""
        return None if self._timeout is None else max(0.0, self._timeout - self.elapsed)

    def succeeded(self) -> None:
        """The attempt ended well."""
        self.budget.earn()

    def failed(self, error: BaseException) -> float | None:
        """Seconds to pause before the next attempt, which is then paid for; None when there should be none."""
        if not self._idempotent or self.number >= self._most or not self._retryable(error):
            return None
        pause = self._backoff.pause(self.number)
        left = self.left
        if (left is not None and pause >= left) or not self.budget.spend():
            return None
        self.number += 1
        return pause


class Patience(Attempts):
    """A wait's attempts: an outage may last for a while, costs no budget, and is looked into by one waiter at a time.

    Which begins with the first failure, or with one more than a second after the last; to be told of it by `up` and, in
    any case, by `over`. Belongs to one caller, except for `turn`.

    Args:
        budget: Of the place; not touched.
        turn: Shared by all who wait for this place.
        outage: Seconds that one may last.
        timeout: Seconds of the wait; None for no deadline. A second, where it is none, for a mere look.
        retryable: Whether an error is worth another attempt.
    """

    __slots__ = ("_ends", "_looks", "_outage", "_resumed", "_turn", "trouble")

    def __init__(
        self,
        budget: RetryBudget,
        turn: threading.Lock,
        *,
        outage: float,
        timeout: float | None = None,
        retryable: Callable[[BaseException], bool] = retryable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        timeout = timeout if timeout is None or timeout > 0 else _STOOD
        super().__init__(budget, timeout=timeout, backoff=Backoff(longest=_GLANCE), retryable=retryable, clock=clock)
        self.trouble: BaseException | None = None
        """The last failure, since which the place was not reached."""
        self._turn = turn
        self._outage = outage
        self._looks = False
        self._resumed = -math.inf
        self._ends = math.inf

    @property
    def left(self) -> float:
        """Seconds until the deadline, or until an outage has lasted too long."""
        left = super().left
        return max(0.0, min(math.inf if left is None else left, self._ends - self._clock(), self._outage))

    def failed(self, error: BaseException) -> float | None:
        """Seconds to pause before the next attempt; None when there should be none. May itself wait for its turn."""
        now = self._clock()
        self.trouble = error
        if now - self._resumed > _STOOD:
            self._ends = now + self._outage
            self.number = 1
        if not self._retryable(error) or self.left <= 0:
            return None
        pause = 0.0
        if self._looks or self._turn.acquire(blocking=False):
            self._looks = True
            pause = min(self._backoff.pause(self.number), self.left)
        elif self._turn.acquire(timeout=min(self.left, threading.TIMEOUT_MAX)):  # who looked has found it, or gave up
            self._looks = True
        self.number += 1
        self._resumed = self._clock() + pause
        return pause

    def up(self) -> None:
        """The place was reached."""
        self.trouble = None
        self.over()

    def over(self) -> None:
        """Who waits has looked enough; others may."""
        if self._looks:
            self._looks = False
            self._turn.release()


def attempt(
    call: Callable[[], T], attempts: Attempts, what: str, *, sleep: Callable[[float], object] = time.sleep
) -> T:
    """Do `call` until it succeeds, or until `attempts` says that it is enough.

    Args:
        call: One attempt.
        attempts: Made for this call.
        what: The operation and its place (`"get at redis://host:6379"`), for the error.
        sleep: Pauses.

    Raises:
        ConnectorError: Several attempts failed; the last one's error is the cause.
        Exception: Whatever `call` raised, where it was not, or could not be, repeated.
    """
    while True:
        try:
            done = call()
        except Exception as error:
            pause = attempts.failed(error)
            if pause is None:
                if attempts.number == 1 or not isinstance(error, ConnectorError):
                    raise
                tried = f"{what} failed {attempts.number} times in {attempts.elapsed:.1f} s"
                raise ConnectorError(f"{tried}, the last time so: {error}") from error
            sleep(pause)
        else:
            attempts.succeeded()
            return done
