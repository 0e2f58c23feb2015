"""FaultyConnector: a connector around a connector that counts, delays and fails on demand.

It claims its child's abilities and no others, so that code under test takes the same paths as with the child.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from proxyfab.abc import BaseConnector, Reclaimed, Stat, SupportsLease, SupportsReap, SupportsScan
from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError
from proxyfab.fork import on_fork
from proxyfab.keys import Key

_MOVES = ("put", "get", "get_range", "put_many", "get_many")


class FaultyConnector(BaseConnector):
    """Passes everything on to `child`. Thread-safe. What it is told to do wrong applies from the next operation on.

    Args:
        child: Where the bytes lie; this connector closes it.
        delay: Seconds that each operation takes longer, as over a link.
        bandwidth: Bytes per second that puts and gets are held to; None for the child's own.

    Attributes:
        calls: How often each operation was called, failed calls included.
        nbytes: Bytes moved by each operation.
    """

    plain: ClassVar[type[FaultyConnector] | None] = None
    """The class without the child's abilities; None in that class itself."""

    def __new__(cls, child: Any, **_: Any) -> FaultyConnector:
        """An instance of a class that has what the child has."""
        abilities = tuple(ability for ability in _PARTS if isinstance(child, ability))
        plain = cls.plain or cls
        if (plain, abilities) not in _made:
            parts = (*(_PARTS[ability] for ability in abilities), plain)
            _made[plain, abilities] = type(plain.__name__, parts, {"__module__": plain.__module__, "plain": plain})
        return super().__new__(_made[plain, abilities])

    def __init__(self, child: Any, *, delay: float = 0.0, bandwidth: float | None = None) -> None:
        self.child = child
        self.delay = delay
        self.bandwidth = bandwidth
        self.calls: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.scheme = child.scheme  # type: ignore[misc]  # a wrapper's scheme is its child's
        self.checksums = child.checksums  # type: ignore[misc]  # and so is this
        self.local = child.local and not delay
        self.wait_bound = child.wait_bound
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
    def spec(self) -> str:
        return str(self.child.spec)

    @property
    def place(self) -> str:
        return str(self.child.place)

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

    def reserve(self) -> Key:
        return self.child.reserve()  # type: ignore[no-any-return]  # no operation of the backend

    def clear(self) -> int:
        self._step("clear")
        return int(self.child.clear())

    def close(self) -> None:
        self.child.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.plain, self.child, self.delay, self.bandwidth)


def _rebuild(kind: type[FaultyConnector], child: Any, delay: float, bandwidth: float | None) -> FaultyConnector:
    return kind(child, delay=delay, bandwidth=bandwidth)


class _Leases(FaultyConnector):
    def renew(self, key: Key, ttl: float | None) -> bool:
        self._step("renew")
        return bool(self.child.renew(key, ttl))


class _Scans(FaultyConnector):
    def scan(self) -> Iterator[Stat]:
        self._step("scan")
        return iter(self.child.scan())


class _Reaps(FaultyConnector):
    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        self._step("reap")
        return list(self.child.reap(dry_run=dry_run))


_made: dict[tuple[type, tuple[Any, ...]], type] = {}
_PARTS: dict[Any, type] = {SupportsLease: _Leases, SupportsReap: _Reaps, SupportsScan: _Scans}
