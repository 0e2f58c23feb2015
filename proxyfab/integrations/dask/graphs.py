"""The pass over whole graphs, of collections and of those that were made by hand: large literals become nodes.

A graph is looked into only when it weighs enough. It is pickled once to know that, and then sent as it was pickled; one
that is too heavy is materialized here, as the scheduler would have done, and its large literals are replaced.

Promises: tasks of the user's graph are not changed, but copied; annotations and keys stay.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Hashable, Mapping
from typing import Any

from dask._expr import LLGExpr
from dask._task_spec import Alias, DataNode, GraphNode, Task, convert_legacy_graph, parse_input

from proxyfab.integrations.dask.node import Held, Told
from proxyfab.integrations.dask.packing import Packing


class Weighed:
    """A graph that is pickled already, and unpickles as what it was.

    Args:
        expression: What Dask would pickle.
    """

    def __init__(self, expression: Any) -> None:
        from distributed.protocol.pickle import dumps

        self._buffers: list[pickle.PickleBuffer] = []
        self._stream = dumps(expression, buffer_callback=self._buffers.append)
        self.nbytes = len(self._stream) + sum([buffer.raw().nbytes for buffer in self._buffers])

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickled, (self._stream, *self._buffers)


def unpickled(stream: bytes, *buffers: Any) -> Any:
    """A graph at the scheduler."""
    return pickle.loads(stream, buffers=buffers)


class Rewritten(LLGExpr):  # type: ignore[misc]  # Dask has no types
    """A materialized graph with the annotations that it had before it was."""

    _parameters = ["dsk", "annotations"]  # noqa: RUF012 - as Dask declares them

    def __dask_annotations__(self) -> dict[str, dict[Hashable, Any]]:
        return self.operand("annotations")  # type: ignore[no-any-return]  # Dask has no types


def materialized(expression: Any) -> tuple[dict[Hashable, Any], dict[str, dict[Hashable, Any]]]:
    """The tasks of a graph, and what is said of them by kind and key."""
    tasks = convert_legacy_graph(expression.__dask_graph__())
    return tasks, {kind: dict(said) for kind, said in expression.__dask_annotations__().items()}


def packed(tasks: Mapping[Hashable, Any], packing: Packing, spared: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The graph with nodes in place of its large literals; not in tasks for which `spared` says False."""
    return {key: node if spared.get(key) is False else _packed(node, packing) for key, node in tasks.items()}


def _packed(node: Any, packing: Packing) -> Any:
    if isinstance(node, (Alias, Held, Told)):
        return node
    if isinstance(node, DataNode):
        new = packing.one(node.value)
        return node if new is node.value else Task(node.key, same, parse_input(new), _data_producer=True)
    return _task(node, packing) if isinstance(node, Task) else node


def _task(node: Any, packing: Packing) -> Any:
    function = packing.function(node.func)
    func, before, named = function or (node.func, (), {})
    args = [_argument(arg, packing) for arg in node.args]
    kwargs = {name: _argument(arg, packing) for name, arg in node.kwargs.items()}
    same_args = all(new is old for new, old in zip(args, node.args, strict=True))
    if function is None and same_args and all(kwargs[name] is old for name, old in node.kwargs.items()):
        return node
    changed = copy.copy(node)
    changed.func = func
    changed.args = (*map(parse_input, before), *args)
    changed.kwargs = {**{name: parse_input(arg) for name, arg in named.items()}, **kwargs}
    changed._token = changed._repr = None
    return changed


def _argument(arg: Any, packing: Packing) -> Any:
    if isinstance(arg, GraphNode):
        return _packed(arg, packing)
    if type(arg) is dict and arg and all(isinstance(node, GraphNode) for node in arg.values()):  # of a fused task
        inner = {key: _packed(node, packing) for key, node in arg.items()}
        return arg if all(inner[key] is node for key, node in arg.items()) else inner
    new = packing.one(arg)
    return arg if new is arg else parse_input(new)


def same(value: Any) -> Any:
    """What a literal that was a node of its own becomes: a task that answers with it."""
    return value
