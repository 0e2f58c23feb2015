"""A function of each kind around a function of that kind: plain, generator, coroutine, asynchronous generator.

They are real functions with the name and signature of what they wrap, so that `inspect`, Dask, Parsl and type checkers
see what they know. This module's globals travel with them where dill takes functions by value: there are few, and all
of them pickle.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any

from proxyfab.patterns.crossing import Crossing

Function = Callable[..., Any]


def around(function: Function, crossing: Crossing) -> Function:
    """A function of the same kind whose arguments and results, or what it yields, cross."""
    if inspect.isasyncgenfunction(function):
        return _async_generator(function, crossing)
    if inspect.iscoroutinefunction(function):
        return _coroutine(function, crossing)
    if inspect.isgeneratorfunction(function):
        return _generator(function, crossing)
    return _plain(function, crossing)


def _plain(function: Function, crossing: Crossing) -> Function:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = crossing.enter(args, kwargs)
        return crossing.leave(function(*args, **kwargs))

    return call


def _coroutine(function: Function, crossing: Crossing) -> Function:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = await crossing.aenter(args, kwargs)
        return crossing.leave(await function(*args, **kwargs))

    return call


def _generator(function: Function, crossing: Crossing) -> Function:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = crossing.enter(args, kwargs)
        return crossing.leave((yield from yielded(function(*args, **kwargs), crossing.leave)))

    return call


def _async_generator(function: Function, crossing: Crossing) -> Function:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = await crossing.aenter(args, kwargs)
        items = function(*args, **kwargs)
        step, sent = items.asend, None
        try:
            while True:
                item = crossing.leave(await step(sent))
                try:
                    step, sent = items.asend, (yield item)
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the inner generator's to handle
                    step, sent = items.athrow, error
        except StopAsyncIteration:
            return
        finally:
            await items.aclose()

    return call


def yielded(items: Generator[Any, Any, Any], change: Callable[[Any], Any]) -> Generator[Any, Any, Any]:
    """`yield from items`, where each item is changed on its way out; what is sent, thrown and closed goes in."""
    step: Callable[[Any], Any] = items.send
    sent: Any = None
    try:
        while True:
            try:
                item = step(sent)
            except StopIteration as end:
                return end.value
            try:
                step, sent = items.send, (yield change(item))
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - it is the inner generator's to handle
                step, sent = items.throw, error
    finally:
        items.close()
