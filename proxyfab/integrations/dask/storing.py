"""The pass over graphs whose results go to the store: every task is told where to put what it returns."""

from __future__ import annotations

from typing import Any

from proxyfab.integrations.dask.graphs import materialized, rewritten, same
from proxyfab.integrations.dask.keeping import Keeping
from proxyfab.integrations.dask.results import Stored, may_be_inside


def stored(expression: Any, keeping: Keeping, above: int) -> Any:
    """A graph as it should be sent, so that results of its tasks of `above` bytes or more go to its store.

    Not those of tasks annotated by `proxyfab=False`. It is materialized here, as the scheduler would have done.
    """
    tasks, annotations = materialized(expression)
    spared = annotations.get("proxyfab", {})
    for key, node in tasks.items():
        if may_be_inside(node) and node.key == key and node.func is not same and spared.get(key) is not False:
            tasks[key] = Stored(node, keeping.store.url, str(keeping.reserve()), above, keeping.where)
    return rewritten(expression, tasks, annotations)
