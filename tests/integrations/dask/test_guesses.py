"""What many small things weigh together: an answer only where all of them are small, and nothing of Dask's is there."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("distributed")

from dask._task_spec import TaskRef
from distributed import Future

from proxyfab.integrations.dask.guesses import in_table, is_record, together
from proxyfab.integrations.dask.node import Held
from proxyfab.integrations.dask.packing import Packing

ABOVE = 65_536
ARRAY = np.arange(ABOVE, dtype="u1")


class Holder:
    """Of a user's."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside


class Slotted:
    """Without attributes."""

    __slots__ = ("inside",)


class Silent(Holder):
    """What it is made of is not what it is pickled as."""

    def __getstate__(self) -> Any:
        return {"inside": ARRAY}


def dicts(each: list[Any]) -> list[Any]:
    return [{"a": one} for one in each]


@pytest.mark.parametrize("around", [list, tuple, dicts])
@pytest.mark.parametrize("odd", [ARRAY, TaskRef("x"), b"x" * 5000], ids=["large", "reference", "middling"])
def test_one_that_is_not_small_among_many_that_are_is_seen(around: Any, odd: Any) -> None:
    alike = [Holder([number, str(number)]) for number in range(50)]
    assert together(around(alike)) is not None
    assert together(around([*alike, odd])) is None
    assert together(around([*alike, Holder(odd)])) is None


@pytest.mark.parametrize("around", [list, tuple, dicts])
def test_a_large_one_among_small_ones_goes_by_reference_and_alone(around: Any) -> None:
    alike = [Holder([number, str(number)]) for number in range(50)]
    work = Packing(ABOVE)
    small = around(alike)
    assert work.one(small) is small
    work.one(around([*alike, Holder(ARRAY)]))
    assert [large.obj.inside is ARRAY for large in work.larges] == [True]


def test_long_lists_in_objects_count_by_a_part_of_them() -> None:
    assert 50 * 9 * 400 <= (together([Holder([1] * 400) for _ in range(50)]) or 0) <= 50 * 9 * 400 + 50 * 32
    work = Packing(ABOVE)
    assert type(work.one([Holder([1.5] * 4000) for _ in range(50)])) is Held


def test_classes_that_have_a_say_in_their_pickling_are_pickled_to_be_weighed() -> None:
    assert is_record(Holder)
    for kind in (Slotted, Silent, collections.OrderedDict, Future, TaskRef, type, pd.DataFrame):
        assert not is_record(kind)
    assert type(Packing(ABOVE).one(Silent(1))) is Held


def test_tables_of_words_are_weighed_by_a_part_of_them() -> None:
    words = pd.DataFrame({"a": ["12345"] * 9000, "b": np.arange(9000), "c": ["1"] * 9000}, dtype=object)
    words["b"] = words["b"].astype("i8")
    assert in_table(words) == 9000 * (8 + 8 + 4)
    assert in_table(words.assign(c=pd.Series([[1]] * 9000))) is None  # anything may be in there
    assert type(Packing(ABOVE).one(words)) is Held
    assert Packing(1 << 20).one(words) is words
