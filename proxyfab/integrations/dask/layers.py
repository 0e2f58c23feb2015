"""Graphs as Dask had them before 2025.4: layers of tasks, each with what is said of all of its tasks."""

from __future__ import annotations

import pickle
from collections.abc import Hashable
from typing import Any

from dask._task_spec import convert_legacy_graph
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer


def weighed(graph: Any) -> tuple[Any, int]:
    """The graph, and its bytes as it will be pickled."""
    from distributed.protocol.pickle import dumps

    buffers: list[pickle.PickleBuffer] = []
    stream = dumps(graph, buffer_callback=buffers.append)
    return graph, len(stream) + sum([buffer.raw().nbytes for buffer in buffers])


def materialized(graph: Any) -> tuple[dict[Hashable, Any], dict[str, dict[Hashable, Any]]]:
    """The tasks of a graph, and what is said of them by kind and key."""
    annotations: dict[str, dict[Hashable, Any]] = {}
    for layer in _layers(graph).values():
        for kind, said in (layer.annotations or {}).items():
            annotations.setdefault(kind, {}).update({key: said(key) if callable(said) else said for key in layer})
    return convert_legacy_graph(dict(graph)), annotations


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
    """None of a graph that is but a dict."""
    return graph.layers if isinstance(graph, HighLevelGraph) else {}
