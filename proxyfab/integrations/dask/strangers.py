"""Strangers: workers that come when clients are at work by reference, and have no proxyfab, or another version of it.

| name | what |
|---|---|
| `introduced(settings)` | how the workers' plugin is pickled: it unpickles everywhere, and says what is there |
| `Strangers` | what the scheduler knows of who has come |
| `about()` | whether one is about: nodes of ours are pickled then as the objects that they stand for |

Promises: a worker without proxyfab starts as it does with plain Dask, and gets tasks that need nothing of ours. What a
worker that comes is sent waits until it has said what it is, which it does before it reads any of that: so nothing is
made an object in the scheduler for the sake of who is none.
"""

from __future__ import annotations

from typing import Any

from proxyfab.integrations.dask.home import MET, version

MADE = "proxyfab.integrations.dask.worker"
SAID = f"""
(
    lambda found, tell: __import__({MADE!r}, fromlist=["made"]).made(settings)
    if found == version
    else type(
        "Stranger",
        (__import__("distributed").WorkerPlugin,),
        {{"name": "proxyfab", "setup": lambda self, worker: tell(worker, found)}},
    )()
)(
    next((each.version for each in __import__("importlib.metadata").metadata.distributions(name="proxyfab")), "?")
    if __import__("importlib.util").util.find_spec("proxyfab")
    else "",
    lambda worker, found: worker.scheduler.{MET}(worker=worker.address, version=found),
)
"""
"""Of `settings` and `version`: our plugin, or one that but says which version there is, `""` for none."""
_about: set[tuple[int, str]] = set()


def introduced(settings: tuple[Any, ...]) -> tuple[Any, ...]:
    """For `__reduce__`: what becomes of a plugin with these settings depends on who unpickles it."""
    return eval, (SAID, {"settings": settings, "version": version()})


def about() -> bool:
    """Whether a worker of a scheduler in this process is a stranger, or may be one."""
    return bool(_about)


class _Waiting:
    """One of Dask's `BatchedSend`, which keeps what it is given until it is let go."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._comm: Any = None
        stream.start = self._start

    def _start(self, comm: Any) -> None:
        self._stream.comm = self._comm = comm

    def let_go(self) -> None:
        del self._stream.start
        if self._comm is not None:  # else it has yet to begin, and will at once
            self._stream.start(self._comm)


class Strangers:
    """Of one scheduler, for its event loop."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        """Of workers that have said theirs, by address."""
        self._waiting: dict[str, _Waiting] = {}

    def waits(self, worker: str, stream: Any) -> None:
        """It has registered, and will say what it is; what goes through `stream` waits for that."""
        self._waiting[worker] = _Waiting(stream)

    def late(self, worker: str) -> None:
        """It has had its time; if it has not said what it is, it may be a stranger."""
        if worker in self._waiting:
            self.comes(worker)

    def comes(self, worker: str) -> None:
        """It is a stranger, or may be one."""
        _about.add((id(self), worker))
        self._let_go(worker)

    def says(self, worker: str, its: str) -> bool:
        """Whether it is a stranger."""
        self.versions[worker] = its
        if its == version():
            self._goes(worker)
            return False
        self.comes(worker)
        return True

    def goes(self, worker: str) -> None:
        """It is gone."""
        self.versions.pop(worker, None)
        self._goes(worker)

    def forget(self) -> None:
        """All are gone."""
        for worker in [worker for mine, worker in _about if mine == id(self)]:
            self._goes(worker)
        for worker in tuple(self._waiting):
            self._goes(worker)
        self.versions.clear()

    def _goes(self, worker: str) -> None:
        _about.discard((id(self), worker))
        self._let_go(worker)  # also to one that goes: it may have been told to close

    def _let_go(self, worker: str) -> None:
        waiting = self._waiting.pop(worker, None)
        if waiting is not None:
            waiting.let_go()
