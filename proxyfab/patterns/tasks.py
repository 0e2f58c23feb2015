"""Task: a function as an executor's worker gets it, with what is to be done around it there.

Promises: where the process that submitted runs it itself (threads), nothing is stored and nothing is copied; elsewhere
a large result is put and travels back by reference, an exception arrives whatever it is, and the inputs of the task
that comes next begin to move while this one computes. A task without anything large costs microseconds.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, NamedTuple

from proxyfab import background
from proxyfab.keys import Key
from proxyfab.patterns.crossing import Crossing, ahead
from proxyfab.patterns.custody import Answer, Result, answering, is_kept_here
from proxyfab.patterns.parcel import unsent, wrapped
from proxyfab.patterns.passing import SMALL, Limits, Take, changed, once
from proxyfab.patterns.telling import travelling
from proxyfab.patterns.wishes import VALUE
from proxyfab.proxy import unwrap
from proxyfab.store import received_store

Coming = tuple[tuple[str, str], ...]
"""Keys of what the next task takes, by id and place."""


class Terms(NamedTuple):
    """What a task tells its worker, in plain values: they travel with every task."""

    url: str
    above: int
    depth: int
    lazy: bool
    home: str
    ttl: float | None
    result: str | None
    """How results travel: `"ref"`, `"value"`, or None: as their size says."""


class Task:
    """Calls a function for an executor.

    Args:
        function: What the user submitted.
        terms: How its arguments and results travel.
        many: Whether it is called with a list of arguments' tuples, for a list of results.
        by_name: Whether the executor's own pickles name functions, whichever they are, as those of the standard
            library do; the name is then looked up once in a worker.
    """

    __slots__ = ("__name__", "away", "by_name", "coming", "function", "many", "plain", "reduced", "terms")

    def __init__(self, function: Callable[..., Any], terms: Terms, many: bool = False, by_name: bool = False) -> None:
        self.function = function
        self.terms = terms
        self.many = many
        self.by_name = by_name
        self.away = False
        self.coming: Coming | None = None
        self.plain = terms.lazy and not many
        self.reduced: tuple[Any, ...] | None = None
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        reduced = self.reduced
        if reduced is None:
            reduced = self.reduced = self._reduced()
        return reduced

    def _reduced(self) -> tuple[Any, ...]:
        if self.by_name and type(self.function) is FunctionType:  # what carries state goes anew with every task
            try:
                return load_named, (pickle.dumps((self.function, self.many, *self.terms), 5),)
            except Exception:  # noqa: BLE001 - the executor tells, as it would without us
                pass
        return load_task, (self.function, self.many, *self.terms)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if not self.plain:
            return self._prepared(args, kwargs)
        answering.answer = None
        failed: BaseException
        try:
            result = self.function(*args, **kwargs)
        except BaseException as error:
            failed = travelling(error) if self.away else error
            if failed is error:
                raise
        else:
            return result if type(result) in SMALL else self._passed(result)
        raise failed  # not above, where it would have for its context what does not travel

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for id, where in self.coming or ():  # their store keeps what it fetched
            background.start(partial(_crossing(self.terms).store.fetch, Key(id, where)), f"Fetching {id} ahead")
        return self._each(*args) if self.many else self._alone(args, kwargs)

    def _alone(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.coming is not None:
            ahead((*args, *kwargs.values()))
        if not self.terms.lazy:
            args, kwargs = _crossing(self.terms).resolved(args, kwargs)
        return plainly(self)(*args, **kwargs)

    def _each(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        """One call after another; while one runs, the inputs of the next are fetched."""
        results = []
        for place, args in enumerate(calls):
            if self.coming is not None and place + 1 < len(calls):
                ahead(calls[place + 1])
            results.append(self._alone(args, {}))
        return results

    def _passed(self, result: Any) -> Any:
        terms = self.terms
        if self.away:
            answering.answer = Answer(terms.url, terms.home, terms.ttl, terms.result == VALUE)
        if terms.result == VALUE:
            return changed(result, terms.depth, self._brought)
        wrap = once(self._wrap)
        result = changed(result, terms.depth, once(partial(self._taken_over, wrap)))
        return _crossing(terms).passed(result, terms.result, wrap)

    def _taken_over(self, wrap: Take, proxy: Any) -> Any:
        """What a decorated function answered, and nobody was sent yet, goes with the future, too."""
        parcel = unsent(proxy)
        if parcel is not None:
            return wrap(parcel())
        brought = self._brought(proxy)
        return proxy if brought is proxy else wrap(brought)

    def _brought(self, proxy: Any) -> Any:
        """What another executor in this worker keeps, and lets go when this task is done, is taken out of its hands."""
        return unwrap(proxy) if self.away and is_kept_here(proxy, self.terms.home) else proxy

    def _wrap(self, result: Any) -> Any:
        terms = self.terms
        return wrapped(Result(result, _crossing(terms).store, terms.ttl, terms.home, self.away))


def plainly(task: Task) -> Task:
    """A task that only calls its function, whose arguments were prepared."""
    plain = Task(task.function, task.terms)
    plain.plain, plain.away = True, task.away
    return plain


def load_task(function: Callable[..., Any], many: bool, /, *terms: Any) -> Task:
    """Unpickle a Task."""
    task = Task(function, Terms._make(terms), many)
    task.away = True
    return task


def load_coming(loader: Callable[..., Task], state: tuple[Any, ...], coming: Coming) -> Task:
    """Unpickle a Task whose inputs are fetched ahead, and that names those of the next one."""
    known = loader(*state)
    task = Task(known.function, known.terms, known.many)
    task.away, task.plain, task.coming = True, False, coming
    return task


@lru_cache(256)
def load_named(pickled: bytes) -> Task:
    """Unpickle a Task of a function that goes by its name, which is looked up once."""
    return load_task(*pickle.loads(pickled))


@lru_cache(64)
def _crossing(terms: Terms) -> Crossing:
    return Crossing(received_store(terms.url), Limits(terms.above, terms.depth), lazy=terms.lazy, ttl=terms.ttl)
