"""Hand: what a worker does for the transport, as a plugin of Dask's workers.

Promises: a worker that cannot take part works as it would without; when the plugin goes, or the worker ends, nothing of
it stays: neither in shared memory nor in Dask's configuration.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import dask
from distributed import WorkerPlugin
from tornado.ioloop import PeriodicCallback

from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask import family
from proxyfab.integrations.dask.home import MET, version
from proxyfab.integrations.dask.lent import lending
from proxyfab.integrations.dask.pace import CLUSTER, Paced, paced
from proxyfab.integrations.dask.results import keep_handles
from proxyfab.integrations.dask.settings import Settings
from proxyfab.integrations.dask.strangers import introduced

NAME = "proxyfab"
SIGHT = "proxyfab_sight"
"""The handler that tells what a worker sees (`family.Lane.sight`)."""
ANSWER = "get_data"
"""Dask's handler that others fetch results from."""
PRELOAD = "distributed.client.preload"
PACKAGE = "proxyfab.integrations.dask"
_EVERY = 2000  # ms


class Hand(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """Takes part in the transport, tells what it did, and has clients inside tasks do as the one outside.

    Args:
        settings: Of the client.
    """

    name = NAME
    idempotent = True

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._joined = False
        self._answers: tuple[Callable[..., Awaitable[Any]], ...] = ()
        self._before: dict[str, Any] = {}
        self._paced: Paced | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return introduced(tuple(self.settings))

    def setup(self, worker: Any) -> None:
        keep_handles(1)
        try:
            lane = family.join(worker.memory_manager.memory_limit or family.MEMORY)
        except (ProxyfabError, OSError) as error:
            warnings.warn(f"{worker.address} takes no part in shared memory: {error}", RuntimeWarning, stacklevel=2)
            return
        self._joined = True
        self._paced = paced(worker.batched_stream, CLUSTER)
        lane.announce(worker.rpc)
        worker.handlers[SIGHT] = lambda: lane.sight
        plain = worker.handlers[ANSWER]
        worker.handlers[ANSWER] = ours = lending(plain)
        self._answers = plain, ours
        worker.metrics[NAME] = lambda _worker: lane.told()
        sweeping = PeriodicCallback(lane.published.sweep, _EVERY)
        worker.periodic_callbacks[NAME] = sweeping
        sweeping.start()
        if not worker.address.startswith("inproc://"):  # there a client inside a task is the one outside
            self._enable_nested()

    def _enable_nested(self) -> None:
        preload = list(dask.config.get(PRELOAD, None) or [])
        if PACKAGE in preload:
            return
        self._before = {PRELOAD: preload, "proxyfab.dask": dask.config.get("proxyfab.dask", {})}
        dask.config.set({PRELOAD: [*preload, PACKAGE], "proxyfab.dask": self.settings._asdict()})

    def teardown(self, worker: Any) -> None:
        keep_handles(-1)
        if self._paced:
            self._paced.restore()
        if self._before:
            dask.config.set(self._before)
            self._before = {}
        sweeping = worker.periodic_callbacks.pop(NAME, None)
        if sweeping is not None:
            sweeping.stop()
        worker.metrics.pop(NAME, None)
        worker.handlers.pop(SIGHT, None)
        if self._answers and worker.handlers.get(ANSWER) is self._answers[1]:  # else somebody has wrapped it meanwhile
            worker.handlers[ANSWER] = self._answers[0]
        if self._joined:
            self._joined = False
            family.leave()


class Introduced(Hand):
    """One that has come to a worker, and says to the scheduler that it is there."""

    def setup(self, worker: Any) -> Any:
        super().setup(worker)
        return getattr(worker.scheduler, MET)(worker=worker.address, version=version())


def made(settings: tuple[Any, ...]) -> Hand:
    """The plugin, in a worker that has this very version."""
    return Introduced(Settings(*settings))
