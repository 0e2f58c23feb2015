"""Names by content: they are for Dask's keys alone, and small arrays get theirs from Dask unless it is wrong there."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

from proxyfab.integrations.dask.link import Link
from proxyfab.integrations.dask.packing import MIDDLING
from proxyfab.integrations.dask.settings import Settings


class Nobody:
    """A client without futures."""

    futures = frozenset[str]()


def test_a_name_by_content_is_for_the_key_and_what_is_named_goes_along_as_it_is() -> None:
    link = Link(Nobody(), Settings(), None, graphs=False)
    seen: list[Any] = []

    def submit(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[1])
        return kwargs["key"]

    several = [b"x" * (1 << 21), "y" * MIDDLING, [np.arange(MIDDLING)]]
    keys = [link.submit(submit, len, (obj,), {}) for obj in several]
    assert all(one is other for one, other in zip(seen, several, strict=True))
    assert [link.submit(submit, len, (copy.deepcopy(obj),), {}) for obj in several] == keys
    assert len(set(keys)) == len(keys)


def test_small_arrays_are_not_looked_at_unless_dask_takes_one_for_its_transpose() -> None:
    link = Link(Nobody(), Settings(above=1 << 20), None, graphs=False)
    matrix = np.arange(10_000.0).reshape(100, 100)
    assert link.is_light(submitted, (matrix, 1), {"more": np.zeros(5000)})
    assert not link.is_light(submitted, (matrix.T,), {})
    assert not link.is_light(submitted, (np.zeros(1 << 17),), {})
    assert not Link(Nobody(), Settings(above=1 << 30), None, graphs=False).is_light(submitted, (np.zeros(1 << 17),), {})
    assert not link.is_light(submitted, (matrix.astype(object),), {})
    keys = {link.submit(lambda *_, key: key, submitted, (each,), {}) for each in (matrix, matrix.T)}
    assert len(keys) == 2


def submitted(*_: Any, **__: Any) -> None:
    """A task."""
