"""Graphs as Dask has them from 2025.4 on: expressions, of which the scheduler makes tasks."""

from __future__ import annotations

import pickle
from collections.abc import Hashable
from typing import Any

from dask._expr import LLGExpr
from dask._task_spec import convert_legacy_graph

ONCE = True
"""Materializing is most of what a graph costs: it is sent as what it became, and the scheduler need not do it again."""


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


def weighed(graph: Any) -> tuple[Any, int]:
    """What to send in place of a graph that was pickled to be weighed, and its bytes."""
    sent = Weighed(graph)
    return sent, sent.nbytes


def materialized(graph: Any) -> tuple[dict[Hashable, Any], dict[str, dict[Hashable, Any]]]:
    """The tasks of a graph, and what is said of them by kind and key."""
    tasks = convert_legacy_graph(graph.__dask_graph__())
    return tasks, {kind: dict(said) for kind, said in graph.__dask_annotations__().items()}


def rewritten(
    graph: Any,  # noqa: ARG001 - those of other versions need it
    tasks: dict[Hashable, Any],
    annotations: dict[str, dict[Hashable, Any]],
) -> Any:
    """The same graph with other tasks."""
    return Rewritten(tasks, annotations)
