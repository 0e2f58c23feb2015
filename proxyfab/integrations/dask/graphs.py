"""The pass over whole graphs, of collections and of those that were made by hand: large literals become nodes.

A graph is looked into only when it weighs enough. It is pickled once to know that, and then sent as it was pickled; one
that is too heavy is materialized here, as the scheduler would have done, and its large literals are replaced.

Promises: tasks of the user's graph are not changed, but copied; annotations and keys stay.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from functools import partial
from importlib.util import find_spec
from inspect import signature
from typing import Any

from dask._task_spec import Alias, DataNode, GraphNode, Task, parse_input
from tlz import identity  # type: ignore[import-untyped]  # Dask brings it

from proxyfab.integrations.dask.node import Held, Told
from proxyfab.integrations.dask.packing import Packing

if find_spec("dask._expr"):
    from proxyfab.integrations.dask.expressions import ONCE, materialized, rewritten, weighed
else:
    from proxyfab.integrations.dask.layers import ONCE, materialized, rewritten, weighed

_PRODUCER: dict[str, Any] = {"_data_producer": True} if "_data_producer" in signature(Task.__init__).parameters else {}
"""What says of a task that it makes data; Dask before 2025.4 did not ask."""
same = partial(identity)
"""What a literal that was a node of its own becomes: a task that answers with it. Who gets it need not know us."""
__all__ = ["ONCE", "materialized", "packed", "rewritten", "same", "weighed"]


def packed(tasks: Mapping[Hashable, Any], packing: Packing, spared: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The graph with nodes in place of its large literals; not in tasks for which `spared` says False."""
    return {key: node if spared.get(key) is False else _packed(node, packing) for key, node in tasks.items()}


def _packed(node: Any, packing: Packing) -> Any:
    if isinstance(node, (Alias, Held, Told)):
        return node
    if isinstance(node, DataNode):
        new = packing.one(node.value)
        return node if new is node.value else Task(node.key, same, parse_input(new), **_PRODUCER)
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
