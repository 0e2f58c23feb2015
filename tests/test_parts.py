"""Parts of objects: what indexing the whole gives, and only the bytes that were asked for move."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, IntegrityError, KeyNotFound
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.parts import NEAR, Part, part
from proxyfab.proxy import is_resolved
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.servers import RedisServer
from proxyfab.wire.parts import FIRST, head_of, length_of
from proxyfab.wire.payload import Payload, encode

SELECTIONS: list[Any] = [
    slice(0, 100),
    slice(None),
    slice(-50, None),
    slice(10, 10),
    slice(None, None, 10),
    slice(5, 500, 7),
    range(20, 40),
    [slice(0, 10), slice(100, 200)],
    [(0, 10), (5, 15)],
    [range(300, 310), slice(0, 30, 10), (90, 91)],
    [],
    slice(900, 5000),
]
PLACES = ["memory", "shm", "file", "file-read", "redis", "zmq", "lz4+redis", "encrypted"]


@pytest.fixture(scope="module")
def node() -> Iterator[NodeServer]:
    with NodeServer() as server:
        yield server


@pytest.fixture(params=PLACES)
def store(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    node: NodeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    seal = None
    if request.param == "encrypted":
        monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
        Keyring().make("symmetric", "k")
        seal = "encrypt:k"
    url = {
        "memory": "memory://",
        "shm": "shm://",
        "file": f"file://{tmp_path}/f",
        "file-read": f"file://{tmp_path}/f?mapped=0",
        "redis": redis_server.database(),
        "zmq": f"{node.url}",
        "lz4+redis": f"lz4+{redis_server.database()}",
        "encrypted": redis_server.database(),
    }[request.param]
    with Store(url, name=None, seal=seal, cache=0) as store:
        yield store
        store.clear()


def expected(obj: Any, selection: Any) -> Any:
    each = selection if isinstance(selection, list) else [selection]
    found = [obj[one if isinstance(one, slice) else _slice(one)] for one in each]
    if isinstance(obj, np.ndarray):
        return np.concatenate(found) if found else obj[:0]
    return b"".join(map(bytes, found))


def _slice(one: Any) -> slice:
    return slice(one.start, one.stop, one.step) if isinstance(one, range) else slice(*one)


OBJECTS: list[Any] = [
    np.arange(100_000.0),
    np.arange(300_000, dtype="<i4").reshape(1000, 300),
    np.random.default_rng(0).random((1000, 40, 5)).astype("f4"),
    np.asfortranarray(np.arange(600_000).reshape(1000, 600)),
    np.random.default_rng(1).bytes(100_000),
    bytearray(range(256)) * 400,
]
NAMES = ["1d", "2d", "3d", "fortran", "bytes", "bytearray"]


@pytest.mark.parametrize("obj", OBJECTS, ids=NAMES)
def test_a_part_is_what_indexing_gives(store: Store, obj: Any) -> None:
    ref = store.ref(obj)

    for selection in SELECTIONS:
        found = part(ref, selection)
        assert type(found) is type(obj), selection
        np.testing.assert_array_equal(np.asarray(memoryview(found)), np.asarray(memoryview(expected(obj, selection))))
        if isinstance(obj, np.ndarray):
            assert found.dtype == obj.dtype
    with pytest.raises(ConfigurationError, match="backwards"):
        part(ref, slice(None, None, -1))
    with pytest.raises(ConfigurationError, match="selects nothing"):
        part(ref, "rows")  # type: ignore[arg-type]  # what is to be refused


@pytest.mark.parametrize("place", ["redis", "file-read", "zmq"])
def test_only_the_selected_bytes_move(place: str, redis_server: RedisServer, node: NodeServer, tmp_path: Path) -> None:
    url = {"redis": redis_server.database(), "file-read": f"file://{tmp_path}/f?mapped=0", "zmq": node.url}[place]
    with Store(url) as store:
        image = np.random.default_rng(2).random((1000, 1250))  # 10 MB, 10 kB a row
        ref = store.ref(image)

        np.testing.assert_array_equal(part(ref, slice(100, 110)), image[100:110])
        moved = store.stats()["get_range"]["bytes"]
        assert 10 * image[0].nbytes <= moved <= 10 * image[0].nbytes + 2 * FIRST
        assert "get" not in store.stats()

        np.testing.assert_array_equal(part(ref, slice(None, None, 50)), image[::50])
        assert store.stats()["get_range"]["bytes"] - moved <= 20 * image[0].nbytes + 2 * FIRST
        store.clear()


def test_what_lies_close_moves_as_one(redis_server: RedisServer) -> None:
    with Store(redis_server.database()) as store:
        data = np.arange(1_000_000, dtype="u1")
        ref = store.ref(data)

        found = part(ref, [slice(low, low + 10) for low in range(0, 100_000, 1000)])
        moved = store.stats()["get_range"]["bytes"]
        np.testing.assert_array_equal(found, np.concatenate([data[low : low + 10] for low in range(0, 100_000, 1000)]))
        assert moved < 100_000 + 2 * FIRST
        part(ref, [slice(0, 10), slice(NEAR + 20, NEAR + 30)])
        assert store.stats()["get_range"]["bytes"] - moved < 2 * FIRST + 100
        store.clear()


def test_parts_of_what_travels_inside(store: Store) -> None:
    ref = store.ref(np.arange(30))
    if ref.key is not None:
        pytest.skip("this store does not claim small objects inside their references")

    np.testing.assert_array_equal(part(ref, slice(3, 9, 2)), [3, 5, 7])


def test_what_has_no_rows_is_indexed_as_a_whole(store: Store) -> None:
    ref = store.ref([*range(5000)])

    assert part(ref, slice(10, 13)) == [10, 11, 12]
    with pytest.raises(ConfigurationError, match="no such part"):
        part(ref, [slice(0, 1), slice(2, 3)])
    with pytest.raises(ConfigurationError, match="no such part"):
        part(store.ref({n: n for n in range(5000)}), slice(0, 1))


def test_what_is_not_there_is_said(store: Store) -> None:
    ref = store.ref_from_key(store.put(np.arange(10_000)))
    ref.evict()

    with pytest.raises(KeyNotFound, match="Nothing lies under"):
        part(ref, slice(0, 10))


def test_a_part_lands_where_it_should(store: Store) -> None:
    image = np.arange(200_000.0).reshape(1000, 200)
    ref = store.ref(image)
    asked = []
    block = np.zeros((10, 200))

    def allocate(shape: Any) -> Any:
        asked.append(shape)
        return block

    found = part(ref, slice(20, 30), allocate=allocate)

    np.testing.assert_array_equal(block, image[20:30])
    assert np.shares_memory(found, block)
    assert (asked[0].nbytes, asked[0].shape, asked[0].meta[0]) == (16_000, (10, 200), "<f8")
    whole = bytearray(image.nbytes + 5)
    np.testing.assert_array_equal(part(ref, allocate=lambda _: whole), image)
    text = store.ref(b"x" * 10_000)
    assert part(text, slice(0, 5), allocate=lambda _: bytearray(5)).tobytes() == b"xxxxx"
    with pytest.raises(ConfigurationError, match="does not fit"):
        part(ref, slice(0, 2), allocate=lambda _: bytearray(10))
    with pytest.raises(ConfigurationError, match="read-only"):
        part(ref, slice(0, 2), allocate=lambda _: bytes(10_000))


def test_a_proxy_of_a_part_travels(redis_server: RedisServer) -> None:
    with Store(redis_server.database()) as store:
        image = np.arange(100_000.0).reshape(1000, 100)
        proxy = Part(store.ref(image), slice(5, 7)).proxy()

        sent = pickle.dumps(proxy)
        assert len(sent) < 500
        assert not is_resolved(proxy)
        other = pickle.loads(sent)
        np.testing.assert_array_equal(other, image[5:7])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(other)), image[5:7])
        changed = Part(store.ref(bytearray(9000)), slice(0, 3)).proxy()
        changed[0] = 7
        assert bytes(pickle.loads(pickle.dumps(changed))) == b"\7\0\0"
        store.clear()


@pytest.mark.parametrize("times", [1, 20])
def test_what_is_replaced_meanwhile_is_read_anew(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As often as that happens: in the end all of it is got at once."""
    with Store(redis_server.database()) as store:
        old, new = np.zeros(100_000), np.ones(100_000)
        key = store.put(old)
        connector: Any = store.connector
        original, calls = type(connector).get_range, []

        def replaced(self: Any, key: Key, offset: int, length: int) -> Any:
            calls.append(offset)
            if len(calls) % 2 == 0 and len(calls) <= 2 * times:
                store.put(new, key=key, replace=True)
            return original(self, key, offset, length)

        monkeypatch.setattr(type(connector), "get_range", replaced)

        np.testing.assert_array_equal(part(store.ref_from_key(key), slice(50_000, 50_010)), np.ones(10))
        store.clear()


def test_a_damaged_head_is_not_believed() -> None:
    frames = encode(Payload("bytes", "builtins:bytes", None, [b"x" * 10_000]), checksum=True)
    head = head_of(frames)

    assert (head.codec, head.nbytes, head.spans[0][1]) == ("bytes", frames.nbytes, frames.nbytes)
    assert length_of(frames.slice(0, 32)) == head.spans[0][0]
    whole = frames.tobytes()
    for place in (0, 5, 9, 25, 30, 40):
        broken = bytearray(whole[:FIRST])
        broken[place] ^= 0x55
        with pytest.raises(IntegrityError):
            head_of(Frames([broken]))
    with pytest.raises(IntegrityError):
        head_of(Frames([whole[:40]]))


@given(
    st.lists(st.tuples(st.integers(-70, 70), st.integers(-70, 70), st.integers(1, 9)), max_size=6),
    st.integers(0, 60),
)
def test_any_selection_of_any_array(bounds: list[tuple[int, int, int]], count: int) -> None:
    with Store("memory://", inline_below=0) as store:
        array = np.arange(count * 3).reshape(count, 3)
        selection = [slice(*each) for each in bounds]

        found = part(store.ref(array), selection)

        np.testing.assert_array_equal(found, expected(array, selection))
        store.clear()
