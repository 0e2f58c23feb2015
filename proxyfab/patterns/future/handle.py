"""Future[T]: what does not exist yet, set in one process, awaited in others. It pickles; its proxy can be sent ahead.

    f = Future(store)                      # reserves a key; nothing is stored
    pool.submit(consume, f.proxy())        # its first use waits until the result is there
    pool.submit(produce, f)                # f.set_result(x), anywhere
    f.result(timeout=10); await f; f.add_done_callback(print)

Rules:
1. The outcome (a result, an exception, or that it was cancelled) is the one object under the future's key, written
   once: of all who set it, in any process, one wins, and the others get InvalidStateError (`cancel`: False).
2. What a future knows here only ever grows: it is asked of the store until it is done, and never again after that. The
   result is what the store holds, also for who set it.
3. No lock is held during I/O, callbacks or (de)serialization. A forked child's copies are pending again, without the
   parent's callbacks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent import futures
from concurrent.futures import CancelledError, InvalidStateError
from typing import TYPE_CHECKING, Any

from proxyfab.abc import check_ttl
from proxyfab.errors import KeyExists, ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.keys import Key, as_key
from proxyfab.patterns.future import hub
from proxyfab.patterns.future.arriving import FutureRef, arrived, gone
from proxyfab.patterns.future.board import Board, Seen
from proxyfab.patterns.future.calling import call_soon
from proxyfab.patterns.future.outcome import (
    Verdict,
    error_in,
    of_cancelling,
    of_error,
    of_value,
    open_outcome,
    verdict_of,
)
from proxyfab.proxy import Kind
from proxyfab.proxy.kind import kind_of_type
from proxyfab.store import Store
from proxyfab.wire.payload import Payload

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for checkers only, which know it without its package

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

TIMEOUT = 60.0
_PENDING, _RUNNING, _CANCELLED, _FINISHED = "PENDING", "RUNNING", "CANCELLED_AND_NOTIFIED", "FINISHED"
"""The states of concurrent.futures, which its `wait` and `as_completed` read."""
_DONE = (_CANCELLED, _FINISHED)


class Future(futures.Future[T]):
    """A result that anybody may set and anybody may wait for. Thread-safe, fork-safe, picklable.

    It is a `concurrent.futures.Future`: that module's `wait` and `as_completed`, and asyncio's `wrap_future`, take it
    together with those of others.

    Args:
        store: Where the result will lie.
        key: Under which key; drawn if None. Processes that agree on one need not be sent the future.
        timeout: Seconds that its proxies and references wait at their first use; None for ever. `result` has its own.
        ttl: Seconds after which a result expires; None for never.
        of: The result's type, if it is known: its proxies then tell it without waiting.
    """

    def __init__(
        self,
        store: Store,
        *,
        key: Key | str | None = None,
        timeout: float | None = TIMEOUT,
        ttl: float | None = None,
        of: type[T] | None = None,
    ) -> None:
        check_ttl(ttl)
        type_: type | None = of
        kind = None if type_ is None else kind_of_type(type_)
        self._make(Board(store.url, store), store.reserve() if key is None else as_key(key), timeout, ttl, kind)

    def _make(self, board: Board, key: Key, timeout: float | None, ttl: float | None, kind: Kind | None) -> None:
        super().__init__()
        self.key = key
        self.timeout = timeout
        self.ttl = ttl
        self.board = board
        self._kind = kind
        self._seen: Seen | None = None
        self._opened = False
        self._trouble: BaseException | None = None
        """Why it could not be waited for; told once, then it is waited for anew."""
        self._watch = hub.Watch(key, self._told, self._is_wanted)
        self._waiters = _Waiters(self._want)
        on_fork(self)

    def after_fork(self) -> None:
        """In a child: locks of its own, and neither the parent's callbacks nor who waited there."""
        self._condition = threading.Condition()
        self._waiters = _Waiters(self._want)
        self._done_callbacks: list[Callable[[futures.Future[T]], object]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        name, mask = self._kind or ("", 0)
        return load, (self.board.url, self.key.id, self.key.where, self.timeout, self.ttl, name, mask)

    def __repr__(self) -> str:
        return (
            f"<Future {self.key.id} in {self.board.url}, {self._state.partition('_')[0].lower()} as far as known here>"
        )

    # -- to be set ---------------------------------------------------------------------------------------------------

    def set_result(self, result: T) -> None:
        """Store the result and tell all who wait, wherever they are.

        Raises:
            InvalidStateError: It is done: it has a result, an exception, or was cancelled.
            SerializationError: The result cannot become bytes. The future is still pending.
        """
        self._set(of_value(result, self.board.writes), Verdict.VALUE)

    def set_exception(self, exception: BaseException | None) -> None:
        """Have `result` raise this exception wherever it is asked for; its traceback comes along as its cause.

        What does not pickle arrives as a RemoteError that holds its type, message and traceback.

        Raises:
            InvalidStateError: As for `set_result`.
        """
        if not isinstance(exception, BaseException):
            raise TypeError(f"A future's exception is an instance of an exception, not {exception!r}.")
        self._set(of_error(exception, self.board.writes), Verdict.FAILED)

    def cancel(self) -> bool:
        """Have it end without a result, everywhere; False when it is done, or began to run in this process.

        Nobody is interrupted: who computes the result learns of it from `cancelled()`, or when it sets the result.
        """
        if self._state == _RUNNING:
            return False
        if self._state not in _DONE:
            try:
                self.board.announce(self.key, of_cancelling(), self.ttl)
            except KeyExists:
                pass  # it may be that somebody else has cancelled it
            else:
                self._learn(Seen(Verdict.CANCELLED, None))
                self._invoke_callbacks()  # type: ignore[attr-defined]  # of the base class
                return True
        return self.cancelled()

    def _set(self, payload: Payload, verdict: Verdict) -> None:
        try:
            self.board.announce(self.key, payload, self.ttl)
        except KeyExists:
            raise InvalidStateError(
                f"The future {self.key.id} in {self.board.url} is done: it was set or cancelled before, and the first "
                "one counts."
            ) from None
        if self._learn(Seen(verdict, None)):
            self._invoke_callbacks()  # type: ignore[attr-defined]  # as above

    def set_running_or_notify_cancel(self) -> bool:
        """For executors: False if it was cancelled; otherwise it is running, which this process alone knows."""
        if self.cancelled():
            return False
        with self._condition:
            if self._state != _PENDING:
                raise InvalidStateError(f"{self!r} cannot be run: it is not pending.")
            self._state = _RUNNING
        return True

    # -- to be asked -------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has a result, an exception, or was cancelled: asked of the store until it has."""
        return self._state in _DONE or self._look()

    def cancelled(self) -> bool:
        """Whether it was cancelled: asked of the store until it is done."""
        if self._trouble is not None or not self.done():
            return False
        if self._seen is None:
            self._look()
        return self._seen is not None and self._seen.verdict is Verdict.CANCELLED

    def result(self, timeout: float | None = None) -> T:
        """The result, waited for.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            ResolveTimeout: It was not set within `timeout` seconds.
            CancelledError: It was cancelled (that of concurrent.futures).
            KeyNotFound: It was set, and has expired or was evicted since.
            ConnectorError: The store cannot be reached.
            Exception: What was set as its exception.
        """
        try:
            self._raise_trouble()
            self._open(self._whole(timeout))
            if self._exception is not None:
                raise self._exception
            return self._result  # type: ignore[return-value]  # it was opened, so it is a T
        finally:
            self = None  # type: ignore[assignment]  # noqa: PLW0642  # a raised exception's traceback holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that was set, waited for like `result`; None for a result, which is not fetched."""
        if self._trouble is not None:
            return self._trouble
        if self._state not in _DONE:
            arrived(self.board, self.key, timeout, lambda _: self._look() or None)
        if self._seen is None:
            self._look()
        if self._seen is None:
            raise gone(self.key, self.board.url)
        if self._seen.verdict is not Verdict.VALUE:
            self._open(self._whole(timeout))
        return self._exception

    def __await__(self) -> Generator[Any, None, T]:
        return self._arrive().__await__()

    async def _arrive(self) -> T:
        import asyncio  # not at the top: it takes as long to import as all of proxyfab

        if self._state not in _DONE:
            await hub.arrival(self.board, self.key)
        try:  # the outcome is there: what is left is to get it
            return await asyncio.to_thread(self.result)
        except CancelledError as error:
            raise asyncio.CancelledError(*error.args) from None

    def add_done_callback(self, fn: Callable[[futures.Future[T]], object]) -> None:
        """Call `fn(future)` when it is done, in a thread of this process, with the outcome at hand; now if it is done.

        What it raises is logged and goes no further.
        """
        super().add_done_callback(fn)
        if self._state not in _DONE:
            self._want()

    def ref(self) -> FutureRef[T]:
        """A reference to the result; resolving it waits, `timeout` of this future at most."""
        return FutureRef(self.board, self.key, self.timeout, self._kind)

    def proxy(self) -> T:
        """The result in disguise, which can be sent ahead: its first use waits, `timeout` of this future at most."""
        return self.ref().proxy()

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether it is known here that it is done."""
        return self._state in _DONE

    def learn(self) -> None:
        """It is there, as somebody has seen."""
        self._told(None)

    def _look(self) -> bool:
        """Ask the store, without waiting; whether it is done."""
        seen = self.board.look(self.key)
        if seen is not None:
            self._discovered(seen)
        return seen is not None

    def _whole(self, timeout: float | None) -> Payload | None:
        """The outcome as bytes, waited for; None where it was opened before."""
        if self._opened:
            return None
        if self._seen is not None and self._seen.payload is not None:
            return self._seen.payload
        payload = self.board.fetch(self.key) if self._state in _DONE else None
        if payload is None:
            if self._state in _DONE:
                raise gone(self.key, self.board.url)
            payload = arrived(self.board, self.key, timeout, self.board.fetch)
        self._discovered(Seen(verdict_of(payload.type), None))
        return payload

    def _open(self, payload: Payload | None) -> None:
        if payload is None:
            return
        result, error = None, None
        if verdict_of(payload.type) is Verdict.FAILED:
            error = error_in(payload, self.board.reads)
        else:
            result = open_outcome(payload, self.board.reads)
        with self._condition:
            if not self._opened:
                self._result, self._exception, self._opened = result, error, True
                if self._seen is not None:
                    self._seen = Seen(self._seen.verdict, None)

    def _raise_trouble(self) -> None:
        trouble = self._trouble
        if trouble is not None:
            with self._condition:
                self._trouble, self._state = None, _PENDING
            raise trouble

    def _discovered(self, seen: Seen) -> None:
        """Learn it in a thread that is not to be held up by callbacks."""
        if self._learn(seen):
            call_soon(self._invoke_callbacks)  # type: ignore[attr-defined]  # as above

    def _learn(self, seen: Seen | None, trouble: BaseException | None = None) -> bool:
        """Be done; whether it was not before. Waiters in this process are told."""
        with self._condition:
            if seen is not None and not self._opened and (self._seen is None or self._seen.payload is None):
                self._seen = seen
            if self._state in _DONE:
                return False
            self._trouble = trouble
            verdict = Verdict.VALUE if seen is None else seen.verdict
            self._state = _CANCELLED if verdict is Verdict.CANCELLED else _FINISHED
            waiters = list(self._waiters)
            self._condition.notify_all()
            for waiter in waiters:
                if verdict is Verdict.FAILED or trouble is not None:
                    waiter.add_exception(self)
                elif verdict is Verdict.CANCELLED:
                    waiter.add_cancelled(self)
                else:
                    waiter.add_result(self)
        return True

    # -- what the hub asks and tells ---------------------------------------------------------------------------------

    def _want(self) -> None:
        hub.watch(self.board, self._watch)

    def _is_wanted(self) -> bool:
        return self._state not in _DONE and bool(self._waiters or self._done_callbacks)

    def _told(self, trouble: BaseException | None) -> None:
        seen = None
        if trouble is None and any(getattr(waiter, "stop_on_exception", False) for waiter in list(self._waiters)):
            try:
                seen = self.board.look(self.key)  # only they tell an exception from a result
            except ProxyfabError as error:
                trouble = error
        if self._learn(seen, trouble) and self._done_callbacks:
            call_soon(self._call)

    def _call(self) -> None:
        try:
            if self._trouble is None and self._seen is None:
                payload = self.board.fetch(self.key)
                if payload is not None:
                    self._learn(Seen(verdict_of(payload.type), payload))
        except ProxyfabError:
            pass  # whoever asks for the result is told
        self._invoke_callbacks()  # type: ignore[attr-defined]  # as above


class _Waiters(list[Any]):
    """Who waits in `concurrent.futures.wait` and `as_completed`: they put themselves here."""

    def __init__(self, want: Callable[[], None]) -> None:
        super().__init__()
        self._want = want

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self._want()


def load(url: str, id: str, where: str, timeout: float | None, ttl: float | None, name: str, mask: int) -> Future[Any]:
    """Unpickle a Future; opens and imports nothing."""
    future: Future[Any] = Future.__new__(Future)
    future._make(Board(url), Key(id, where), timeout, ttl, Kind(name, mask) if name else None)
    return future
