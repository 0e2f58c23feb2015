"""Tasks that `proxied` stands over: Dask's delayed functions, Parsl's apps, and tasks like Celery's.

Rules:
1. Arguments cross where the task is submitted, so the framework carries references only.
2. The function inside is wrapped as well, in a copy of the task where the framework lets one be made, so that results
   cross back and `lazy=False` holds where the function runs.
3. A framework is known by what its objects look like; none is imported here.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from proxyfab.patterns.crossing import Crossing
from proxyfab.patterns.executor import ProxyExecutor
from proxyfab.patterns.tasks import Task
from proxyfab.patterns.wishes import Wishes
from proxyfab.patterns.wrapping import around


def over(task: Any, crossing: Crossing) -> Any:
    """`task` with crossing arguments and results; None when it is no task of a known kind."""
    module = type(task).__module__
    if module == "dask.delayed" and hasattr(task, "dask"):
        return _over_delayed(task, crossing)
    if module.startswith("parsl.") and hasattr(task, "func") and hasattr(task, "data_flow_kernel"):
        return _over_app(task, crossing)
    if hasattr(task, "apply_async") or hasattr(task, "delay"):
        return CeleryLike(task, crossing)
    return None


def _inner(function: Callable[..., Any], crossing: Crossing) -> Callable[..., Any]:
    """The function in a task: it takes what it is sent, and its results cross."""
    return around(function, replace(crossing, args=False, wishes=Wishes(function)))


def _over_delayed(task: Any, crossing: Crossing) -> Callable[..., Any]:
    from dask import delayed  # whose object this is

    function = getattr(task, "_obj", None)
    if function is None:  # the outcome of another task, which is called: it runs somewhere else, as it is
        return _submitting(task, task, crossing)
    inner = delayed(_inner(function, crossing), pure=getattr(task, "_pure", None), nout=getattr(task, "_nout", None))
    return _submitting(inner, function, crossing)


def _over_app(app: Any, crossing: Crossing) -> Callable[..., Any]:
    """Apps answer with futures: so what their tasks take and answer lives as an executor's does."""
    if getattr(app, "cache", False):
        _tell_memoizers()
    executor = ProxyExecutor(
        _App(app),
        crossing.store,
        above=crossing.limit.above,
        args=crossing.args,
        result=crossing.result,
        lazy=crossing.lazy,
        depth=crossing.limit.depth,
    )

    def submit(*args: Any, **kwargs: Any) -> Any:
        return executor.submit(app.func, *args, **kwargs)

    return functools.update_wrapper(submit, inspect.unwrap(app.func))


def _tell_memoizers() -> None:
    """What Parsl remembers of a task, it remembers of the function inside ours."""
    from parsl.dataflow.memoization import id_for_memo  # whose apps these are

    def of_task(task: Task, output_ref: bool = False) -> bytes:
        named: bytes = id_for_memo(task.function, output_ref=output_ref)
        return named

    id_for_memo.register(Task, of_task)


class _App(Executor):
    """A Parsl app as an executor: what is submitted is called in its function's place, with the app's own options."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        app = copy.copy(self._app)
        app.func = fn
        return app(*args, **kwargs)


def _submitting(task: Callable[..., Any], function: Any, crossing: Crossing) -> Callable[..., Any]:
    """A function that submits `task` with crossing arguments, and looks like the function inside."""
    outward = replace(crossing, wishes=Wishes(function))

    def submit(*args: Any, **kwargs: Any) -> Any:
        if crossing.args:
            args, kwargs = outward.send(args, kwargs)
        return task(*args, **kwargs)

    return functools.update_wrapper(submit, function)


class CeleryLike:
    """A task with `delay` and `apply_async`, whose arguments cross; everything else is the task's own.

    Args:
        task: Its `run`, where it has one, is replaced: a worker that imports the same module finds it by the task.
        crossing: How its function's arguments and results travel.
    """

    def __init__(self, task: Any, crossing: Crossing) -> None:
        function = getattr(task, "run", None) or task
        self._task = task
        self._crossing = replace(crossing, wishes=Wishes(function))
        functools.update_wrapper(self, function, updated=())
        if hasattr(task, "run"):
            task.run = _inner(task.run, crossing)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._send(args, kwargs)
        return self._task(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """The task's own, with crossing arguments."""
        args, kwargs = self._send(args, kwargs)
        return self._task.delay(*args, **kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """The task's own, with crossing arguments."""
        sent, named = self._send(tuple(args or ()), dict(kwargs or {}))
        return self._task.apply_async(sent, named, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_task":
            raise AttributeError(name)
        return getattr(self._task, name)

    def _send(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self._crossing.send(args, kwargs) if self._crossing.args else (args, kwargs)
