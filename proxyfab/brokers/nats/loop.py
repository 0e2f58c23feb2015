"""The event loop of this process's NATS connections: one thread, there while anybody holds it.

Promises: a call from another thread crosses once, however much it does. The thread ends with its last holder. A forked
child has a loop of its own: what it inherited is put out of use without the parent noticing, and kept, so that nothing
of it is collected there.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from proxyfab.errors import ConnectorError
from proxyfab.fork import on_fork

T = TypeVar("T")
_GRACE = 15.0
"""Seconds beyond a call's own deadline after which the loop itself must be stuck."""
_END = 2.0
_inherited: list[object] = []


class Runner:
    """Runs coroutines of any thread in one of its own. Thread-safe and fork-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may end a broker
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._selector: selectors.DefaultSelector | None = None
        self.closers: set[Callable[[], Coroutine[Any, Any, None]]] = set()
        """What is to be done in the loop before it ends."""
        on_fork(self)

    def after_fork(self) -> None:
        """Let go of the parent's sockets: a copy would keep them open, and our epoll is his as well."""
        if self._selector is not None:
            _inherited.append((self._loop, self._thread, self._selector, self.closers))
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for number in [*self._selector.get_map(), self._selector.fileno()]:
                if isinstance(number, int):
                    os.dup2(nothing, number, inheritable=False)
            os.close(nothing)
        self._lock = threading.RLock()
        self._holders = 0
        self._loop = self._thread = self._selector = None
        self.closers = set()

    def hold(self) -> None:
        """Keep the loop running, once more."""
        with self._lock:
            self._holders += 1
            if self._loop is None:
                self._selector = selectors.DefaultSelector()
                self._loop = asyncio.SelectorEventLoop(self._selector)
                self._thread = threading.Thread(target=_work, args=(self._loop,), name="proxyfab-nats", daemon=True)
                self._thread.start()

    def release(self) -> None:
        """The inverse of `hold`; the last one ends the loop."""
        with self._lock:
            self._holders -= 1
            if self._holders > 0 or self._loop is None:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = self._selector = None
        loop.call_soon_threadsafe(loop.stop)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_END)

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """What a coroutine returns that keeps to a deadline of its own; it is cancelled when we are interrupted."""
        if threading.current_thread() is self._thread:  # collecting garbage may end anything here
            work.close()
            raise ConnectorError(
                "A finalizer that runs in the thread of the connections to NATS cannot wait for them; let it have "
                "another thread ask the broker."
            )
        with self._lock:  # before the loop is told to end, or not at all: nobody would answer behind that
            loop = self._loop
            future = None if loop is None else asyncio.run_coroutine_threadsafe(work, loop)
        if future is None:
            work.close()
            raise ConnectorError("The connection to NATS was closed; open a new broker.")
        try:
            return future.result(timeout + _GRACE)
        except TimeoutError:
            if future.cancel():
                raise ConnectorError(f"NATS was not heard of for {timeout + _GRACE:.0f} s.") from None
            raise
        except CancelledError:  # the last broker was closed
            raise ConnectorError("The connection to NATS was closed meanwhile; open a new broker.") from None
        except BaseException:  # an interrupt: nobody waits any more
            future.cancel()
            raise

    def post(self, call: Callable[..., object], *args: object) -> None:
        """Call this in the loop soon, and do not wait."""
        with self._lock:
            loop = self._loop
            if loop is not None:
                loop.call_soon_threadsafe(call, *args)
        if loop is None:
            raise ConnectorError("The connection to NATS was closed; open a new broker.")

    def end(self) -> None:
        """At exit: close what is open, so that servers know at once."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        try:
            for close in list(self.closers):
                asyncio.run_coroutine_threadsafe(close(), loop).result(_END)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_END)
        except Exception:  # noqa: BLE001 - the process ends, and the server will see that
            return


def _work(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


runner = Runner()
atexit.register(runner.end)
