"""NumPy, pandas, pyarrow, polars and what follows torch's protocol take proxies where they take the objects."""

from __future__ import annotations

import copy
import pickle
import sys
from dataclasses import asdict, astuple, fields, replace
from types import ModuleType
from typing import Any

import pytest

from tests.proxy.things import Point

np = pytest.importorskip("numpy")

ARRAY = np.arange(6.0).reshape(2, 3)
CALLS: list[Any] = [
    lambda p: p + 1, lambda p: 1 + p, lambda p: p + ARRAY, lambda p: ARRAY + p, lambda p: p * p, lambda p: p @ ARRAY.T,
    lambda p: ARRAY.T @ p, lambda p: p[1], lambda p: p[:, 0], lambda p: p[p > 2], lambda p: -p, lambda p: p == ARRAY,
    lambda p: p == ARRAY, lambda p: p.T, lambda p: p.sum(), lambda p: np.sum(p, axis=0), lambda p: np.add(p, 1),
    lambda p: np.add(1, p), lambda p: np.sqrt(p), lambda p: np.add.reduce(p), lambda p: np.multiply.outer(p, [1, 2]),
    lambda p: np.concatenate([p, ARRAY]), lambda p: np.vstack((p, p)), lambda p: np.where(p > 1, p, 0), np.asarray,
    np.array, lambda p: np.asarray(p, dtype="f4"), lambda p: np.stack([p, p]), lambda p: np.dot(p, ARRAY.T), np.ravel,
    lambda p: np.linalg.norm(p), lambda p: np.einsum("ij,ij->i", p, p), np.shape, np.ndim, len, list, np.isnan,
    lambda p: np.mean(p), lambda p: np.allclose(p, ARRAY), lambda p: np.full_like(p, 2), lambda p: np.zeros_like(p),
    lambda p: np.add(ARRAY, 1, where=p > 2, out=np.zeros((2, 3))), lambda p: divmod(p, 2), lambda p: p ** 2,
    lambda p: np.tensordot(p, p), lambda p: np.broadcast_to(p, (2, 2, 3)), lambda p: np.array_equal(p, ARRAY),
    lambda p: float(p.max()), lambda p: bytes(p), lambda p: p.tolist(), lambda p: abs(p),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(CALLS)))
def test_numpy_takes_a_proxy_of_an_array(px: Any, lazy: Any, here: Any, untyped: Any, i: int) -> None:
    expected = CALLS[i](ARRAY)
    for make in (lambda t: lazy(t)[0], here, untyped):
        found = CALLS[i](make(ARRAY))
        assert type(found) is type(expected)
        np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("scalar", [3, 2.5, True, 1 + 2j, np.float32(1.5), np.int8(3)], ids=repr)
def test_a_proxy_of_a_number_is_a_number_to_numpy(lazy: Any, here: Any, scalar: Any) -> None:
    for make in (lambda t: lazy(t)[0], here):
        for call in (lambda p: ARRAY * p, lambda p: p * ARRAY, lambda p: np.add(p, ARRAY), np.asarray,
                     lambda p: np.array([p, p]),
                     lambda p: np.sqrt(p), lambda p: np.full(3, p), lambda p: np.arange(3) + p):  # fmt: skip
            expected, found = call(scalar), call(make(scalar))
            assert (type(found), found.dtype) == (type(expected), expected.dtype)
            np.testing.assert_array_equal(found, expected)


def test_text_and_lists(lazy: Any, exports_buffers: bool) -> None:
    assert np.asarray(lazy("abc")[0]) == np.asarray("abc")
    if not exports_buffers:  # which NumPy prefers: uint8
        assert np.asarray(lazy(b"abc")[0]).dtype == np.asarray(b"abc").dtype
    np.testing.assert_array_equal(np.asarray(lazy([1, 2])[0]), [1, 2])
    np.testing.assert_array_equal(np.add(lazy([1, 2])[0], 1), [2, 3])
    np.testing.assert_array_equal(np.arange(3) + lazy([1, 2, 3])[0], [1, 3, 5])


def test_asarray_shares_memory(lazy: Any) -> None:
    assert np.shares_memory(np.asarray(lazy(ARRAY)[0]), ARRAY)


def test_out_and_in_place(lazy: Any) -> None:
    out = np.zeros((2, 3))
    p = lazy(out)[0]
    assert np.add(ARRAY, 1, out=p) is out
    np.testing.assert_array_equal(out, ARRAY + 1)
    before = p
    p += 1
    p[0, 0] = 9
    assert p is before
    assert (out[0, 0], out[1, 1]) == (9, 6)
    bare = np.zeros((2, 3))
    bare += lazy(ARRAY)[0]
    np.testing.assert_array_equal(bare, ARRAY)


def test_masked_matrix_and_structured(lazy: Any) -> None:
    masked = np.ma.array([1, 2, 3], mask=[0, 1, 0])
    assert (lazy(masked)[0] + 1).mask.tolist() == [False, True, False]
    assert np.ma.sum(lazy(masked)[0]) == 4
    structured = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    assert lazy(structured)[0]["b"][0] == 2.0


def test_what_declines_ufuncs_still_declines(lazy: Any) -> None:
    class Declines:
        __array_ufunc__ = None

        def __radd__(self, x: Any) -> str:
            return "reflected"

    class Ranks:
        __array_priority__ = 1000

        def __radd__(self, x: Any) -> str:
            return "reflected"

    assert ARRAY + lazy(Declines())[0] == "reflected"
    assert ARRAY + lazy(Ranks())[0] == "reflected"


def test_unwrap_writable_is_a_private_copy(px: Any, lazy: Any) -> None:
    frozen = np.asfortranarray(ARRAY)
    frozen.flags.writeable = False
    for target, array_of in [(frozen, lambda x: x), ({"a": [frozen]}, lambda x: x["a"][0])]:
        mine = array_of(px.unwrap(lazy(target)[0], writable=True))
        assert mine.flags.writeable
        assert mine.flags.f_contiguous
        assert not np.shares_memory(mine, frozen)
        mine[0, 0] = 7
        assert frozen[0, 0] == 0
    assert px.unwrap(lazy(frozen)[0]) is frozen
    view = px.unwrap(px.make(lambda: memoryview(frozen), None), writable=True)
    assert (view.shape, view.readonly, view.format) == ((2, 3), False, "d")


def test_copies_are_real(px: Any, lazy: Any, here: Any) -> None:
    for target in ([[1], 2], {"a": [1]}, Point(1, 2, ["t"]), {1}, ARRAY):
        for p in (lazy(target)[0], here(target)):
            shallow, deep = copy.copy(p), copy.deepcopy(p)
            assert type(shallow) is type(deep) is type(target)
            assert shallow is not target
            np.testing.assert_equal(deep, target)
    p, target = here([[1]]), [[1]]
    nested = copy.deepcopy({"p": p, "q": p})
    assert nested == {"p": target, "q": target}
    assert nested["p"] is nested["q"]
    copy.deepcopy(p)[0].append(2)
    assert p == target


def test_dataclass_functions(lazy: Any, here: Any) -> None:
    target = Point(1, 2, ["t"])
    for p in (lazy(target)[0], here(target)):
        assert asdict(p) == asdict(target)
        assert astuple(p) == astuple(target)
        assert fields(p) == fields(target)
        assert replace(p, x=5) == Point(5, 2, ["t"])
        assert asdict(Point(p, 2)) == {"x": asdict(target), "y": 2, "tags": []}  # type: ignore[arg-type]
    assert lazy(Point)[0](3).x == 3


def test_pandas(lazy: Any, here: Any) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": [3.0, 4.0]})
    for make in (lambda t: lazy(t)[0], here):
        p, s = make(frame), make(frame["a"])
        pd.testing.assert_series_equal(p["a"], frame["a"])
        pd.testing.assert_frame_equal(p + 1, frame + 1)
        pd.testing.assert_frame_equal(1 + p, frame + 1)
        pd.testing.assert_frame_equal(p[p.a > 1], frame[frame.a > 1])
        pd.testing.assert_series_equal(s * 2, frame["a"] * 2)
        pd.testing.assert_series_equal(frame["a"] + make(3), frame["a"] + 3)
        pd.testing.assert_frame_equal(pd.concat([p, frame]), pd.concat([frame, frame]))
        pd.testing.assert_frame_equal(p.merge(frame, on="a"), frame.merge(frame, on="a"))
        pd.testing.assert_frame_equal(frame.merge(p, on="a"), frame.merge(frame, on="a"))
        assert len(p) == 2
        assert isinstance(p, pd.DataFrame)
        assert np.asarray(p).shape == (2, 2)
        assert np.log(p).equals(np.log(frame))
        pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(copy.deepcopy(p))), frame)


def test_arrow_and_polars(lazy: Any, here: Any) -> None:
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    table = pa.table({"a": [1, 2]})
    for make in (lambda t: lazy(t)[0], here):
        assert pa.table(make(table)).equals(table)
        assert pa.array(make(pa.array([1, 2]))).equals(pa.array([1, 2]))
        assert pl.DataFrame(make(table))["a"].to_list() == [1, 2]
        assert pl.DataFrame(make(pl.DataFrame({"a": [1]})))["a"].to_list() == [1]
        assert np.from_dlpack(make(ARRAY)).sum() == 15


def test_interfaces_by_attribute(lazy: Any, here: Any) -> None:
    for p in (lazy(ARRAY)[0], here(ARRAY)):
        assert p.__array_interface__ == ARRAY.__array_interface__
        assert p.__dlpack_device__() == ARRAY.__dlpack_device__()
        assert hasattr(p, "__array_struct__")
        assert not hasattr(p, "__arrow_c_stream__")


def test_torch_protocol(px: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        __module__ = "torch"
        __qualname__ = "Tensor"

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return NotImplemented

    module = ModuleType("torch")
    module.Tensor = Tensor  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "torch", module)
    tensor = Tensor()
    p = px.make(lambda: tensor, px.kind_of(tensor))
    for _ in range(2):  # unresolved, then resolved
        assert p.__torch_function__(lambda a, b: (a, b), (type(p),), (p, [p]), {}) == (tensor, [tensor])
        assert "__torch_function__" in dir(type(p))  # without it torch takes a proxy for a tensor, also in C
        assert p.__torch_function__.__self__ is not p  # which torch deprecates
        assert p.__class__ is type(p)  # what passes for a tensor torch reads as the memory of one
        assert not isinstance(p, Tensor)
        px.resolve(p)
    assert px.unwrap(p) is tensor


def test_torch_functions_take_proxies(px: Any) -> None:
    """Those that Python dispatches, those that C does, and those that take lists."""
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12.0).reshape(3, 4)
    for touch in (px.is_resolved, px.resolve):
        p = px.make(lambda: tensor, px.kind_of(tensor))
        touch(p)
        assert torch.equal(torch.nn.functional.relu(p), tensor)
        assert torch.equal(torch.einsum("ij,kj->ik", p, tensor), tensor @ tensor.T)
        assert torch.equal(torch.where(p > 3, p, tensor), tensor)
        assert torch.equal(torch.cat([tensor, p]), torch.cat([tensor, tensor]))
        for make in (torch.tensor, torch.as_tensor, torch.asarray, tensor.new_tensor):  # they ask by isinstance alone
            assert torch.equal(make(p), tensor)
        assert torch.equal(torch.as_tensor(px.Proxy(lambda: tensor)), tensor)
        with pytest.raises(TypeError):
            tensor.clone().data = p


@pytest.mark.parametrize(
    "target",
    [
        np.array(["2020", "2021"], "M8[Y]"),
        np.array([3], "m8[D]"),
        np.datetime64("2020-01-01"),
        np.array([("a", 1)], [("x", "U1"), ("y", "i4")]),
        np.array([1.5], "f2"),
        np.array(["text"], np.dtypes.StringDType()),
        np.array([True]),
        np.array([{}, None], object),
    ],
    ids=lambda target: target.dtype.str,
)
def test_arrays_keep_the_whole_of_their_type(px: Any, lazy: Any, here: Any, target: Any) -> None:
    """NumPy reads strangers by __array_struct__ first, which has no units and no fields."""
    for p in (lazy(target)[0], here(target)):
        again = np.asarray(p)
        assert again.dtype == target.dtype
        assert again.tolist() == target.tolist()
        assert np.all(target == p)
