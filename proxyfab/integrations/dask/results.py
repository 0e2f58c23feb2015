"""`results="store"`: a task puts its large result into the store when it ends; what Dask holds and moves is a handle.

| name | what |
|---|---|
| `Stored` | a task whose result goes to the store |
| `Kept` | the handle; tasks get the object instead of it, and so does who gathers |
| `Taking` | a task of somebody else's, which gets objects in place of handles, too |
| `unkept(result)` | what a client gathered, with objects in place of handles |
| `handles_stay` | where a handle that arrives stays one: in workers, and while a client of ours gathers |

Promises: a result in the store survives its worker: the task that Dask runs again finds it there and does not compute
it again. Where a result cannot be stored (it does not pickle, the store is full or away) it stays in the worker, as
always with Dask. It is deleted with its key, also if that was forgotten while the task ran (`scheduler`). Whoever gets
a handle and knows nothing of handles, a plain client, gets the object as it is unpickled. What a worker on another host
than a store of shared memory returns stays in that worker, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any

from dask._task_spec import GraphNode, Task

from proxyfab.errors import KeyExists, KeyNotFound, ObjectLost, ProxyfabError, SerializationError
from proxyfab.integrations.dask.home import STORED, sight
from proxyfab.integrations.dask.loading import loaded
from proxyfab.keys import Key
from proxyfab.proxy import kind_of
from proxyfab.ref import Ref
from proxyfab.serialize import dumps
from proxyfab.store import Store, received_store

logger = logging.getLogger(__name__)
_complained: set[str] = set()
_workers = 0
handles_stay: ContextVar[Callable[[], None] | None] = ContextVar("handles_stay", default=None)
"""In a context whose handles stay: whom to tell that there was one."""


class Kept:
    """A task's result that lies in a store.

    Attributes:
        task: Dask's key of the task.
        ref: Where the object lies.
    """

    __slots__ = ("ref", "task")

    def __init__(self, task: Hashable, ref: Ref[Any]) -> None:
        self.task = task
        self.ref = ref

    def load(self) -> Any:
        """The object: real, private, writable.

        Raises:
            ObjectLost: It no longer lies there.
        """
        try:
            return loaded(self.ref)
        except ObjectLost:
            raise
        except KeyNotFound as error:
            raise ObjectLost(
                f"The result of {self.task!r} does not lie in {self.ref.url}: the store was cleared, its server "
                "restarted, or it is memory of a host that this process is not on. Compute it again."
            ) from error

    def __repr__(self) -> str:
        return f"<Kept {self.task!r}, {self.ref.nbytes} bytes in {self.ref.url}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return arrived, (self.task, self.ref)


def arrived(task: Hashable, ref: Ref[Any]) -> Any:
    """A handle that comes from elsewhere, or the object where nobody knows of handles."""
    told, kept = handles_stay.get(), Kept(task, ref)
    if told is not None:
        told()
    return kept if told is not None or _workers else kept.load()


def keep_handles(more: int) -> None:
    """A worker starts (1) in this process, or ends (-1)."""
    global _workers
    _workers += more


def may_be_inside(node: object) -> bool:
    """Whether this is a task around which another node may stand.

    Not one of a class of somebody's own: Dask's scheduler tells the barriers of P2P shuffles by theirs.
    """
    return isinstance(node, Task) and type(node).__module__ == Task.__module__


class Taking(GraphNode):  # type: ignore[misc]  # Dask has no types
    """A task that gets objects where those that it depends on have handles.

    Args:
        inner: The task.
    """

    inner: Any
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.key = inner.key  # type: ignore[misc]  # a slot of Dask's
        self.inner = inner
        self._dependencies = inner.dependencies  # type: ignore[misc]  # as above

    @property
    def is_coro(self) -> bool:
        return bool(self.inner.is_coro)

    @property
    def data_producer(self) -> bool:
        return bool(self.inner.data_producer)

    @property
    def block_fusion(self) -> bool:
        return True

    def __call__(self, values: Mapping[Hashable, Any] | tuple[()] = ()) -> Any:
        return self._call_async(values) if self.is_coro else self.inner(_unkept(values))

    async def _call_async(self, values: Mapping[Hashable, Any] | tuple[()]) -> Any:
        result = self.inner(await asyncio.to_thread(_unkept, values))
        return await result if inspect.isawaitable(result) else result

    def around(self, inner: Any) -> Taking:
        """The same for a changed task."""
        return type(self)(inner)

    def copy(self) -> Taking:
        return self.around(self.inner)

    def substitute(self, subs: Mapping[Any, Any], key: Any = None) -> Any:
        inner = self.inner.substitute(subs, key=key)
        return self if inner is self.inner else self.around(inner)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.inner!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.inner,)

    def __dask_tokenize__(self) -> Any:
        return self.inner.__dask_tokenize__()

    def __sizeof__(self) -> int:
        return int(self.inner.__sizeof__()) + 200


class Stored(Taking):
    """A task whose result goes to a store.

    Args:
        inner: The task.
        url: Of the store.
        home: The key of the result there, drawn for this task.
        above: Results of fewer bytes stay in the worker.
        where: Which shared memory the store is in (`home.sight`); of workers that do not see it results stay there.
    """

    url: str
    home: str
    above: int
    where: str
    __slots__ = ("above", "home", "url", "where")

    def __init__(self, inner: Any, url: str, home: str, above: int, where: str = "") -> None:
        super().__init__(inner)
        self.url = url
        self.home = home
        self.above = above
        self.where = where

    def __call__(self, values: Mapping[Hashable, Any] | tuple[()] = ()) -> Any:
        if self.is_coro:
            return self._call_async(values)
        found = self._found()
        return self._keep(super().__call__(values)) if found is None else found

    async def _call_async(self, values: Mapping[Hashable, Any] | tuple[()]) -> Any:
        found = await asyncio.to_thread(self._found)
        return await asyncio.to_thread(self._keep, await super()._call_async(values)) if found is None else found

    def _store(self) -> Store:
        return received_store(self.url)

    def _found(self) -> Kept | None:
        """The result, if an earlier run of this task put it."""
        try:
            stat = self._store().connector.stat(Key.parse(self.home))
        except ProxyfabError:
            return None
        return None if stat is None else Kept(self.key, Ref(self.url, Key.parse(self.home), nbytes=stat.nbytes))

    def _keep(self, result: Any) -> Any:
        """A handle of the result, which lies in the store now; the result itself if it cannot or need not lie there."""
        try:
            payload = dumps(result)
            if payload.nbytes < self.above or (self.where and self.where != sight()):
                return result
            key = Key.parse(self.home)
            with contextlib.suppress(KeyExists):  # another run of this task was faster
                self._store().put_payload(payload, key)
            self._tell(payload.nbytes)
            return Kept(self.key, Ref(self.url, key, nbytes=payload.nbytes, kind=kind_of(result)))
        except SerializationError:
            pass  # as with Dask: it lives where it is
        except ProxyfabError as error:
            if self.url not in _complained:
                _complained.add(self.url)
                logger.warning("proxyfab: results stay in this worker, as %s refuses them: %s", self.url, error)
        return result

    def _tell(self, nbytes: int) -> None:
        """Say to the scheduler what was put: it has it deleted if the key was forgotten meanwhile."""
        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:  # somebody calls the node himself
            return
        words = {"op": STORED, "task": self.key, "url": self.url, "key": self.home, "nbytes": nbytes}
        worker.loop.add_callback(worker.batched_send, words)

    def around(self, inner: Any) -> Stored:
        return Stored(inner, self.url, self.home, self.above, self.where)

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.inner, self.url, self.home, self.above, self.where)


async def unkept(result: Any) -> Any:
    """What a client gathered, with objects in place of handles: also of handles in lists, tuples, sets and dicts.

    Raises:
        ProxyfabError: An object is gone, or its store cannot be reached.
    """
    found = list(_kept_in(result))
    if not found:
        return result
    loads: list[Awaitable[Any]] = [asyncio.to_thread(kept.load) for kept in found]
    objects = dict(zip(map(id, found), await asyncio.gather(*loads), strict=True))
    return _replaced(result, objects)


def _unkept(values: Mapping[Hashable, Any] | tuple[()]) -> Any:
    """The values of a task's dependencies, with objects in place of handles."""
    if not isinstance(values, dict) or not any(_kept_in(value) for value in values.values()):
        return values
    found = [kept for value in values.values() for kept in _kept_in(value)]
    objects = {id(kept): kept.load() for kept in found}
    return {key: _replaced(value, objects) for key, value in values.items()}


_NESTS = (list, tuple, set, frozenset)


def _kept_in(value: Any) -> list[Kept]:
    if type(value) is Kept:
        return [value]
    kind = type(value)
    if kind in _NESTS:
        return [kept for each in value for kept in _kept_in(each)]
    return [kept for each in value.values() for kept in _kept_in(each)] if kind is dict else []


def _replaced(value: Any, objects: Mapping[int, Any]) -> Any:
    kind = type(value)
    if kind is Kept:
        return objects[id(value)]
    if kind in _NESTS:
        return kind(_replaced(each, objects) for each in value)
    return {name: _replaced(each, objects) for name, each in value.items()} if kind is dict else value
