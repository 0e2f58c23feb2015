"""Graphs as Dask had them before 2025.4: layers of tasks, each with what is said of all of its tasks."""

from __future__ import annotations

import pickle
from collections.abc import Hashable
from copy import copy
from typing import Any

from dask._task_spec import convert_legacy_graph
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

ONCE = False
"""Layers that the scheduler materializes are smaller on their way, and it culls nothing."""


def weighed(graph: Any) -> tuple[Any, int]:
    """The graph, and its bytes as it will be pickled."""
    from distributed.protocol.pickle import dumps

    buffers: list[pickle.PickleBuffer] = []
    stream = dumps(graph, buffer_callback=buffers.append)
    return graph, len(stream) + sum([buffer.raw().nbytes for buffer in buffers])


def materialized(graph: Any) -> tuple[dict[Hashable, Any], dict[str, dict[Hashable, Any]]]:
    """The tasks of a graph, and what is said of them by kind and key."""
    annotations: dict[str, dict[Hashable, Any]] = {}
    layers = _layers(graph)
    for layer in layers.values():
        for kind, said in (layer.annotations or {}).items():
            annotations.setdefault(kind, {}).update({key: said(key) if callable(said) else said for key in layer})
    tasks = {key: task for layer in layers.values() for key, task in layer.items()} if layers else dict(copy(graph))
    return convert_legacy_graph(tasks), annotations


def rewritten(
    graph: Any,
    tasks: dict[Hashable, Any],
    annotations: dict[str, dict[Hashable, Any]],  # noqa: ARG001 - they stay with their layers
) -> Any:
    """The same graph with other tasks."""
    layers = _layers(graph)
    if not layers:
        return tasks
    new = {
        name: MaterializedLayer({key: tasks[key] for key in layer}, annotations=layer.annotations)
        for name, layer in layers.items()
    }
    return HighLevelGraph(new, graph.dependencies)


def _layers(graph: Any) -> dict[str, Any]:
    """Copies, as Dask does not want those that it sent to be materialized; none of what is but a dict, or like one."""
    return {name: copy(layer) for name, layer in graph.layers.items()} if isinstance(graph, HighLevelGraph) else {}
