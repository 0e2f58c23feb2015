"""Future[T]: what does not exist yet, set in one process, awaited in others. It pickles; its proxy can be sent ahead.

    f = Future(store)                      # reserves a key; nothing is stored
    pool.submit(consume, f.proxy())        # its first use waits until the result is there
    pool.submit(produce, f)                # f.set_result(x), anywhere
    f.result(timeout=10); await f; f.add_done_callback(print)

Rules:
1. The outcome (a result, an exception, or that it was cancelled) is the one object under the future's key, written
   once: of all who set it, in any process, one wins, and the others get InvalidStateError (`cancel`: False).
2. The result is what the store holds, also for who set it.
3. No lock is held during I/O, callbacks or (de)serialization.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent import futures
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from proxyfab.abc import check_timeout, check_ttl
from proxyfab.coroutines import in_thread
from proxyfab.errors import ConfigurationError, KeyExists
from proxyfab.events.broker import Broker
from proxyfab.keys import Key, as_key
from proxyfab.patterns.future import hub
from proxyfab.patterns.future.arriving import FutureRef, arrived, gone, raisable
from proxyfab.patterns.future.board import Board, Seen
from proxyfab.patterns.future.brokered import BrokerBoard, board_of
from proxyfab.patterns.future.known import DONE, PENDING, RUNNING, Known
from proxyfab.patterns.future.outcome import (
    Verdict,
    of_cancelling,
    of_error,
    of_value,
)
from proxyfab.patterns.future.promise import Promise
from proxyfab.proxy import Kind, is_proxy
from proxyfab.proxy.kind import kind_of_type
from proxyfab.ref import Ref, ref_of
from proxyfab.store import Store
from proxyfab.wire.payload import Payload

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for checkers only, which know it without its package

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

TIMEOUT = 60.0


class Future(Known[T]):
    """A result that anybody may set and anybody may wait for. Thread-safe, fork-safe, picklable.

    It is a `concurrent.futures.Future`: that module's `wait` and `as_completed`, and asyncio's `wrap_future`, take it
    together with those of others.

    Args:
        store: Where the result will lie.
        broker: Where its completion is told; None: in the store itself. With one, sites that share nothing else can
            wait, and who sets the result may keep it in a store of his own (`set_result(x, store=...)`).
        key: Under which key; drawn if None. Processes that agree on one need not be sent the future.
        timeout: Seconds that its proxies and references wait at their first use; None for ever. `result` has its own.
        ttl: Seconds after which a result expires; None for never.
        lease: Seconds of silence after which a process that has promised the result (`promise`) counts as dead; None:
            nobody listens, and its death is seen by deadlines only.
        of: The result's type, if it is known: its proxies then tell it without waiting.
    """

    def __init__(
        self,
        store: Store,
        *,
        broker: Broker | str | None = None,
        key: Key | str | None = None,
        timeout: float | None = TIMEOUT,
        ttl: float | None = None,
        lease: float | None = None,
        of: type[T] | None = None,
    ) -> None:
        if not isinstance(store, Store):
            raise ConfigurationError(f"A Future needs a Store, not {store!r}: make one of a URL.")
        check_timeout(timeout, 0)
        check_ttl(ttl)
        check_ttl(lease, "lease")
        type_: type | None = of
        if type_ is not None and not isinstance(type_, type):
            raise ConfigurationError(f"of= is the type of the result, not {type_!r}.")
        kind = None if type_ is None else kind_of_type(type_)
        board = Board(store.url, store) if broker is None else BrokerBoard(store.url, broker, store)
        self._make(board, store.reserve() if key is None else as_key(key), timeout, ttl, kind, lease)

    def _make(
        self,
        board: Board,
        key: Key,
        timeout: float | None,
        ttl: float | None,
        kind: Kind | None,
        lease: float | None,
    ) -> None:
        super().__init__(board, key, lease)
        self.timeout = timeout
        self.ttl = ttl
        self._kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        name, mask = self._kind or ("", 0)
        state = (self.board.url, self.key.id, self.key.where, self.timeout, self.ttl, name, mask, self.lease)
        return load, (*state, self.board.broker) if self.board.broker else state

    def __repr__(self) -> str:
        return (
            f"<Future {self.key.id} in {self.board.url}, {self._state.partition('_')[0].lower()} as far as known here>"
        )

    # -- to be set ---------------------------------------------------------------------------------------------------

    def set_result(self, result: T, *, store: Store | None = None) -> None:
        """Store the result and tell all who wait, wherever they are.

        Args:
            result: Anything that the store takes.
            store: Another store than the future's, one that reaches from here; only with a broker.

        Raises:
            InvalidStateError: It is done: it has a result, an exception, or was cancelled.
            SerializationError: The result cannot become bytes. The future is still pending.
            ValueError: The result is an unresolved proxy of this future, which nobody could ever resolve.
        """
        if is_proxy(result) and self._is_awaited_by(ref_of(result)):
            raise ValueError(f"The future {self.key.id} in {self.board.url} cannot be set to a proxy of itself.")
        self._set(of_value(result, self.board.writes), Verdict.VALUE, store)

    def set_exception(self, exception: BaseException | None) -> None:
        """Have `result` raise this exception wherever it is asked for; its traceback comes along as its cause.

        What does not pickle arrives as a RemoteError that holds its type, message and traceback.

        Raises:
            InvalidStateError: As for `set_result`.
        """
        if not isinstance(exception, BaseException):
            raise TypeError(f"A future's exception is an instance of an exception, not {exception!r}.")
        self._set(of_error(exception, self.board.writes), Verdict.FAILED)

    @contextmanager
    def promise(self) -> Iterator[None]:
        """Inside the block this process is at it: what the block raises is set, and its death fails the future.

        Death is noticed by those who wait, a lease after the last sign of life (three come in each), and told to all as
        an ObjectLost. Without a `lease` only what the block raises is told.

        Raises:
            Exception: What the block raised, as without a promise.
        """
        with nullcontext() if self.lease is None else Promise(self.board, self.key, self.lease, self.ttl):
            try:
                yield
            except BaseException as error:  # who waits must not wait for one who was interrupted or told to end
                with suppress(InvalidStateError):
                    self.set_exception(error)
                raise

    def cancel(self) -> bool:
        """Have it end without a result, everywhere; False when it is done, or began to run in this process.

        Nobody is interrupted: who computes the result learns of it from `cancelled()`, or when it sets the result.
        """
        if self._state == RUNNING:
            return False
        if self._state not in DONE:
            with suppress(KeyExists), self._setting_it():  # it may be that somebody else has cancelled it
                self.board.announce(self.key, of_cancelling(), self.ttl)
                self._learn(Seen(Verdict.CANCELLED, None))
                self._call_back()
                return True
        return self.cancelled()

    def _is_awaited_by(self, ref: Ref[Any]) -> bool:
        return isinstance(ref, FutureRef) and (ref.url, ref.key) == (self.board.url, self.key)

    def _set(self, payload: Payload, verdict: Verdict, store: Store | None = None) -> None:
        with self._setting_it():
            try:
                self.board.announce(self.key, payload, self.ttl, store)
            except KeyExists:
                raise InvalidStateError(
                    f"The future {self.key.id} in {self.board.url} is done: it was set or cancelled before, and the "
                    "first one counts."
                ) from None
            self._learn(Seen(verdict, None))
            self._call_back()

    def set_running_or_notify_cancel(self) -> bool:
        """For executors: False if it was cancelled; otherwise it is running, which this process alone knows."""
        if self.cancelled():
            return False
        with self._condition:
            if self._state != PENDING:
                raise InvalidStateError(f"{self!r} cannot be run: it is not pending.")
            self._state = RUNNING
        return True

    # -- to be asked -------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has a result, an exception, or was cancelled: asked of the store until it has."""
        return self._state in DONE or self._look()

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
        check_timeout(timeout)
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
        check_timeout(timeout)
        if self._trouble is not None:
            return self._trouble
        if self._state not in DONE:
            arrived(self.board, self.key, timeout, self.lease, lambda _: self._look() or None)
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

        if self._state not in DONE:
            await hub.arrival(self.board, self.key, self.lease)
        try:  # the outcome is there: what is left is to get it
            return await in_thread(lambda: raisable(self.result))
        except CancelledError as error:
            raise asyncio.CancelledError(*error.args) from None

    def add_done_callback(self, fn: Callable[[futures.Future[T]], object]) -> None:
        """Call `fn(future)` when it is done, in a thread of this process, with the outcome at hand; now if it is done.

        What it raises is logged and goes no further.
        """
        super().add_done_callback(fn)
        if self._state not in DONE:
            hub.watch(self.board, self)

    def ref(self) -> FutureRef[T]:
        """A reference to the result; resolving it waits, `timeout` of this future at most."""
        return FutureRef(self.board, self.key, self.timeout, self._kind, self.lease)

    def proxy(self) -> T:
        """The result in disguise, which can be sent ahead: its first use waits, `timeout` of this future at most."""
        return self.ref().proxy()


def load(
    url: str,
    id: str,
    where: str,
    timeout: float | None,
    ttl: float | None,
    name: str,
    mask: int,
    lease: float | None,
    broker: str = "",
) -> Future[Any]:
    """Unpickle a Future; opens and imports nothing."""
    future: Future[Any] = Future.__new__(Future)
    future._make(board_of(url, broker), Key(id, where), timeout, ttl, Kind(name, mask) if name else None, lease)
    return future
