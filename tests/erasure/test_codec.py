"""Shards: the bytes that are stored for good, every loss that can be borne, every kernel and every buffer."""

from __future__ import annotations

import ctypes
import json
import random
import sys
from array import array
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyfab.buffers import Frames
from proxyfab.erasure import Code, available, isal
from proxyfab.erasure.kernels import NAMES, kernel_named
from proxyfab.errors import ConfigurationError, IntegrityError, MissingDependency
from tests.golden.make_erasure import CODES, SIZES, content

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "erasure-v1.json").read_text())
PIECES = [1 << 16, 1 << 18]  # what the slower kernels work in

kernels = pytest.mark.parametrize("kernel", NAMES)


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def bytes_of(shards: list[Frames]) -> list[bytes]:
    return [shard.tobytes() for shard in shards]


def test_every_kernel_is_tested_here() -> None:
    assert available() == list(NAMES)
    assert kernel_named("") is kernel_named("isal")


@kernels
def test_what_is_stored_never_changes(kernel: str) -> None:
    for k, m in CODES:
        for size in SIZES:
            data = content(size)
            shards = Code(k, m, kernel=kernel).encode(data)
            assert b"".join(bytes_of(shards[:k])) == data.ljust(k * -(-size // k), b"\0")
            assert [shard.hex() for shard in bytes_of(shards[k:])] == GOLDEN[f"{k},{m},{size}"]


@pytest.mark.parametrize(("k", "m", "size"), [(2, 1, 7), (4, 2, 63), (6, 3, 6), (8, 3, 1), (3, 5, 100), (10, 4, 31)])
def test_every_loss_that_can_be_borne_is(k: int, m: int, size: int) -> None:
    data, code = content_of(size), Code(k, m)
    shards = bytes_of(code.encode(data))
    for lost in [lost for count in range(m + 1) for lost in combinations(range(k + m), count)]:
        left = {index: shard for index, shard in enumerate(shards) if index not in lost}
        assert code.decode(left, size).tobytes() == data
        if k < 8:  # it is the same solving
            assert bytes_of(code.rebuild(left, size, lost)) == [shards[index] for index in lost]


@kernels
@pytest.mark.parametrize("k", [1, 3, 4])
def test_every_size(kernel: str, k: int) -> None:
    code, plain = Code(k, 2, kernel=kernel), Code(k, 2, kernel="python")
    around = [64, 4096, *(k * piece for piece in PIECES)] if kernel != "python" or k == 3 else [64]
    for size in [*range(2 * k + 2), *(edge + more for edge in around for more in (-1, 0, 1))]:
        data = content_of(size)
        shards = code.encode(data)
        left = {index: shard for index, shard in enumerate(shards) if index not in (0, k)}
        assert bytes_of(shards) == bytes_of(plain.encode(data))
        assert {shard.nbytes for shard in shards} == {code.length(size)}
        assert code.decode(left, size) == Frames((data,))


@st.composite
def cut_objects(draw: st.DrawFn) -> tuple[int, int, bytes, list[int], list[int]]:
    k, m = draw(st.integers(1, 12)), draw(st.integers(0, 6))
    data = draw(st.binary(max_size=300))
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=4))
    lost = draw(st.lists(st.integers(0, k + m - 1), max_size=m, unique=True))
    return k, m, data, cuts, lost


@given(cut_objects(), st.sampled_from(NAMES))
@settings(max_examples=80, deadline=None)
def test_however_an_object_lies_and_whatever_is_lost(
    one: tuple[int, int, bytes, list[int], list[int]], kernel: str
) -> None:
    k, m, data, cuts, lost = one
    marks = [0, *sorted(cuts), len(data)]
    frames = Frames([data[low:high] for low, high in pairwise(marks)])
    code = Code(k, m, kernel=kernel)

    shards = code.encode(frames)
    left = {index: shard for index, shard in enumerate(shards) if index not in lost}

    assert bytes_of(shards) == bytes_of(Code(k, m, kernel="python").encode(data))
    assert code.decode(left, len(data)) == frames
    assert bytes_of(code.rebuild(left, len(data), lost)) == [shards[index].tobytes() for index in lost]


@kernels
@pytest.mark.parametrize(
    "kind",
    [
        bytearray,
        memoryview,
        lambda data: array("d", data),
        lambda data: np.frombuffer(data, "<f4").reshape(5, 6),
        lambda data: np.frombuffer(data, "<u4").reshape(5, 6).T,
        lambda data: Frames([data[:1], data[1:]] + [b""] * 600),
        lambda data: Frames([data[at : at + 1] for at in range(len(data))] + [b""] * 600),
    ],
)
def test_any_buffer(kernel: str, kind: Callable[[bytes], Any]) -> None:
    data, code = content_of(120), Code(4, 2, kernel=kernel)
    shards = code.encode(kind(data))

    assert bytes_of(shards) == bytes_of(code.encode(data))
    assert code.decode({index: bytearray(shards[index].tobytes()) for index in (1, 3, 4, 5)}, 120).tobytes() == data


def test_gaps_and_odd_addresses() -> None:
    data = content_of(999)
    for view in (np.frombuffer(data, "u1")[::3], memoryview(data)[1:], memoryview(data)[3:-2]):
        for kernel in NAMES:
            assert bytes_of(Code(3, 2, kernel=kernel).encode(view)) == bytes_of(Code(3, 2).encode(bytes(view)))


@kernels
def test_data_are_not_copied_and_nothing_is_held(kernel: str) -> None:
    data, code = bytearray(content_of(4096)), Code(4, 2, kernel=kernel)
    shards = code.encode(data)
    assert all(view.obj is data for shard in shards[:4] for view in shard)
    assert all(view.readonly for shard in shards[4:] for view in shard)
    whole = code.decode(dict(enumerate(shards)), 4096)
    assert all(view.obj is data for view in whole)

    del shards, whole
    data.append(0)  # a BufferError while anybody has a view


def test_shards_are_made_where_the_caller_says() -> None:
    rooms: list[bytearray] = []

    def room(nbytes: int) -> memoryview:
        rooms.append(bytearray(b"\xff" * nbytes))  # what was there before is written over
        return memoryview(rooms[-1])

    for kernel in NAMES:
        code, data = Code(4, 2, kernel=kernel, memory=room), content_of(4001)
        shards = code.encode(data)
        assert code.decode({index: shards[index] for index in range(2, 6)}, 4001).tobytes() == data
        assert [len(made) for made in rooms[-4:]] == [1001] * 4, "each shard has memory of its own"


@pytest.mark.parametrize("shape", [(0, 1), (-1, 2), (1, -1), (200, 57), (2.0, 1), ("2", 1), (True, 1), (None, 1)])
def test_a_code_that_cannot_be(shape: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"k=.* and m=.*\.$"):
        Code(*shape)


def test_the_widest_codes() -> None:
    for k, m in ((1, 255), (255, 1), (128, 128), (256, 0)):
        data, code = content_of(300), Code(k, m)
        shards = code.encode(data)
        assert code.decode({index: shards[index] for index in range(min(m, 20), k + m)}, 300).tobytes() == data


def test_what_is_no_shard_or_no_object_is_said() -> None:
    code = Code(2, 1)
    shards = dict(enumerate(code.encode(b"abcdef")))
    with pytest.raises(ConfigurationError, match="Only buffers can be cut into shards, and this str is none"):
        code.encode("abc")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="and this ndarray is none"):
        code.encode(np.array(["an address", None], object))
    with pytest.raises(ConfigurationError, match="numbers 0 to 2, not 3"):
        code.decode({**shards, 3: b"abc"}, 6)
    with pytest.raises(ConfigurationError, match="numbers 0 to 2, not '1'"):
        code.rebuild(shards, 6, ["1"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="size is a number of bytes, not -1"):
        code.decode(shards, -1)
    with pytest.raises(ConfigurationError, match="and this int is none"):
        code.decode({0: 5, 1: b"abc"}, 6)  # type: ignore[dict-item]
    with pytest.raises(IntegrityError, match="Of 3 shards only 1 are here, and 2 are needed"):
        code.decode({1: shards[1]}, 6)
    with pytest.raises(IntegrityError, match="Shard 2 has 2 bytes and not 3"):
        code.decode({0: shards[0], 2: b"ab"}, 6)
    with pytest.raises(ConfigurationError, match="'fast' is no kernel of erasure codes; there are isal, numpy, python"):
        Code(2, 1, kernel="fast")


def test_a_library_that_is_missing_or_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in isal._places() if not path.startswith("libisal.so"))
    monkeypatch.setattr(isal, "_places", lambda: iter(["/nowhere/libisal.so.2", None, path]))
    assert isal.load() is not None
    monkeypatch.setattr(isal.Isal, "right", lambda self: False)
    with pytest.raises(MissingDependency, match=r"pip install 'proxyfab\[isal\]'"):
        isal.load()


def test_one_wrong_product_is_noticed() -> None:
    found = isal.load()
    assert isinstance(found, isal.Isal)
    assert found.right()
    encode = found._encode

    def wrong(length: int, *rest: Any) -> None:
        encode(length, *rest)
        ctypes.cast(rest[-1][1], ctypes.POINTER(ctypes.c_ubyte))[length - 1] ^= 1

    found._encode = wrong
    assert not found.right()


def test_numpy_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxyfab.erasure import vector

    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingDependency, match="pip install numpy"):
        vector.load()
