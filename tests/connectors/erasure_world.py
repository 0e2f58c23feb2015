"""A world of its own for erasure://: one thread at a time, a clock that only goes on when all wait, and a seed.

Every thread that the code under test starts is a fibre of the world: a real thread, of which one runs at a time, and
who goes on is drawn at each step. So a run depends on nothing but its seed, and one that failed fails again.

Rules:
1. The code under test sees the world's clock, queues, locks and threads (`World.inside`), and nothing else is changed.
2. A step is where others may go on: each call of a child has one before it and one behind it. Between two steps nobody
   else runs.
3. The clock goes on when nobody can run, to when the first of those who wait for it is due; and a little at each step.
4. Who is killed (`World.kill`) raises `Killed` at his next step, and does nothing to any child any more.
"""

from __future__ import annotations

import threading
import time
from _queue import Empty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from proxyfab import exit as exits
from proxyfab import groups, keys, race
from proxyfab.beside import beside
from proxyfab.connectors import memory
from proxyfab.connectors.erasure import connector
from proxyfab.scattering import (
    asking,
    getting,
    means,
    members,
    moving,
    names,
    registers,
    restoring,
    roll,
    scattering,
    sending,
    upkeep,
)

_TIMED = (
    *(exits, groups, race, memory, connector, asking, getting, means, members, moving, names, registers, restoring),
    *(roll, scattering, sending, upkeep),
)
_TICK = 1e-5
_BEGAN = 1.8e9


class Killed(BaseException):
    """The process of this fibre is no more."""


class _Fibre:
    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self.call: Callable[[], object] | None = None
        self.owner = ""
        self.thread: threading.Thread | None = None
        self.due: float | None = None
        self.world: World | None = None


_idle: list[_Fibre] = []


def _work(fibre: _Fibre) -> None:
    while True:
        fibre.turn.acquire()
        world, call = fibre.world, fibre.call
        if world is None:
            return
        assert call is not None
        try:
            if not world.ended:
                call()
        except Killed:
            pass
        except BaseException as error:  # the world says so
            world.errors.append(error)
        fibre.world = fibre.call = call = None
        _idle.append(fibre)
        world.leave(fibre)


def end() -> None:
    """End the threads that wait for fibres to come."""
    while _idle:
        fibre = _idle.pop()
        fibre.turn.release()
        assert fibre.thread is not None
        fibre.thread.join()


class World:
    """One run.

    Args:
        seed: Of all that is drawn.

    Attributes:
        random: Draws for the model.
        errors: What fibres raised.
        steps: How many there were.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._who = Random(seed + 1)
        self._bytes = Random(seed + 2)
        self._stay = self.random.choice([0.0, 0.0, 0.5, 0.9, 0.98])
        self.now = 0.0
        self.steps = 0
        self.errors: list[BaseException] = []
        self.ended = False
        self._main = self._current = _Fibre()
        self._main.owner = "main"
        self._main.thread = threading.current_thread()
        self._ready: list[_Fibre] = [self._main]
        self._waiting: dict[_Fibre, None] = {}
        self._dead: set[str] = set()

    # -- who goes on -------------------------------------------------------------------------------------------------

    @property
    def owner(self) -> str:
        """Whose fibre this is."""
        return self._current.owner

    def spawn(self, call: Callable[[], object], owner: str | None = None) -> _Fibre:
        """Begin a fibre, of whoever begins it unless another owner is named."""
        if _idle:
            fibre = _idle.pop()
        else:
            fibre = _Fibre()
            fibre.thread = threading.Thread(target=_work, args=(fibre,), daemon=True, name="erasure-world")
            fibre.thread.start()
        fibre.world, fibre.call, fibre.due = self, call, None
        fibre.owner = self._current.owner if owner is None else owner
        self._ready.append(fibre)
        return fibre

    def step(self) -> None:
        """Somebody goes on."""
        self.steps += 1
        self.now += _TICK
        me = self._current
        if len(self._ready) > 1 and self._who.random() >= self._stay:
            self._pass(me, self._ready[self._who.randrange(len(self._ready))])
        self._alive(me)

    def wait(self, due: float | None) -> bool:
        """Wait until somebody wakes this fibre, or this time has come; whether it was woken."""
        me = self._current
        self._alive(me)
        me.due = due
        self._ready.remove(me)
        self._waiting[me] = None
        self._pass(me, self._next())
        woken = me.due is None or me.due != due
        self._alive(me)
        return woken

    def wake(self, fibre: _Fibre) -> None:
        """Have one who waits go on."""
        if fibre in self._waiting:
            del self._waiting[fibre]
            fibre.due = -1.0
            self._ready.append(fibre)

    @property
    def current(self) -> _Fibre:
        """The fibre that runs."""
        return self._current

    def sleep(self, seconds: float) -> None:
        """Wait for the clock."""
        self.wait(self.now + max(seconds, 0.0))

    def kill(self, owner: str) -> None:
        """End a process: all that it has under way."""
        self._dead.add(owner)
        for fibre in [one for one in self._waiting if one.owner == owner]:
            self.wake(fibre)

    def is_dead(self, owner: str) -> bool:
        """Whether a process was killed."""
        return owner in self._dead

    def _alive(self, me: _Fibre) -> None:
        if self.ended or me.owner in self._dead:
            raise Killed

    def _next(self) -> _Fibre:
        if not self._ready:
            due = [one for one in self._waiting if one.due is not None]
            if not due:
                raise AssertionError(f"Everybody waits for ever: {[one.owner for one in self._waiting]}.")
            first = min(due, key=lambda one: one.due or 0.0)
            self.now = max(self.now, first.due or 0.0)
            del self._waiting[first]
            self._ready.append(first)
        return self._ready[self._who.randrange(len(self._ready))]

    def _pass(self, me: _Fibre, to: _Fibre) -> None:
        if to is not me:
            self._current = to
            to.turn.release()
            me.turn.acquire()

    def leave(self, fibre: _Fibre) -> None:
        """A fibre has ended."""
        self._ready.remove(fibre)
        if self.ended:
            to = next((one for one in self._ready if one is not self._main), self._main)
        else:
            to = self._next()
        self._current = to
        to.turn.release()

    def run(self, main: Callable[[], None]) -> None:
        """All of it; in the end everybody who is left is killed."""
        with self.inside():
            try:
                main()
            finally:
                self.ended = True
                while len(self._ready) + len(self._waiting) > 1:
                    for fibre in list(self._waiting):
                        self.wake(fibre)
                    self._pass(self._main, next(one for one in self._ready if one is not self._main))
        if self.errors:
            raise self.errors[0]

    # -- what the code sees ------------------------------------------------------------------------------------------

    def _sleep(self, seconds: float) -> None:
        (self.sleep if self._ours() else time.sleep)(seconds)

    def _beside(self, call: Callable[[], object]) -> None:
        (self.spawn if self._ours() else beside)(call)

    def _ours(self) -> bool:
        """Whether this thread is a fibre's, and not one that another test has left."""
        return threading.current_thread() is self._current.thread

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The code under test sees this world."""
        clock = SimpleNamespace(
            monotonic=lambda: self.now,
            perf_counter=lambda: self.now,
            time=lambda: _BEGAN + self.now,
            time_ns=lambda: int((_BEGAN + self.now) * 1e9),
            sleep=self._sleep,
        )
        threads = SimpleNamespace(
            Thread=lambda target, **_: _Thread(self, target),
            Lock=lambda: _Lock(self),
            RLock=threading.RLock,
            get_ident=threading.get_ident,
        )
        with ExitStack() as stack:
            for module in _TIMED:
                assert module.time is time
                stack.enter_context(patch.object(module, "time", clock))
            change = [
                (exits, "threading", threads),
                (exits, "SimpleQueue", lambda: _Queue(self)),
                (exits, "_hook", lambda: None),
                (exits, "_running", {}),
                (race, "SimpleQueue", lambda: _Queue(self)),
                (race, "run_beside", self._beside),
                (scattering, "_begun", lambda work: _Begun(self, work)),
                (registers, "random", self._bytes),
                (members.Members.__init__, "__defaults__", (None, clock.monotonic)),
            ]
            for one, name, new in change:
                stack.enter_context(patch.object(one, name, new))
            for module in (keys, names, registers, connector):
                stack.enter_context(patch.object(module, "os", SimpleNamespace(urandom=self._bytes.randbytes)))
            yield


class _Queue:
    """Of `_queue.SimpleQueue` what is used."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._items: deque[Any] = deque()
        self._waits: deque[_Fibre] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waits:
            self._world.wake(self._waits.popleft())

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        due = None if timeout is None else self._world.now + timeout
        while not self._items:
            if not block or (due is not None and self._world.now >= due):
                raise Empty
            me = self._world.current
            self._waits.append(me)
            try:
                self._world.wait(due)
            finally:
                if me in self._waits:
                    self._waits.remove(me)
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(False)

    def empty(self) -> bool:
        return not self._items


class _Lock:
    """Of `threading.Lock` what is used."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._free = _Queue(world)
        self._free.put(None)

    def acquire(self, blocking: bool = True, timeout: float = -1.0) -> bool:
        try:
            self._free.get(blocking, None if timeout < 0 else timeout)
        except Empty:
            return False
        return True

    def release(self) -> None:
        self._free.put(None)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Thread:
    """Of `threading.Thread` what is used."""

    def __init__(self, world: World, target: Callable[[], object]) -> None:
        self._world = world
        self._target = target
        self._over = False

    def start(self) -> None:
        def run() -> None:
            try:
                self._target()
            finally:
                self._over = True

        self._world.spawn(run)

    def is_alive(self) -> bool:
        return not self._over


class _Begun:
    """A task that was begun (`background.Task`)."""

    def __init__(self, world: World, work: Callable[[], Any]) -> None:
        self._done = _Queue(world)

        def run() -> None:
            try:
                self._done.put((work(), None))
            except Killed:
                raise
            except BaseException as error:  # the one who waits raises it
                self._done.put((None, error))

        world.spawn(run)

    def result(self) -> Any:
        found = self._done.get()
        self._done.put(found)
        value, error = found
        if error is not None:
            raise error
        return value
