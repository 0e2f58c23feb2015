"""FaultyConnector: a connector around a connector that counts, delays and fails on demand.

It claims its child's abilities and no others, so that code under test takes the same paths as with the child.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

from proxyfab import registry
from proxyfab.abc import Finding, Reclaimed, Stat, Status, Swap
from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.layers.base import Layer

R = TypeVar("R")


class FaultyConnector(Layer):
    """Passes everything on to `child`. Thread-safe. What it is told to do wrong applies from the next operation on.

    Args:
        child: Where the bytes lie; this connector closes it.
        delay: Seconds that each operation takes longer, as over a link.
        bandwidth: Bytes per second that puts and gets are held to; None for the child's own.
        jitter: Seconds that an operation takes longer still, at most: a different share each time.
        seed: Of those shares; the same operations in the same order are delayed alike.

    Attributes:
        calls: How often each operation was called, failed calls included.
        nbytes: Bytes moved by each operation.
    """

    def __init__(
        self, child: Any, *, delay: float = 0.0, bandwidth: float | None = None, jitter: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(child)
        self.delay = delay
        self.bandwidth = bandwidth
        self.jitter = jitter
        self.seed = seed
        self._random = random.Random(seed)
        self.calls: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self._lock = threading.Lock()
        on_fork(self)
        self._faults: list[_Fault] = []
        self._repeats: Counter[str] = Counter()
        self._gates: dict[str, threading.Event] = {}

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self._lock = threading.Lock()

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def fail(
        self,
        operation: str = "any",
        error: Callable[[], BaseException] = lambda: ConnectorError("The link broke, as the test wanted."),
        *,
        times: int = 1,
        after: int | None = None,
        done: bool = False,
    ) -> None:
        """Let the next `times` calls of `operation` (`"get"`, ...; `"any"`) raise.

        Args:
            operation: Which calls.
            error: Makes what is raised.
            times: How many.
            after: Bytes that move first: they are counted and take their time. A put that breaks off there has stored
                nothing, as with every connector.
            done: The child does its work, and only the answer is lost.
        """
        with self._lock:
            self._faults.append(_Fault(operation, error, times, after, done))

    def repeat(self, operation: str, *, times: int = 1) -> None:
        """Let the child be asked twice by the next `times` calls of `operation`, as by a link that sends again what
        arrived; the caller gets the second answer.
        """
        with self._lock:
            self._repeats[operation] += times

    def cut(self) -> None:
        """Let everything fail until `mend`."""
        self.fail(
            "any", lambda: ConnectorError(f"{self.spec} cannot be reached: the test has cut the link."), times=2**62
        )

    def mend(self) -> None:
        """Forget all faults, and let those through who wait at a gate."""
        with self._lock:
            self._faults.clear()
            for gate in self._gates.values():
                gate.set()
            self._gates.clear()

    def hold(self, operation: str) -> threading.Event:
        """Let callers of `operation` wait (for a minute at most) until the returned event is set."""
        with self._lock:
            return self._gates.setdefault(operation, threading.Event())

    def _call(
        self, operation: str, call: Callable[[], R], nbytes: int = 0, size: Callable[[R], int] | None = None
    ) -> R:
        """`call()`, with all that was told to go wrong; it moves `nbytes`, or `size` of its result."""
        with self._lock:
            self.calls[operation] += 1
            fault = self._fault(operation)
            gate = self._gates.get(operation)
            again = self._repeats[operation] > 0
            self._repeats[operation] -= again
            pause = self.delay + (self._random.uniform(0.0, self.jitter) if self.jitter else 0.0)
        if gate is not None:
            gate.wait(60)
        if pause:
            time.sleep(pause)
        if fault is not None and not fault.done:
            self._moved(operation, fault.after or 0)
            raise fault.error()
        self._moved(operation, nbytes)
        result = call()
        if again:
            result = call()
        if size is not None:
            self._moved(operation, size(result))
        if fault is not None:
            raise fault.error()
        return result

    def _fault(self, operation: str) -> _Fault | None:
        for index, fault in enumerate(self._faults):
            if fault.operation in ("any", operation) and fault.times > 0:
                self._faults[index] = fault._replace(times=fault.times - 1)
                return fault
        return None

    def _moved(self, operation: str, nbytes: int) -> None:
        if nbytes:
            with self._lock:
                self.nbytes[operation] += nbytes
            if self.bandwidth:
                time.sleep(nbytes / self.bandwidth)

    # -- what goes right ---------------------------------------------------------------------------------------------

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return not self.delay and not self.jitter and bool(self.child.local)

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        call = partial(super().put, frames, key=key, ttl=ttl, replace=replace)
        return self._call("put", call, frames.nbytes)

    def get(self, key: Key) -> Frames | None:
        return self._call("get", partial(super().get, key), size=_size)

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        return self._call("get_range", partial(super().get_range, key, offset, length), size=_size)

    def exists(self, key: Key) -> bool:
        return self._call("exists", partial(super().exists, key))

    def evict(self, key: Key) -> bool:
        return self._call("evict", partial(super().evict, key))

    def stat(self, key: Key) -> Stat | None:
        return self._call("stat", partial(super().stat, key))

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        return self._call("wait", partial(super().wait, key, timeout))

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        return self._call("wait_any", partial(super().wait_any, keys, timeout))

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        call = partial(super().put_many, many, keys=keys, ttl=ttl, replace=replace)
        return self._call("put_many", call, sum(frames.nbytes for frames in many))

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return self._call("get_many", partial(super().get_many, keys), size=lambda found: sum(map(_size, found)))

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return self._call("exists_many", partial(super().exists_many, keys))

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        return self._call("evict_many", partial(super().evict_many, keys))

    def clear(self) -> int:
        return self._call("clear", super().clear)

    def renew(self, key: Key, ttl: float | None) -> bool:
        return self._call("renew", partial(super().renew, key, ttl))

    def renew_many(self, keys: Sequence[Key], ttl: float | None) -> list[bool]:
        return self._call("renew_many", partial(super().renew_many, keys, ttl))

    def scan(self) -> Iterator[Stat]:
        return self._call("scan", super().scan)

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        return self._call("reap", partial(super().reap, dry_run=dry_run))

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        call = partial(super().compare_and_set, key, old, new, ttl=ttl)
        return self._call("compare_and_set", call, _size(new))

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        call = partial(super().compare_and_set_many, swaps)
        return self._call("compare_and_set_many", call, sum(_size(swap.new) for swap in swaps))

    def diagnose(self) -> Iterator[Finding]:
        return self._call("diagnose", super().diagnose)

    def status(self) -> Status:
        return self._call("status", super().status)

    def __reduce__(self) -> tuple[Any, ...]:
        kind = self.plain or type(self)
        return _rebuild, (kind, self.child, self.delay, self.bandwidth, self.jitter, self.seed)


@contextmanager
def faulty_layer() -> Iterator[None]:
    """Inside the block, of this process, `faulty+` may stand before a scheme; what it opens forgets it in its spec."""
    with patch.dict(registry._loaded, {("layers", "faulty"): FaultyConnector}):
        yield


class _Fault(NamedTuple):
    operation: str
    error: Callable[[], BaseException]
    times: int
    after: int | None
    done: bool


def _size(frames: Frames | None) -> int:
    return 0 if frames is None else frames.nbytes


def _rebuild(
    kind: type[FaultyConnector], child: Any, delay: float, bandwidth: float | None, jitter: float, seed: int
) -> FaultyConnector:
    return kind(child, delay=delay, bandwidth=bandwidth, jitter=jitter, seed=seed)
