"""Several threads at one piece of work whose heavy part runs without the interpreter's lock.

`each` does all of it. `line` hands over what was made, piece by piece, so that whoever stores one works while the next
ones are made.

Promises: the caller works too and waits for no thread that has not begun, so that busy background threads delay nobody;
the first error reaches the caller once all have stopped. What helpers of a line write to is memory of the line's alone:
whoever leaves it, interrupted at whichever instruction, has nobody writing behind his back where he stored.
"""

from __future__ import annotations

import os
import threading
from _queue import Empty, SimpleQueue  # as in `background`
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

from proxyfab import background

T = TypeVar("T")
WORTH = 8 << 20
"""Bytes below which handing work over costs more than it saves."""
_HELPERS = 3
"""At most, where there are so many cores."""
_AHEAD = 3
"""Pieces that each helper of a line may be ahead."""
_PATIENCE = 10.0


def each(call: Callable[[int], None], times: int, nbytes: int) -> None:
    """`call(0)`, ..., `call(times - 1)`, each once and in any order.

    Args:
        call: Safe to call from several threads at once.
        times: How many calls.
        nbytes: Roughly how many bytes one call handles.
    """
    helpers = _helpers(times, nbytes)
    if helpers:
        _Crew(call, times, helpers).run()
        return
    for number in range(times):
        call(number)


def line(
    make: Callable[[int, memoryview], T], times: int, nbytes: int, memory: Callable[[int], memoryview]
) -> Iterator[T]:
    """What `make(0, room)`, ..., `make(times - 1, room)` return, each once and in any order; over when the next one is
    asked for.

    Args:
        make: Fills memory of `nbytes` bytes and says with what. Safe to call from several threads at once.
        times: How many calls.
        nbytes: Bytes that one call needs.
        memory: Where so many bytes are to be had; nobody else may use them while the line lives.
    """
    helpers = _helpers(times, nbytes)
    rooms = 1 + helpers * _AHEAD
    block = memory(rooms * nbytes)
    cut = [block[number * nbytes : (number + 1) * nbytes] for number in range(rooms)]
    if not helpers:
        return (make(number, cut[0]) for number in range(times))
    return _Line(make, times, cut, helpers).run()


def _helpers(times: int, nbytes: int) -> int:
    """How many threads beside the caller's are worth it."""
    if times * nbytes < WORTH or times < 2:
        return 0
    return min(_HELPERS, times - 1, len(os.sched_getaffinity(0)) - 1)


class _Crew:
    def __init__(self, call: Callable[[int], None], times: int, helpers: int) -> None:
        self._call = call
        self._times = times
        self._helpers = helpers
        self._next = count()  # next() is one step under the interpreter's lock
        self._lock = threading.Lock()
        self._working: set[int] = set()
        self._over = False
        self._gate: threading.Lock | None = None
        self._errors: list[BaseException] = []

    def run(self) -> None:
        for _ in range(self._helpers):
            background.start(self._help, "Sealing")
        try:
            self._work()
        finally:
            gate = None
            with self._lock:
                self._over = True
                if self._working:
                    gate = self._gate = background.closed_gate()
            if gate is not None:
                gate.acquire()
        if self._errors:
            raise self._errors[0]

    def _help(self) -> None:
        with self._lock:
            if self._over:
                return
            self._working.add(threading.get_ident())
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._errors.append(error)
        finally:
            with self._lock:
                self._working.discard(threading.get_ident())
                if self._gate is not None and not self._working:
                    self._gate.release()

    def _work(self) -> None:
        try:
            while not self._errors and (number := next(self._next)) < self._times:
                self._call(number)
        except BaseException:
            self._next = count(self._times)  # nobody begins another one
            raise


class _Line(Generic[T]):
    """Helpers fill spare rooms; the caller hands over what is ready and else fills a room of his own."""

    def __init__(self, make: Callable[[int, memoryview], T], times: int, rooms: list[memoryview], helpers: int) -> None:
        self._make = make
        self._times = times
        self._own = rooms[0]
        self._helpers = helpers
        self._next = count()
        self._came: list[None] = []
        self._ready: SimpleQueue[tuple[T, memoryview] | BaseException | None] = SimpleQueue()
        """Pieces with their rooms, the error that ended a helper, None from each that leaves."""
        self._spare: SimpleQueue[memoryview | None] = SimpleQueue()
        for room in rooms[1:]:
            self._spare.put(room)

    def run(self) -> Iterator[T]:
        left = 0
        try:
            for _ in range(self._helpers):
                background.start(self._help, "Sealing")
            done = 0
            while done < self._times:
                found = self._take()
                if found is None:
                    left += 1
                    continue
                if isinstance(found, BaseException):
                    raise found
                piece, room = found
                yield piece
                done += 1
                if room is not self._own:
                    self._spare.put(room)
        finally:
            self._next = count(self._times)  # whoever comes now finds nothing to do
            for _ in range(self._helpers):
                self._spare.put(None)
            while left < len(self._came):  # they read what is the caller's
                left += self._ready.get() is None

    def _take(self) -> tuple[T, memoryview] | BaseException | None:
        try:
            return self._ready.get_nowait()
        except Empty:
            number = next(self._next)
        if number < self._times:
            return self._make(number, self._own), self._own
        return self._ready.get()

    def _help(self) -> None:
        self._came.append(None)
        try:
            while True:
                room = self._spare.get(timeout=_PATIENCE)  # the caller may have been interrupted before he could tell
                if room is None or (number := next(self._next)) >= self._times:
                    return
                self._ready.put((self._make(number, room), room))
        except Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._ready.put(error)
        finally:
            self._ready.put(None)
