"""Lent: while a worker answers who fetches results, these lie still, and a peer on the same host may copy them himself.

A worker of Dask's waits for its peer to say that all came (`get_data`). That is how long the loan lasts.

Promises: a loan ends with its answer, however that ends, and so does what it keeps in memory; nothing is lent to an
answer that is over.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

from proxyfab.osio.across import Lender, Loan

_answer: ContextVar[Answer | None] = ContextVar("answer", default=None)
lender = Lender()


class Answer:
    """One answer, and what is lent for it: by the thread of the event loop, or that which serializes for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loans: list[Loan] | None = []
        self._nbytes = 0

    def lend(self, views: Sequence[memoryview]) -> Loan | None:
        """Lend these; None if the answer is over."""
        with self._lock:
            if self._loans is None:
                return None
            loan = lender.lend(views)
            self._loans.append(loan)
            return loan

    def grows_to(self, limit: int, nbytes: int) -> bool:
        """Whether it has `limit` bytes past the sockets with these, and had not before."""
        with self._lock:
            before, self._nbytes = self._nbytes, self._nbytes + nbytes
            return before < limit <= self._nbytes

    def end(self) -> None:
        """All loans end."""
        with self._lock:
            loans, self._loans = self._loans or [], None
        for loan in loans:
            lender.end(loan)


def lend(views: Sequence[memoryview]) -> Loan | None:
    """Lend these for the answer that is being made; None where there is none."""
    answer = _answer.get()
    return None if answer is None else answer.lend(views)


def grows_to(limit: int, nbytes: int) -> bool:
    """Whether the answer that is being made comes to have `limit` bytes past the sockets with these `nbytes`."""
    answer = _answer.get()
    return answer is not None and answer.grows_to(limit, nbytes)


def lending(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A handler of Dask's, in whose answers things may be lent until it is done."""

    @functools.wraps(handler)
    async def answered(*args: Any, **kwargs: Any) -> Any:
        answer = Answer()
        _answer.set(answer)
        try:
            return await handler(*args, **kwargs)
        finally:
            answer.end()
            _answer.set(None)  # no `reset`, which fails in another context: a loop that is closed leaves us to whoever

    return answered
