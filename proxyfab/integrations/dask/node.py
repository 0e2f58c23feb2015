"""Held: what stands in a task's arguments in place of a large object, and becomes the object just before the task runs.

Client and scheduler pass it on without looking inside: it is a node of Dask's own graphs, whose call loads the object
in the thread that executes the task.

Promises: what a task gets is a real object of the exact type, private to it and writable, or, where the user asked for
it and the worker sees the store, a lazy proxy; two nodes of equal content have equal tokens, so that Dask's keys of
pure tasks are equal. One object that stands twice in a task's arguments is one object there, as far as weak references
to it can be had.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dask._task_spec import DataNode, GraphNode

from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask.loading import is_seen, loaded
from proxyfab.integrations.dask.strangers import about
from proxyfab.ref import Ref

Run = tuple[int, float]


class Held(GraphNode):  # type: ignore[misc]  # Dask has no types
    """A large object in a store.

    Args:
        key: Dask's name of the node, if it stands alone in a graph; None where it stands in a task's arguments.
        ref: Where the object lies.
        token: Of its content, or what the object's type has for that.
        lazy: Whether the task gets a proxy.
    """

    ref: Ref[Any]
    token: str
    lazy: bool
    _made: tuple[Run, Callable[[], Any]] | None
    __slots__ = ("_made", "lazy", "ref", "token")

    def __init__(self, key: Any, ref: Ref[Any] | None, token: str, lazy: bool = False) -> None:
        self.key = key  # type: ignore[misc]  # a slot of Dask's
        if ref is not None:  # else it is filled in before anybody else sees the node
            self.ref = ref
        self.token = token
        self.lazy = lazy
        self._made = None
        self._dependencies: frozenset[Any] = frozenset()  # type: ignore[misc]  # as above

    @property
    def nbytes(self) -> int:
        """Of the object, as stored."""
        return self.ref.nbytes

    @property
    def data_producer(self) -> bool:
        return True

    def __call__(self, values: object = ()) -> Any:  # noqa: ARG002 - it needs none
        if self.lazy and is_seen(self.ref):
            return self.ref.proxy()
        run = _run()
        if run is not None and self._made is not None and self._made[0] == run:
            obj = self._made[1]()
            if obj is not None:
                return obj
        obj = loaded(self.ref)
        self._made = None if run is None else (run, _weakly(obj))
        return obj

    def copy(self) -> Held:
        return Held(self.key, self.ref, self.token, self.lazy)

    def substitute(self, subs: Mapping[Any, Any], key: Any = None) -> Held:  # noqa: ARG002 - it needs nothing
        return self if key is None or key == self.key else Held(key, self.ref, self.token, self.lazy)

    def __repr__(self) -> str:
        return f"<Held {self.token}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if about():  # this is the scheduler; who gets this may not know us
            with contextlib.suppress(ProxyfabError):  # told by who looks for it, and knows us
                return DataNode, (self.key, loaded(self.ref))
        return Held, (self.key, self.ref, self.token, self.lazy)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "proxyfab", self.token

    def __sizeof__(self) -> int:
        return 300


class Told(GraphNode):  # type: ignore[misc]  # Dask has no types
    """A value that comes along, with a name for its content, so that nobody looks at all of it to make a key.

    Args:
        key: As of Held.
        value: Itself.
        token: Of its content.
    """

    value: Any
    token: str
    __slots__ = ("token", "value")

    def __init__(self, key: Any, value: Any, token: str) -> None:
        self.key = key  # type: ignore[misc]  # as above
        self.value = value
        self.token = token
        self._dependencies: frozenset[Any] = frozenset()  # type: ignore[misc]  # as above

    @property
    def data_producer(self) -> bool:
        return True

    def __call__(self, values: object = ()) -> Any:  # noqa: ARG002 - it needs none
        return self.value

    def copy(self) -> Told:
        return Told(self.key, self.value, self.token)

    def substitute(self, subs: Mapping[Any, Any], key: Any = None) -> Told:  # noqa: ARG002 - it needs nothing
        return self if key is None or key == self.key else Told(key, self.value, self.token)

    def __repr__(self) -> str:
        return f"<Told {type(self.value).__qualname__} {self.token}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (DataNode, (self.key, self.value)) if about() else (Told, (self.key, self.value, self.token))

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "proxyfab", self.token  # as of a Held of the same content: whoever has another limit gets the same key

    def __sizeof__(self) -> int:
        return 300  # Dask would put a larger keyword of `map` into the graph under its bare name, and fail


def _run() -> Run | None:
    """Which run of which task this thread is in: one that is tried again must not find what the first try changed."""
    from distributed.worker import thread_state

    began = getattr(thread_state, "start_time", None)
    return None if began is None else (threading.get_ident(), began)


def _weakly(obj: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(obj)
    except TypeError:
        return lambda: None


def held_in(spec: object) -> Iterator[Held]:
    """All nodes of this kind in a task, however deep they stand in its arguments."""
    if type(spec) is Held:
        yield spec
        return
    for each in _inside(spec):
        yield from held_in(each)


def _inside(spec: object) -> Iterable[object]:
    """What a node, or a container in its arguments, has inside."""
    if isinstance(spec, GraphNode):
        return (*getattr(spec, "args", ()), *getattr(spec, "kwargs", {}).values())
    if isinstance(spec, dict):  # the inner tasks of a fused one
        return spec.values()
    return spec if isinstance(spec, (list, tuple, set, frozenset)) else ()
