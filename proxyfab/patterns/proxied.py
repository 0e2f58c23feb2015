"""`proxied`: a decorated function's large arguments and results travel by reference, whoever carries them.

    @proxied(store, above="100 KB")
    def analyse(image: np.ndarray) -> np.ndarray: ...

On a plain function, or under a task decorator, it acts where the function runs: results, and arguments that are handed
on, are stored when they are sent. Over a task decorator (`submitters`) it acts where the task is submitted, too. The
function keeps its name, its signature, its kind and its types.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from proxyfab.abc import check_ttl
from proxyfab.errors import ConfigurationError
from proxyfab.patterns import submitters
from proxyfab.patterns.crossing import Crossing
from proxyfab.patterns.passing import limits
from proxyfab.patterns.wishes import Wishes, skips_first
from proxyfab.patterns.wrapping import around
from proxyfab.store import Store, open_store

F = TypeVar("F")


def proxied(
    store: Store | str,
    *,
    above: int | str = "100 KB",
    args: bool = True,
    result: bool = True,
    lazy: bool = True,
    depth: int = 1,
    ttl: float | None = None,
) -> Callable[[F], F]:
    """A decorator under which large arguments and results travel by reference.

    It takes functions, coroutine functions, generators of both kinds, methods (also above `classmethod` and
    `staticmethod`), bound methods, `functools.partial`, and tasks: `dask.delayed`, Parsl's `python_app`, and whatever
    has `delay` or `apply_async` as Celery's tasks do.

    Args:
        store: Where large objects go: a Store or its URL. Where workers import the decorated function's module anew,
            give the store a name, or each worker makes one that ends with it.
        above: How large an object is, in bytes or as `"100 KB"`, that travels by reference. It is estimated, never
            serialized to find out.
        args: Whether arguments travel by reference. `Annotated[T, ByRef]` and `Annotated[T, ByValue]` decide for one.
        result: Whether results, and what generators yield, do.
        lazy: Whether the function gets proxies. With False it gets real objects, fetched just before the call.
        depth: How many levels of lists, tuples, dicts and dataclasses are searched for large objects.
        ttl: Seconds until what was stored expires; None for never.

    Raises:
        ConfigurationError: An argument makes no sense, or what is decorated cannot be called.
    """
    check_ttl(ttl)
    crossing = Crossing(
        store if isinstance(store, Store) else open_store(store), limits(above, depth), args, result, lazy, ttl
    )

    def decorate(function: F) -> F:
        return _decorated(function, crossing)  # type: ignore[no-any-return]  # it is what it was, as far as types go

    return decorate


def _decorated(function: Any, crossing: Crossing) -> Any:
    if isinstance(function, (classmethod, staticmethod)):
        inner = replace(_of(function.__func__, crossing), skip=int(isinstance(function, classmethod)))
        return type(function)(around(function.__func__, inner))
    task = submitters.over(function, crossing)
    if task is not None:
        return task
    if not callable(function) or inspect.isclass(function):
        raise ConfigurationError(f"{function!r} is no function; decorate the function or the task, not what holds it.")
    return around(function, _of(function, crossing))


def _of(function: Callable[..., Any], crossing: Crossing) -> Crossing:
    return replace(crossing, skip=int(skips_first(function)), wishes=Wishes(function))
