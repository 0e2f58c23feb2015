"""Keeper: the scheduler's plugin. It owns the store where large arguments lie, and ends their lives with Dask's keys.

An object lives for as long as a client claims it or a task of the scheduler names it (`holdings`): also beyond the
task's end, since Dask may compute a task again until its key is forgotten. What is free is deleted by a thread of its
own (`janitor`). What a client put and never came to say anything of is swept up.

Promises: nothing that goes wrong here reaches the scheduler: every hook and handler catches, says so once, and goes on.
The store ends with the scheduler's process, however that ends.

Needs no line where a client brings it; `dask scheduler --preload proxyfab.integrations.dask.scheduler` has it from the
beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dask._task_spec import Alias
from distributed.diagnostics.plugin import SchedulerPlugin

from proxyfab import policy
from proxyfab.integrations.dask.dashboard import add_page
from proxyfab.integrations.dask.holdings import Holdings, Place
from proxyfab.integrations.dask.home import (
    CLAIM,
    GATHER,
    HELLO,
    MARK,
    MET,
    PLAIN,
    READ,
    RELEASE,
    STORED,
    Home,
    mark_of,
    sight,
    version,
)
from proxyfab.integrations.dask.janitor import Janitor
from proxyfab.integrations.dask.node import held_in
from proxyfab.integrations.dask.pace import CLUSTER, paced
from proxyfab.integrations.dask.results import Stored, Taking, may_be_inside
from proxyfab.integrations.dask.strangers import Strangers
from proxyfab.keys import Key
from proxyfab.spec import StoreSpec
from proxyfab.store import Store

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)
NAME = "proxyfab"
STATS = "proxyfab_stats"
SWEEP = 1.0
"""Seconds that an object of a client that is gone, and of which it said nothing, lies before it is deleted."""
LARGE = 1 << 20
"""Bytes from which on a client fetches a result itself: below, one word more would cost more than it spares."""
TELLING = frozenset(
    ("int", "float", "complex", "bool", "NoneType", "str", "bytes", "bytearray", "list", "tuple", "dict")
)
"""Types, besides those of `TABLES`, of whose size Dask knows enough."""
TABLES = ("numpy.", "pandas.", "pyarrow.")
ASK = 5.0
"""Seconds that workers have to say which version they have."""
H = TypeVar("H", bound=Callable[..., Any])
_said: set[str] = set()


def safely(hook: H) -> H:
    """A hook that never raises: of each, what goes wrong is logged once."""

    @functools.wraps(hook)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return hook(*args, **kwargs)
        except Exception:
            if hook.__name__ not in _said:
                _said.add(hook.__name__)
                logger.exception("proxyfab: %s failed; Dask goes on. It is not said again.", hook.__name__)

    return cast(H, guarded)


class Keeper(SchedulerPlugin):  # type: ignore[misc]  # Dask has no types
    """Register it on a scheduler: `client.register_plugin(Keeper())`; who comes second changes nothing."""

    name = NAME
    idempotent = True

    def __init__(self) -> None:
        """Nothing yet: it may be on its way to the scheduler. See `start`."""

    # -- hooks, called by the scheduler --------------------------------------------------------------------------

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.holdings = Holdings()
        self.janitor = Janitor()
        self._stores: dict[str | None, Store] = {}  # ours, by what clients asked for
        self._homes: dict[str, str | None] = {}  # what clients asked for, by mark, that have not said that they leave
        self._storing: set[str] = set()  # clients whose results lie in a store
        self._opening = asyncio.Lock()
        self._results: dict[Hashable, Place] = {}  # where tasks put, or will put, their results
        self._strangers = Strangers()
        self._ended = False
        scheduler.handlers.update(
            {HELLO: self.hello, GATHER: self.gather, READ: self.read, MET: self.met, STATS: self.stats}
        )
        scheduler.stream_handlers.update({CLAIM: self.claim, RELEASE: self.release, STORED: self.stored})
        for stream in scheduler.stream_comms.values():
            paced(stream, CLUSTER)
        add_page(scheduler, self.counts)

    @safely
    def update_graph(self, scheduler: Scheduler, *, client: str, tasks: Iterable[Hashable], **_: Any) -> None:
        if client not in self._storing and not self.holdings.claims(client) and not self._results:
            return  # nothing of ours is in a graph that nobody has announced: it costs nothing
        found = [scheduler.tasks[key] for key in tasks]
        stored = [task for task in found if isinstance(task.run_spec, Stored)]
        self._results.update({task.key: Place(task.run_spec.url, task.run_spec.home) for task in stored})
        for task in found:
            key, spec = task.key, task.run_spec
            if isinstance(spec, Stored):
                spec = spec.inner
            elif self._results and may_be_inside(spec) and any(map(self._may_be_handle, task.dependencies)):
                task.run_spec = Taking(spec)
            if not self.holdings.names(key):
                self.holdings.name(key, named_in(spec))

    def _may_be_handle(self, task: Any) -> bool:
        while isinstance(task.run_spec, Alias) and task.dependencies:
            [task] = task.dependencies
        return task.key in self._results

    @safely
    def transition(self, key: Hashable, start: str, finish: str, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if finish == "forgotten":
            if self.holdings.names(key):
                self.janitor.evict(self.holdings.forget(key))
            if key in self._results:
                self.janitor.evict([self._results.pop(key)], again=True)  # the task may still run, and put it

    @safely
    def restart(self, scheduler: Scheduler) -> None:  # noqa: ARG002 - Dask's
        self.janitor.evict(self.holdings.forget_all())
        self._forget_results()

    def _forget_results(self) -> None:
        self.janitor.evict(self._results.values(), again=True)
        self._results.clear()

    @safely
    def remove_client(self, scheduler: Scheduler, client: str) -> None:  # noqa: ARG002 - Dask's
        self.janitor.evict(self.holdings.leave(client))
        self._storing.discard(client)
        if self._ended:
            return
        mark = mark_of(client)
        if mark in self._homes:
            asyncio.get_running_loop().call_later(SWEEP, self.sweep_behind, mark, self._homes.pop(mark))
        if self.store is not None:
            asyncio.get_running_loop().call_later(2 * SWEEP, self.sweep, SWEEP)

    @safely
    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:  # noqa: ARG002 - Dask's
        self._strangers.goes(worker)
        self._reap_soon()

    @safely
    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        paced(scheduler.stream_comms[worker], CLUSTER)
        if NAME in scheduler.worker_plugins and not worker.startswith("inproc://"):
            self._strangers.waits(worker, scheduler.stream_comms[worker])
            asyncio.get_running_loop().call_later(ASK, self._strangers.late, worker)
        self._reap_soon()  # one that was killed late comes back at once

    def _reap_soon(self) -> None:
        """Workers have shared memory of their own, for transfers: that of a killed one is left to others."""
        if self.store is not None and not self._ended:
            asyncio.get_running_loop().call_later(SWEEP, self.reap)

    @safely
    def reap(self) -> None:
        """Take back what processes that were killed left in shared memory."""
        if self.store is not None and not self._ended:
            self.janitor.reap(self.store)

    async def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._strangers.forget()
            self.janitor.evict(self.holdings.end())
            self._forget_results()
            await asyncio.to_thread(self.janitor.end, self._close_stores)

    def _close_stores(self) -> None:
        for asked, store in self._stores.items():
            if store.url != asked:  # nobody else has this namespace
                store.clear()
            store.close()

    @property
    def store(self) -> Store | None:
        """The shared memory of ours; None until a client needs it."""
        return self._stores.get(None)

    # -- handlers, called by clients and workers -----------------------------------------------------------------

    async def hello(self, client: str, version: str, store: str | None = None, results: str = "transport") -> Any:  # noqa: ARG002
        """Where large objects go; with `error` where they cannot go anywhere."""
        try:
            async with self._opening:
                url = await asyncio.to_thread(self._home, store)
        except Exception as error:  # noqa: BLE001 - said to the client, which uses plain Dask then
            return Home("", "", _version()).words() | {"error": f"{type(error).__name__}: {error}"}
        self._homes[mark_of(client)] = store
        paced(self.scheduler.client_comms.get(client), CLUSTER)
        if results == "store":
            self._storing.add(client)
        return Home(url, sight(), _version(), await self._missing()).words()

    def _home(self, asked: str | None) -> str:
        store = self._stores.get(asked)
        if store is None:
            store = Store(inline_below=0) if asked is None else opened(asked)
            if store.url != asked:  # it is ours: say so there, or learn now why that cannot be
                store.evict(store.put(b""))
            self._stores[asked] = store
        return store.url

    async def _missing(self) -> tuple[str, ...]:
        """Workers that have no proxyfab, or another version; each is asked once. Who is busy is taken to have it."""
        from distributed.protocol.pickle import dumps

        versions = self._strangers.versions
        new = [address for address in self.scheduler.workers if address not in versions]
        if new:
            question = {"op": "run", "function": dumps(_version), "wait": True}
            asked = self.scheduler.broadcast(msg=question, workers=new, on_error="return")
            with contextlib.suppress(asyncio.TimeoutError):
                for address, said in (await asyncio.wait_for(asked, ASK)).items():
                    self._strangers.says(address, _told(said))
        mine = _version()
        return tuple(address for address in self.scheduler.workers if versions.get(address, mine) != mine)

    async def gather(self, keys: Collection[Hashable], serializers: list[str] | None = None) -> Any:
        """What a client waits for, as Dask answers; but of what may be large only who has it."""
        tasks = self.scheduler.tasks
        large = [task for key in keys if (task := tasks.get(key)) is not None and task.who_has and _may_be_large(task)]
        holders = {task.key: [worker.address for worker in task.who_has] for task in large}
        small = [key for key in keys if key not in holders]
        if not small:
            return {"status": "OK", "data": {}, "holders": holders}
        return {**await self.scheduler.gather(small, serializers=serializers), "holders": holders}

    async def read(self, url: str, key: str) -> Any:
        """The stored bytes of an object in our own store, for a worker that does not see it; None if there are none."""
        from distributed.protocol import to_serialize

        store = self.store
        frames = None if store is None or url != store.url else store.connector.get(Key.parse(key))
        if frames is None:
            return None
        return to_serialize(frames.views[0] if len(frames.views) == 1 else frames.join())

    @safely
    def claim(self, client: str, url: str, keys: Iterable[str]) -> None:
        """A client is about to put these, or to use them again."""
        self.holdings.claim(client, [Place(url, key) for key in keys])

    @safely
    def release(self, client: str, url: str, keys: Iterable[str], over: bool = False) -> None:
        """The graphs that name these have been sent; if it is `over`, the client has no others."""
        if over:
            self._homes.pop(mark_of(client), None)
        self.janitor.evict(self.holdings.release(client, [Place(url, key) for key in keys]))

    @safely
    def stored(self, worker: str, task: Hashable, url: str, key: str, nbytes: int) -> None:  # noqa: ARG002 - Dask's
        """A task's result was put; perhaps for a key that was forgotten meanwhile."""
        if self._results.get(task) != Place(url, key):
            self.janitor.evict([Place(url, key)])

    @safely
    def met(self, worker: str, version: str) -> None:
        """A worker has come. A stranger makes all clients plain ones; where results are stored it has to go."""
        if not self._strangers.says(worker, version):
            return
        why = f"a worker has come that has no proxyfab, or not {_version()}: {worker}; install it there"
        away = bool(self._storing or self._results)
        if away:  # what it got of these results it could not read
            self.scheduler.loop.add_callback(self.scheduler.retire_workers, [worker], close_workers=True, remove=True)
        for client, stream in self.scheduler.client_comms.items():
            if mark_of(client) in self._homes:
                stream.send({"op": PLAIN, "why": why, "away": away})

    async def stats(self) -> dict[str, float]:
        """Counts of what is held and what was done."""
        return self.counts()

    def counts(self) -> dict[str, float]:
        """`stats`, for who is in this process."""
        return {
            "objects": len(self.holdings),
            "results": len(self._results),
            "bytes": self.holdings.nbytes,
            "uses": self.holdings.uses,
            "evicted": self.janitor.evicted,
            "failures": self.janitor.failures,
        }

    @safely
    def sweep_behind(self, mark: str, asked: str | None) -> None:
        """Delete what a client has put that ended without a word, and that nobody has heard of; not if it is back."""
        store = self._stores.get(asked)
        if store is not None and not self._ended:
            held = self.holdings.ids() | {place.id for place in self._results.values()}
            self.janitor.sweep_marked(store, lambda id: mark in self._homes or id in held, mark)

    @safely
    def sweep(self, age: float) -> None:
        """Delete what lies unknown in our own store for so long: a client put it, did not claim it, and is gone."""
        store = self.store
        if store is not None and not self._ended:
            results = set(self._results.values())

            def known(place: Place) -> bool:
                return place.id[:MARK] in self._homes or place in self.holdings or place in results

            self.janitor.sweep(store, known, age)


def opened(url: str) -> Store:
    """A store of this process's own for a URL that came from elsewhere, as far as its policy allows it."""
    policy.check_store(url)
    spec = StoreSpec.parse(url)
    with policy.received():
        return Store(**{**spec._asdict(), "seal": spec.seal or None})


def named_in(spec: object) -> dict[Place, int]:
    """The objects that a task names, and how large they are."""
    return {Place(held.ref.url, str(held.ref.key)): held.ref.nbytes for held in held_in(spec) if held.ref.key}


def _may_be_large(task: Any) -> bool:
    """Whether a result is large, or of a type of whose size Dask knows nothing."""
    kind = task.type or ""
    return task.nbytes >= LARGE or not (kind in TELLING or kind.startswith(TABLES))


def _told(answer: Any) -> str:
    """What a worker answered, which the scheduler does not unpack on its own; `""` if it could not."""
    from distributed.protocol import Serialized, deserialize

    if not isinstance(answer, dict) or answer.get("status") != "OK":
        return ""
    result = answer["result"]
    return str(deserialize(result.header, result.frames) if isinstance(result, Serialized) else result)


_version = version


async def dask_setup(scheduler: Scheduler) -> None:
    """For `--preload`."""
    if NAME not in scheduler.plugins:
        keeper = Keeper()
        await keeper.start(scheduler)
        scheduler.add_plugin(keeper, name=NAME)
