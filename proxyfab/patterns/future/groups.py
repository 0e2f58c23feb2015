"""Several futures at once: `wait` and `as_completed` as in `concurrent.futures`, of ours and of others' together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent import futures
from concurrent.futures import ALL_COMPLETED
from typing import Any, TypeVar

from proxyfab.abc import check_timeout
from proxyfab.errors import ProxyfabError
from proxyfab.patterns.future.handle import Future

T = TypeVar("T")


def wait(
    futures_: Iterable[futures.Future[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> futures._base.DoneAndNotDoneFutures[T]:
    """Wait until all, or the first one, or the first that failed is done.

    Args:
        futures_: Futures of any store, and those of any executor.
        timeout: Seconds; None for ever, 0 for one look.
        return_when: ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION of concurrent.futures.

    Returns:
        Two sets of futures, `done` and `not_done`; what cannot be waited for is done, and its `result` says why.
    """
    check_timeout(timeout)
    fs = list(futures_)
    _look(fs)
    return futures.wait(fs, timeout, return_when)


def as_completed(futures_: Iterable[futures.Future[T]], timeout: float | None = None) -> Iterator[futures.Future[T]]:
    """The futures, each once it is done; those that are first.

    Raises:
        TimeoutError: Not all were within `timeout` seconds of the first call.
    """
    check_timeout(timeout)
    fs = list(futures_)
    _look(fs)
    return futures.as_completed(fs, timeout)


def _look(fs: Iterable[futures.Future[Any]]) -> None:
    """Learn which of ours are done by now, in one round trip for each store."""
    boards: dict[str, list[Future[Any]]] = {}
    for future in fs:
        if isinstance(future, Future) and not future.known:
            boards.setdefault(future.board.place, []).append(future)
    for ours in boards.values():
        try:
            there = set(ours[0].board.wait_any([future.key for future in ours], 0))
        except ProxyfabError:  # the hub finds out whose trouble it is
            continue
        for future in ours:
            if future.key in there:
                future.tell(None)
