"""FaultyConnector: a connector around a connector that counts, delays and fails on demand.

It claims its child's abilities and no others, so that code under test takes the same paths as with the child.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from proxyfab.abc import Finding, Reclaimed, Stat, Status
from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.layers.base import Layer


class FaultyConnector(Layer):
    """Passes everything on to `child`. Thread-safe. What it is told to do wrong applies from the next operation on.

    Args:
        child: Where the bytes lie; this connector closes it.
        delay: Seconds that each operation takes longer, as over a link.
        bandwidth: Bytes per second that puts and gets are held to; None for the child's own.

    Attributes:
        calls: How often each operation was called, failed calls included.
        nbytes: Bytes moved by each operation.
    """

    def __init__(self, child: Any, *, delay: float = 0.0, bandwidth: float | None = None) -> None:
        super().__init__(child)
        self.delay = delay
        self.bandwidth = bandwidth
        self.calls: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self._lock = threading.Lock()
        on_fork(self)
        self._faults: list[tuple[str, Callable[[], BaseException], int]] = []
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
    ) -> None:
        """Let the next `times` calls of `operation` (`"get"`, ...; `"any"`) raise before they reach the child."""
        with self._lock:
            self._faults.append((operation, error, times))

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

    def _step(self, operation: str, nbytes: int = 0) -> None:
        with self._lock:
            self.calls[operation] += 1
            error = self._fault(operation)
            gate = self._gates.get(operation)
        if gate is not None:
            gate.wait(60)
        if self.delay:
            time.sleep(self.delay)
        if error is not None:
            raise error
        self._moved(operation, nbytes)

    def _fault(self, operation: str) -> BaseException | None:
        for index, (which, error, times) in enumerate(self._faults):
            if which in ("any", operation) and times > 0:
                self._faults[index] = which, error, times - 1
                return error()
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
        return not self.delay and bool(self.child.local)

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        self._step("put", frames.nbytes)
        return self.child.put(frames, key=key, ttl=ttl, replace=replace)  # type: ignore[no-any-return]

    def get(self, key: Key) -> Frames | None:
        self._step("get")
        frames: Frames | None = self.child.get(key)
        self._moved("get", 0 if frames is None else frames.nbytes)
        return frames

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        self._step("get_range")
        frames: Frames | None = self.child.get_range(key, offset, length)
        self._moved("get_range", 0 if frames is None else frames.nbytes)
        return frames

    def exists(self, key: Key) -> bool:
        self._step("exists")
        return bool(self.child.exists(key))

    def evict(self, key: Key) -> bool:
        self._step("evict")
        return bool(self.child.evict(key))

    def stat(self, key: Key) -> Stat | None:
        self._step("stat")
        return self.child.stat(key)  # type: ignore[no-any-return]

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        self._step("wait")
        return bool(self.child.wait(key, timeout))

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        self._step("put_many", sum(frames.nbytes for frames in many))
        return list(self.child.put_many(many, keys=keys, ttl=ttl, replace=replace))

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        self._step("get_many")
        found: list[Frames | None] = self.child.get_many(keys)
        self._moved("get_many", sum(frames.nbytes for frames in found if frames is not None))
        return found

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        self._step("exists_many")
        return list(self.child.exists_many(keys))

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        self._step("evict_many")
        return list(self.child.evict_many(keys))

    def clear(self) -> int:
        self._step("clear")
        return int(self.child.clear())

    def renew(self, key: Key, ttl: float | None) -> bool:
        self._step("renew")
        return super().renew(key, ttl)

    def scan(self) -> Iterator[Stat]:
        self._step("scan")
        return super().scan()

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        self._step("reap")
        return super().reap(dry_run=dry_run)

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        self._step("compare_and_set", 0 if new is None else new.nbytes)
        return super().compare_and_set(key, old, new, ttl=ttl)

    def diagnose(self) -> Iterator[Finding]:
        self._step("diagnose")
        return super().diagnose()

    def status(self) -> Status:
        self._step("status")
        return super().status()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.plain or type(self), self.child, self.delay, self.bandwidth)


def _rebuild(kind: type[FaultyConnector], child: Any, delay: float, bandwidth: float | None) -> FaultyConnector:
    return kind(child, delay=delay, bandwidth=bandwidth)
