"""Content tokens and the pass over arguments: what becomes a node, what stays the very object, and what it costs."""

from __future__ import annotations

import collections
import copy
import pickle
import time
import tracemalloc
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest

pytest.importorskip("distributed")

import dask
import pandas as pd
from dask._task_spec import TaskRef
from dask.tokenize import normalize_token, tokenize

from proxyfab.integrations.dask.contents import token_of
from proxyfab.integrations.dask.keeping import IDLE, Keeping
from proxyfab.integrations.dask.link import Link
from proxyfab.integrations.dask.loading import loaded, private
from proxyfab.integrations.dask.node import Held, Told, held_in
from proxyfab.integrations.dask.packing import MIDDLING, Packing
from proxyfab.integrations.dask.settings import Settings
from proxyfab.keys import Key
from proxyfab.osio.shared import default_root, shared_at
from proxyfab.serialize import dumps
from proxyfab.store import Store
from proxyfab.testing.content import held
from proxyfab.testing.processes import until

ABOVE = 64 * 1024
ARRAY = np.arange(ABOVE, dtype=np.uint8)
LARGE = np.zeros(1 << 17, dtype=np.uint8)
"""What goes to a segment."""
MUCH = 4_000_000
NUMBERS = np.arange(6)


class Holder:
    """Nothing that anybody has heard of."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside


class Future:
    """Somebody else's, that says so."""

    __dask_future__ = True
    key = "x"


def packing(**options: Any) -> Packing:
    return Packing(ABOVE, **options)


ALIKE = {
    "bytes": b"ab" * 6,
    "bytearray": bytearray(b"ab" * 6),
    "text": "ab" * 6,
    "int64": NUMBERS,
    "uint64": NUMBERS.view("u8"),
    "seconds": NUMBERS.view("M8[s]"),
    "milliseconds": NUMBERS.view("M8[ms]"),
    "durations": NUMBERS.view("m8[s]"),
    "float64": NUMBERS.view("f8"),
    "matrix": NUMBERS.reshape(2, 3),
    "transposed": np.asfortranarray(NUMBERS.reshape(2, 3)),
    "other matrix": NUMBERS.reshape(3, 2),
    "int32": NUMBERS.view("i4"),
    "big endian": NUMBERS.view(">i8"),
    "fields": NUMBERS.view([("a", "i8")]),
    "other fields": NUMBERS.view([("b", "i8")]),
    "record": NUMBERS.view(np.dtype((np.record, [("a", "i8")]))),
    "void": NUMBERS.view("V8"),
    "number": np.array(0),
    "one": np.array([0]),
    "bool": np.ones(3, bool),
    "uint8": np.ones(3, "u1"),
    "nothing": np.empty((0, 3)),
    "nothing else": np.empty((3, 0)),
    "words": np.array(["ab"]),
    "bytes in arrays": np.array([b"ab"]),
}


def test_objects_that_differ_in_type_description_or_order_have_different_tokens() -> None:
    tokens = {name: token_of(obj) for name, obj in ALIKE.items()}
    assert None not in tokens.values()
    assert [name for name, count in collections.Counter(tokens.values()).items() if count > 1] == []


@pytest.mark.parametrize("name", ALIKE)
def test_equal_objects_have_equal_tokens(name: str) -> None:
    assert token_of(ALIKE[name]) == token_of(copy.deepcopy(ALIKE[name]))


def test_how_an_array_lies_in_memory_is_not_its_content() -> None:
    whole = np.arange(24).reshape(4, 6)
    assert token_of(whole[::2, ::3]) == token_of(whole[::2, ::3].copy())
    assert token_of(whole) != token_of(whole[::-1])


def test_what_bytes_do_not_tell_has_no_token() -> None:
    assert token_of(np.array([{}], dtype=object)) is None
    assert token_of(np.dtype("i4", metadata={"unit": "m"}).type(3)) is None
    assert token_of(pd.DataFrame()) is None


def test_a_large_object_becomes_a_node_and_the_same_one_the_same_node() -> None:
    work = packing()
    first, small, (second, more) = work.many([ARRAY, 7, [ARRAY, {"deep": ARRAY}]])
    assert type(first) is Held
    assert first is second is more["deep"]
    assert small == 7
    assert [large.obj is ARRAY for large in work.larges] == [True]


@pytest.mark.parametrize(
    "obj",
    [
        *(
            5,
            None,
            "word",
            b"x",
            [1, 2],
            {"a": (1, 2)},
            {3},
            Holder(1),
            np.arange(3),
            range(10**9),
            pd.Series([1]),
            print,
        ),
        *([TaskRef("x"), ARRAY[:9]], collections.OrderedDict(a=1), [TaskRef("x")] * 9000, Future()),
        *(Holder([TaskRef("x"), ARRAY]), {1: Holder([Future(), ARRAY])}),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_what_is_not_large_or_not_for_us_comes_out_as_it_went_in(obj: Any) -> None:
    work = packing()
    assert work.one(obj) is obj
    assert work.larges == []


@pytest.mark.parametrize(
    "obj",
    [
        *(b"x" * ABOVE, bytearray(ABOVE), "x" * ABOVE, ARRAY, Holder(ARRAY), {Holder(ARRAY)}),
        *(
            pd.DataFrame({"a": np.arange(ABOVE)}),
            pd.Series([f"{number:036}" for number in range(9000)]),
            np.array([ARRAY, None], dtype=object),
        ),
        *([1.5] * ABOVE, ["word"] * ABOVE, [[i, "x"] for i in range(ABOVE)], {i: i for i in range(ABOVE)}),
        *([b"x" * 2000] * 50, collections.OrderedDict(a=ARRAY), ARRAY.view(np.ma.MaskedArray)),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_large_things_of_all_kinds_are_one_node(obj: Any) -> None:
    work = packing(told=True)
    node = work.one(obj)
    assert type(node) is Held
    assert len(work.larges) == 1
    again = packing(told=True)
    assert again.one(copy.deepcopy(obj)).token == node.token


def test_futures_and_large_objects_share_a_container() -> None:
    work = packing()
    future, array, holder = TaskRef("x"), ARRAY, Holder(ARRAY)
    found = work.one([future, array, {"k": (holder, future)}])
    assert found[0] is future
    assert type(found[1]) is Held
    assert type(found[2]["k"][0]) is Held
    assert found[2]["k"][1] is future


def test_middling_bytes_have_a_name_that_large_ones_of_another_limit_have_too() -> None:
    middling = bytes(range(256)) * (MIDDLING // 256)
    told = packing(told=True).one(middling)
    assert type(told) is Told
    assert told() is middling
    assert tokenize(told) == tokenize(Packing(MIDDLING).one(middling))
    assert packing().one(middling) is middling


class Numbered(Holder):
    """Of equal numbers, equal to Dask."""

    def __dask_tokenize__(self) -> int:
        return 7


class Registered(Holder):
    """Likewise, by a function."""


def test_a_type_that_says_what_is_equal_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """But what is stored is found again by its content alone: who asks for another run gets what is there now."""
    monkeypatch.setitem(normalize_token._lookup, Registered, lambda _: 7)
    for kind in (Numbered, Registered):
        work = packing(told=True)
        nodes = [work.one(kind(ARRAY + number)) for number in range(2)]
        assert nodes[0].token == nodes[1].token == tokenize(kind(0))
        assert len({large.token for large in work.larges}) == 2
    assert packing().one(Numbered(ARRAY)).token != packing().one(Numbered(ARRAY + 1)).token


@pytest.mark.parametrize(
    "obj",
    [b"x" * ABOVE, bytearray(ABOVE), "x" * ABOVE, ARRAY, pd.Series(ARRAY), [1.5] * ABOVE, Holder(ARRAY)],
    ids=type,
)
def test_what_has_a_token_of_ours_is_not_named_by_dask_as_well(obj: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes twenty seconds a gigabyte of bytes."""
    monkeypatch.delattr("proxyfab.integrations.dask.packing.tokenize")
    assert type(packing(told=True).one(obj)) is Held


def test_what_cannot_be_called_is_no_function_of_ours() -> None:
    assert packing().function(ARRAY) is None


def test_a_partial_gives_its_large_arguments_away() -> None:
    from functools import partial

    work = packing()
    function, before, named = work.function(partial(divmod, ARRAY, other=5)) or (None, (), {})
    assert function is divmod
    assert [type(each) for each in before] == [Held]
    assert named == {"other": 5}
    assert work.function(partial(divmod, 3)) is None
    assert work.function(divmod) is None


def test_a_list_in_itself_is_left_to_dask() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(RecursionError):
        packing().one(ring)


@pytest.mark.timing
def test_small_arguments_cost_next_to_nothing() -> None:
    def work() -> None:
        pass_over = packing(told=True)
        pass_over.many((1, "word", 2.5, [1, 2], {"a": 3}, ARRAY[:100]))
        pass_over.named({"flag": True})

    times = []
    for _ in range(2000):
        begins = time.perf_counter()
        work()
        times.append(time.perf_counter() - begins)
    assert sorted(times)[len(times) // 2] < 20e-6


# -- graphs ----------------------------------------------------------------------------------------------------------


def as_sent(collection: Any) -> Any:
    """What a client of this version of Dask sends of a collection."""
    try:
        from dask._expr import HLGExpr
    except ImportError:
        return collection.__dask_graph__()
    return HLGExpr.from_collection(collection)


def test_literals_of_a_graph_become_nodes_and_annotated_ones_do_not() -> None:
    from proxyfab.integrations.dask.graphs import materialized, packed

    with dask.annotate(proxyfab=False):
        spared = dask.delayed(len)(ARRAY)
    tasks, annotations = materialized(as_sent(dask.delayed(sum)([dask.delayed(len)(ARRAY), spared])))
    before = {key: repr(node) for key, node in tasks.items()}
    work = packing()
    new = packed(tasks, work, annotations["proxyfab"])
    assert len(work.larges) == 1
    assert {key for key, node in new.items() if [*held_in(node)]} <= {*new} - {spared.key}
    assert {key: repr(node) for key, node in tasks.items()} == before


def test_a_graph_of_many_small_tasks_is_materialized_once() -> None:
    from proxyfab.integrations.dask.graphs import ONCE

    link = Mock(stores_results=False, settings=Settings(above=1000))
    link._packing, link._filled = lambda **_: packing(), lambda work: [*work.larges]
    graph = as_sent(dask.delayed(sum)([dask.delayed(len)((number,)) for number in range(100)]))
    sent, pinned = Link._lightened(link, graph)
    assert pinned == []
    if ONCE:
        assert len(sent.__dask_graph__()) == len(graph.__dask_graph__())
        with patch("dask.highlevelgraph.HighLevelGraph.cull", side_effect=AssertionError("culled again")):
            assert pickle.loads(pickle.dumps(sent)).__dask_graph__()
    else:
        assert sent is graph


# -- keeping ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def said() -> list[Any]:
    return []


def test_what_was_put_is_found_by_content_and_claimed_until_nobody_needs_it(said: list[Any]) -> None:
    with Store(inline_below=0) as store:
        keeping = Keeping(store, said.append)
        first, second = packing(), packing()
        first.one(ARRAY)
        second.one(ARRAY.copy())
        keeping.sent(keeping.fill(first.larges), ["task"])
        keeping.sent(keeping.fill(second.larges), ["another"])
        assert first.larges[0].node.ref is second.larges[0].node.ref
        assert held(store) == 1
        assert [each["op"] for each in said] == ["proxyfab-claim"]
        begins = time.monotonic()
        assert until(lambda: keeping.tidy({"another"}) or time.monotonic() - begins > IDLE + 0.1, 10)
        assert len(keeping) == 1  # a future needs it
        keeping.tidy(())
        assert [each["op"] for each in said] == ["proxyfab-claim", "proxyfab-release"]
        assert said[0]["keys"] == said[1]["keys"]
        store.clear()


def test_users_of_what_is_in_use_all_the_time_are_forgotten_when_their_futures_are(said: list[Any]) -> None:
    with Store(inline_below=0) as store:
        keeping = Keeping(store, said.append)
        work = packing()
        work.one(ARRAY)
        alive: set[object] = {"first"}
        keeping.sent(keeping.fill(work.larges), alive)
        [kept] = keeping._kept.values()
        for number in range(5000):
            keeping.sent(keeping.fill(work.larges), [f"task-{number}"])
            if not number % 100:
                keeping.tidy(alive)
        assert len(kept.users) < 500  # of which one has a future
        assert "first" in kept.users
        alive.update(range(3000))
        keeping.sent(keeping.fill(work.larges), range(3000))
        keeping.tidy(alive)
        assert kept.users >= alive
        assert kept.many == 6002  # whoever has so many futures has them looked through now and then, not always
        store.clear()


def kept(keeping: Keeping, *arrays: Any) -> None:
    """Calls with these, one after the other, of which no future is left."""
    for array in arrays:
        work = packing()
        work.one(array)
        keeping.sent(keeping.fill(work.larges, ()), ["task"])


def test_a_loop_over_different_arrays_fills_the_same_segments_again() -> None:
    with Store(inline_below=0) as store, patch("proxyfab.integrations.dask.keeping.SPARE", 2 * LARGE.nbytes):

        def said(message: dict[str, Any]) -> None:  # as the scheduler does it
            if message["op"] == "proxyfab-release":
                store.evict_many([Key.parse(key) for key in message["keys"]])

        keeping = Keeping(store, said, where="here")
        pool = shared_at(default_root()).pool
        before = len(pool)
        kept(keeping, *(LARGE + number for number in range(20)))
        assert keeping.put == 20
        assert len(pool) - before <= 3  # two that are spared, and the one that is filled
        assert len(keeping) <= 3
        keeping.tidy(())
        assert len(keeping) <= 3  # a moment for the last ones, as ever
        store.clear()


def test_what_has_a_future_or_comes_again_is_not_given_up_for_segments(said: list[Any]) -> None:
    with Store(inline_below=0) as store, patch("proxyfab.integrations.dask.keeping.SPARE", LARGE.nbytes):
        keeping = Keeping(store, said.append, where="here")
        first = packing()
        first.one(LARGE)
        keeping.sent(keeping.fill(first.larges, {"mine"}), ["mine"])
        rounds = [LARGE + number for number in range(1, 4)]
        for _ in range(5):
            for array in rounds:
                work = packing()
                work.one(array)
                keeping.sent(keeping.fill(work.larges, {"mine"}), ["task"])
        assert keeping.put <= 1 + 2 * len(rounds)  # once each, and anew at most once
        work = packing()
        work.one(LARGE.copy())
        assert keeping.fill(work.larges, {"mine"}) == [first.larges[0].token]
        assert work.larges[0].node.ref is first.larges[0].node.ref
        store.clear()


def test_a_store_elsewhere_keeps_what_is_over_for_its_moment(said: list[Any]) -> None:
    with Store(inline_below=0) as store, patch("proxyfab.integrations.dask.keeping.SPARE", 0):
        kept(Keeping(store, said.append), *(LARGE + number for number in range(3)))
        assert {each["op"] for each in said} == {"proxyfab-claim"}
        store.clear()


@pytest.mark.parametrize(
    ("obj", "most"),
    [
        *[(b"x" * MUCH, 0), (bytearray(MUCH), 0), ("x" * MUCH, 0), ("ä" * (MUCH // 2), 1), (np.zeros(MUCH // 8), 0)],
        *[({"a": np.zeros(MUCH // 16), "b": [np.ones(MUCH // 16)]}, 0), (Holder(np.zeros(MUCH // 8)), 0)],
        *[(pd.DataFrame(np.ones((MUCH // 80, 10))), 0), (pd.DataFrame({"a": np.ones(MUCH // 8)}), 0)],
    ],
    ids=lambda obj: None if type(obj) is int else type(obj).__name__,
)
def test_what_is_large_is_copied_into_the_store_and_nowhere_else(obj: Any, most: int, said: list[Any]) -> None:
    with Store(inline_below=0) as store:
        keeping = Keeping(store, said.append)
        keeping.fill(warmed(keeping))
        tracemalloc.start()
        work = packing(told=True)
        work.one(obj)
        keeping.fill(work.larges)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(large.node.nbytes for large in work.larges) >= MUCH
        assert peak < (most + 0.25) * MUCH  # text that is not ASCII has no bytes before they are made, once
        store.clear()


def warmed(keeping: Keeping) -> list[Any]:
    """What has the store opened, and everything imported."""
    work = packing(told=True)
    for obj in (np.ones(1 << 19), pd.DataFrame({"a": np.ones(1 << 17)}), "x" * (1 << 20)):
        work.one(obj)
    return work.larges


def test_a_client_that_is_closed_while_a_graph_is_made(said: list[Any]) -> None:
    with Store(inline_below=0) as store:
        keeping = Keeping(store, said.append)
        work = packing()
        work.one(ARRAY)
        pinned = keeping.fill(work.larges)
        keeping.leave()
        keeping.sent(pinned, ["task"])
        assert [each["op"] for each in said] == ["proxyfab-claim", "proxyfab-release"]
        assert len(keeping) == 0
        store.clear()


def test_a_put_that_fails_leaves_no_claim(said: list[Any]) -> None:
    store = Store(inline_below=0)
    keeping = Keeping(store, said.append)
    work = packing()
    work.one(ARRAY)
    store.close()
    with pytest.raises(Exception, match="closed"):
        keeping.fill(work.larges)
    assert [each["op"] for each in said] == ["proxyfab-claim", "proxyfab-release"]
    assert len(keeping) == 0


@pytest.mark.parametrize(
    "obj",
    [
        *(ARRAY, np.asfortranarray(ARRAY.reshape(256, -1)), b"x" * ABOVE, bytearray(b"x" * ABOVE), "ä" * ABOVE),
        *(Holder(ARRAY), [ARRAY, "a"], pd.DataFrame({"a": ARRAY}), np.zeros(9000, dtype="M8[s]"), {"a": [1.5] * ABOVE}),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_what_is_loaded_is_real_private_and_writable(obj: Any) -> None:
    with Store(inline_below=0) as store:
        ref = store.ref(obj)
        first, second = loaded(ref), loaded(ref)
        assert type(first) is type(obj)
        assert pickle.dumps(first) == pickle.dumps(obj)
        if isinstance(first, np.ndarray):
            assert first.flags.fnc == obj.flags.fnc
            assert first.flags.writeable
            first[:1] = 0
        elif isinstance(first, pd.DataFrame):
            first.iloc[0, 0] = 9
        elif isinstance(first, Holder):
            first.inside[0] = 9
        elif isinstance(first, bytearray):
            first[0] = 9
        assert pickle.dumps(second) == pickle.dumps(obj)
        store.clear()


def test_a_damaged_payload_is_told_as_such() -> None:
    payload = dumps(ARRAY)
    payload.meta = ["no type", [1], False]
    with pytest.raises(Exception, match="do not fit its description"):
        private(payload)
