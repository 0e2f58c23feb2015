"""Line: the tasks that wait to be sent, so that each tells its worker which inputs come next.

Of workers that take tasks in turn, who has this one gets the one that stands as many places behind it as there are
workers. When a task is sent its successor's inputs are stored, and named in the message; a worker that guessed wrong
has fetched for its cache, and nothing is lost. Executors that send a task as soon as it is submitted leave no line.
"""

from __future__ import annotations

import threading
from typing import Any

from proxyfab.errors import ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.patterns.custody import Input
from proxyfab.patterns.tasks import Coming, Task, load_coming


class Line:
    """Thread-safe.

    Args:
        workers: How many take turns.
        largest: Bytes of the largest input that is worth fetching ahead; 0 for none at all.
    """

    def __init__(self, workers: int, largest: int) -> None:
        self.workers = workers
        self.largest = largest
        self._waiting: dict[int, Sent] = {}
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """Nobody holds the lock in a child."""
        self._lock = threading.Lock()

    def join(self, task: Sent) -> None:
        """It is submitted."""
        if self.largest:
            with self._lock:
                self._waiting[id(task)] = task

    def leave(self, task: Sent) -> Sent | None:
        """It is sent, or will never be; who comes next to the same worker."""
        if not self.largest:
            return None
        with self._lock:
            if self._waiting.pop(id(task), None) is None:
                return None
            for place, waiting in enumerate(self._waiting.values(), 1):
                if place == self.workers:
                    return waiting
        return None


class Sent(Task):
    """One message of a task whose inputs travel by reference.

    Args:
        task: What is called.
        inputs: What is stored for it.
        held: Proxies among its arguments, which live until it is done.
        line: Where it waits.
    """

    __slots__ = ("__weakref__", "held", "inputs", "line", "task")

    def __init__(self, task: Task, inputs: list[Input], held: list[Any], line: Line) -> None:
        super().__init__(task.function, task.terms, task.many, task.by_name)
        self.task = task
        self.inputs = inputs
        self.held = held
        self.line = line
        line.join(self)

    def __reduce__(self) -> tuple[Any, ...]:
        successor = self.line.leave(self)
        reduced = self.task.__reduce__()  # which remembers it
        if not self.line.largest:
            return reduced
        return load_coming, (*reduced, () if successor is None else successor.announced())

    def announced(self) -> Coming:
        """The keys of its inputs, which are stored now."""
        try:
            refs = [each.as_ref() for each in self.inputs]
        except ProxyfabError:
            return ()  # whoever sends it is told
        return tuple([(r.key.id, r.key.where) for r in refs if r.key is not None and r.nbytes <= self.line.largest])

    def done(self, _future: Any = None) -> None:
        """Its future is done: nobody needs the inputs any more."""
        self.line.leave(self)
        for each in self.inputs:
            each.release()
        self.inputs.clear()  # a future keeps its callbacks, and these keep the objects
        self.held.clear()
