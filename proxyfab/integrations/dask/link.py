"""Link: what one client has with the scheduler's store, and how its calls go through it.

Promises: a call that cannot go by reference is made as plain Dask makes it, with one warning of each kind.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping
from operator import is_
from types import FunctionType
from typing import Any

import dask
import distributed
from dask.sizeof import sizeof
from dask.tokenize import tokenize
from dask.utils import funcname

from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask.guesses import LEAF, LENGTHS, NUMBERS, PLAINLY, together
from proxyfab.integrations.dask.keeping import Keeping
from proxyfab.integrations.dask.node import Told
from proxyfab.integrations.dask.packing import Packing
from proxyfab.integrations.dask.settings import Settings
from proxyfab.integrations.dask.sizes import hides
from proxyfab.ref import mode_of

logger = logging.getLogger("proxyfab.dask")

KEYWORD = 100_000
"""Bytes from which on Dask puts a keyword of `map` into the graph under its bare name, where it gets no priority."""
ARRAY = 1 << 20
"""Bytes from which on an array is named by us, so that tasks of it are the same for clients of other limits."""
GRAPH = 8
"""In graphs, literals of an eighth of what is large in a call go by reference: there are many of them."""
REST = 2.0
"""Seconds for which a store that refused something is not asked: one that cannot be reached takes long to say so."""
_NEVER = 1 << 62
PACKED, OURS_NOT = "packed", "not ours"
"""How far a call of Dask's has come that calls Dask's other methods."""


def _options(method: str) -> frozenset[str]:
    """What Dask's method takes besides the task's own arguments."""
    parameters = inspect.signature(getattr(distributed.Client, method)).parameters.values()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


class _Calls(threading.local):
    """How far the call of this thread has come."""

    stage: str | None = None


_OF = {"submit": _options("submit"), "map": _options("map")}


class Link:
    """Of one client. Thread-safe.

    Args:
        client: Whose calls these are.
        settings: What the user chose.
        keeping: Where large objects go; None where they go along, and only have names by content.
        graphs: Whether Dask is one whose graphs we know.
    """

    def __init__(self, client: Any, settings: Settings, keeping: Keeping | None, *, graphs: bool = True) -> None:
        self.client = client
        self.settings = settings
        self.keeping = keeping
        self._graphs = graphs and keeping is not None
        self._mode = "default" if keeping is None else mode_of(keeping.store.url)
        self.stores_results = settings.results == "store" and self._graphs
        """Whether results go to the store."""
        self._calls = _Calls()
        self._warned: set[str] = set()
        self._rests_until = 0.0
        self.fallbacks = 0

    # -- calls ---------------------------------------------------------------------------------------------------

    def submit(self, plain: Callable[..., Any], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`Client.submit`; `plain` is Dask's."""
        options = {name: kwargs.pop(name) for name in _OF["submit"].intersection(kwargs)} if kwargs else {}
        pure = options.get("pure", True) and not (options.get("actor") or options.get("actors"))
        packing = self._packing(told=pure and options.get("key") is None)
        try:
            function, before, named = packing.function(func) or (func, (), {})
            args2 = (*before, *packing.many(args))
            kwargs2 = {**named, **packing.named(kwargs)}
        except RecursionError:
            return self._packed(plain, func, *args, **kwargs, **options)
        if pure and options.get("key") is None and packing.finds:
            options["key"] = f"{funcname(func)}-{tokenize(function, kwargs2, *args2)}"
        if not packing.larges:  # what has a name by content was for the key alone
            return self._packed(plain, func, *args, **kwargs, **options)
        if function is not func and options.get("key") is None:
            options["key"] = f"{funcname(func)}-{uuid.uuid4()}"
        known = self._known(options.get("key"))
        if known is not None:
            return known
        pinned = self._filled(packing)
        if pinned is None:
            return self._packed(plain, func, *args, **kwargs, **options)
        future = None
        try:
            future = self._packed(plain, function, *args2, **kwargs2, **options)
        finally:
            self._sent(pinned, () if future is None else (future.key,))
        return future

    def map(self, plain: Callable[..., Any], func: Any, iterables: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`Client.map`; `plain` is Dask's."""
        options = {name: kwargs.pop(name) for name in _OF["map"].intersection(kwargs)} if kwargs else {}
        if _in_batches(iterables, options) or not all(map(_is_finite, iterables)):
            return plain(func, *iterables, **kwargs, **options)  # which calls us for each batch, or says what is wrong
        pure = options.get("pure", True) and not (options.get("actor") or options.get("actors"))
        packing = self._packing(told=pure and not isinstance(options.get("key"), list))
        shared = self._packing(told=True, above=KEYWORD)
        try:
            function, before, named = shared.function(func) or (func, (), {})
            lists = [_elements(packing, each) for each in iterables]
            kwargs2 = {name: _light(value, pure) for name, value in {**named, **shared.named(kwargs)}.items()}
        except RecursionError:
            return self._packed(plain, func, *iterables, **kwargs, **options)
        count = min(map(len, lists), default=0)
        packing.larges += shared.larges
        pinned = self._filled(packing)
        if pinned is None:
            return self._packed(plain, func, *iterables, **kwargs, **options)
        options["key"] = options.get("key") or funcname(func)
        futures = None
        try:
            futures = self._packed(plain, function, *([each] * count for each in before), *lists, **kwargs2, **options)
        finally:
            self._sent(pinned, () if futures is None else [future.key for future in futures])
        return futures

    def graph(
        self, plain: Callable[..., Any], expression: Any, keys: Iterable[Hashable], *args: Any, **kwargs: Any
    ) -> Any:
        """`Client._graph_to_futures`; `plain` is Dask's."""
        if self.keeping is None or not self._graphs or self._stage == OURS_NOT:
            return plain(expression, keys, *args, **kwargs)
        pinned: list[str] = []
        try:
            if self._stage is None:
                expression, pinned = self._lightened(expression)
            if self.stores_results and not kwargs.get("actors"):
                from proxyfab.integrations.dask.storing import stored  # not for every Dask

                expression = stored(expression, self.keeping, self.settings.above)
        except Exception as error:  # noqa: BLE001 - a graph that we do not understand is not for us to refuse
            self.complain("graph", f"A graph is sent by plain Dask, since it could not be made lighter: {error!r}")
        sent = False
        try:
            futures = plain(expression, keys, *args, **kwargs)
            sent = True
        finally:
            self._sent(pinned, keys if sent else ())
        return futures

    def is_light(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call of `submit` has nothing but plainly small things, of which nothing is to be made."""
        if self.stores_results or type(func) is not FunctionType or func.__closure__ or func.__defaults__:
            return False
        longest = self.settings.above if kwargs and kwargs.get("pure") is False else LEAF  # else it gets a name
        rest = []
        for each in (*args, *kwargs.values()) if kwargs else args:
            kind = type(each)
            if kind in NUMBERS or kind is distributed.Future:
                continue
            if (kind in LENGTHS and len(each) < longest) or self._is_small_array(each):
                continue
            rest.append(each)
        total = together(rest) if rest else 0
        return total is not None and total < self.settings.above // PLAINLY

    def _is_small_array(self, obj: Any) -> bool:
        """Whether it is an array that goes along, to which Dask gives a name as fast as we do.

        Not a matrix column by column: for Dask its name is that of its transpose.
        """
        kind = type(obj)
        if kind.__name__ != "ndarray" or kind.__module__ != "numpy":
            return False
        small = obj.nbytes < min(self.settings.above, ARRAY)
        return small and obj.flags.c_contiguous and not obj.dtype.hasobject

    def is_over(self) -> bool:
        """Whether a graph that this thread sends now needs no look of ours any more."""
        return self._calls.stage is not None and not self.stores_results

    def is_inside(self) -> bool:
        """Whether this thread is inside a call of Dask's that has been through us."""
        return self._stage is not None

    @property
    def _stage(self) -> str | None:
        return self._calls.stage

    @staticmethod
    def wanted() -> bool:
        """Whether the annotations that hold here leave it to us."""
        return dask.get_annotations().get("proxyfab") is not False

    def plainly(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of Dask's that is not for us."""
        calls = self._calls  # spelt out: this is what small calls cost
        before, calls.stage = calls.stage, OURS_NOT
        try:
            return plain(*args, **kwargs)
        finally:
            calls.stage = before

    def _packed(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of Dask's whose arguments have been looked at."""
        return self._inside(PACKED, plain, *args, **kwargs)

    def _inside(self, stage: str, plain: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        before = self._stage
        self._calls.stage = stage
        try:
            return plain(*args, **kwargs)
        finally:
            self._calls.stage = before

    def complain(self, kind: str, text: str) -> None:
        """One warning of each kind."""
        self.fallbacks += 1
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s It is not said again.", text)

    def tidy(self) -> None:
        """End claims that are not needed."""
        if self.keeping is not None:
            self.keeping.tidy(self.client.futures)

    def retire(self) -> bool:
        """Nothing more goes by reference; what does stays until its futures are gone. False of one that had retired."""
        retires = self._rests_until != math.inf
        self._graphs = self.stores_results = False
        self._rests_until = math.inf
        return retires

    def leave(self) -> None:
        """The client goes by plain Dask from now on."""
        if self.keeping is not None:
            self.keeping.leave()

    def stats(self) -> dict[str, int]:
        """What was put, what was found again by its content, and how often plain Dask had to do."""
        told = {"fallbacks": self.fallbacks}
        if self.keeping is not None:
            for name in ("put", "put_bytes", "found", "found_bytes"):
                told[name] = getattr(self.keeping, name)
            told["claimed"] = len(self.keeping)
        return told

    # -- inside --------------------------------------------------------------------------------------------------

    def _packing(self, *, told: bool, above: int = _NEVER) -> Packing:
        if self.keeping is None:
            return Packing(_NEVER, told=told)
        limit = min(self.settings.above, above)
        return Packing(limit, lazy=self.settings.lazy, told=told, mode=self._mode)

    def _filled(self, packing: Packing) -> list[str] | None:
        """Put what is large; None, with a warning, if that cannot be."""
        if self.keeping is None or not packing.larges:
            return []
        if time.monotonic() < self._rests_until:
            return None
        try:
            return self.keeping.fill(packing.larges, self.client.futures)
        except (ProxyfabError, OSError) as error:
            self._rests_until = time.monotonic() + REST
            self.complain("put", f"Large arguments are sent by plain Dask, since they could not be stored: {error}")
            return None

    def _known(self, key: Hashable) -> Any:
        """Another future of a task that has one, as Dask answers with; None of a task that has none.

        Not by Dask's own `submit`: it would look again, and the last future may have gone meanwhile.
        """
        with self.client._refcount_lock:
            return distributed.Future(key, self.client) if key in self.client.futures else None

    def _sent(self, pinned: list[str], keys: Iterable[Hashable]) -> None:
        if pinned and self.keeping is not None:
            self.keeping.sent(pinned, keys)

    def _lightened(self, expression: Any) -> tuple[Any, list[str]]:
        from proxyfab.integrations.dask import graphs  # not for every Dask

        light, nbytes = graphs.weighed(expression)
        light = expression if self.stores_results else light
        if nbytes < self.settings.above or self.keeping is None:
            return light, []
        tasks, annotations = graphs.materialized(expression)
        packing = self._packing(told=False, above=max(self.settings.above // GRAPH, 1))
        new = graphs.packed(tasks, packing, annotations.get("proxyfab", {}))
        pinned = self._filled(packing)
        if pinned is None or not (pinned or graphs.ONCE):
            return light, []
        return graphs.rewritten(expression, new, annotations), pinned


def _in_batches(iterables: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    size = options.get("batch_size") or 0
    return size > 1 and all(map(_is_finite, iterables)) and sum(map(len, iterables)) > size


def _is_finite(iterable: Any) -> bool:
    return hasattr(iterable, "__len__") and hasattr(iterable, "__iter__")


def _elements(packing: Packing, iterable: Any) -> Any:
    """The elements with nodes in place of large ones; the iterable itself where nothing is."""
    if isinstance(iterable, range) or (type(iterable) in (list, tuple) and set(map(type, iterable)) <= NUMBERS.keys()):
        return iterable
    new = packing.many(iterable)
    return iterable if all(map(is_, new, iterable)) else new


def _light(value: Any, pure: bool) -> Any:
    """A keyword of `map`, so that Dask leaves it in its place; with a name by content where that matters."""
    if sizeof(value) <= KEYWORD or hides(value):
        return value
    return Told(None, value, tokenize(value) if pure else uuid.uuid4().hex)
