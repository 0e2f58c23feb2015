"""lz4+ and zstd+ pass the suite; and what is theirs: what pays, what is damaged, ranges, and who reads without them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies

from proxyfab import Store
from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import IntegrityError
from proxyfab.keys import Key
from proxyfab.layers.lz4 import Lz4Layer
from proxyfab.layers.packing import PackingLayer
from proxyfab.layers.zstd import ZstdLayer
from proxyfab.opening import open_connector
from proxyfab.testing import ConnectorTests, FaultyConnector
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.conformance.threads import ThreadTests
from proxyfab.testing.content import plain
from proxyfab.wire import packed
from proxyfab.wire.packed import CHUNK, DENSEST, HEADER, layer_of, parse, places

LAYERS = [Lz4Layer, ZstdLayer]


class TestLz4(ObjectTests, BatchTests, PayloadTests, ThreadTests):
    connector = Lz4Layer
    around = True

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"lz4+file://{directory}"


@pytest.mark.slow
class TestLz4All(TestLz4, ConnectorTests):
    """Everything, though what it is made of has shown it."""


class TestZstd(ObjectTests, BatchTests, PayloadTests):
    """Like the other but for the codec."""

    connector = ZstdLayer

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory))
        return "zstd+shm://"


def text(nbytes: int, seed: int = 0) -> bytes:
    """What compresses, but not to nothing."""
    words = np.random.default_rng(seed).integers(0, 40, nbytes // 4 + 1, dtype="<i4")
    return words.tobytes()[:nbytes]


@pytest.fixture(params=LAYERS)
def one(request: pytest.FixtureRequest) -> PackingLayer:
    return request.param(MemoryConnector())  # type: ignore[no-any-return]


def stored(one: PackingLayer, key: Key) -> Frames:
    found: Frames | None = one.child.get(key)
    assert found is not None
    return found


@pytest.mark.parametrize("nbytes", [0, 1, 255, 256, 70_000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17, 12 * CHUNK])
@pytest.mark.parametrize("make", [plain, text, lambda nbytes: bytes(nbytes)])
def test_what_is_put_is_got(one: PackingLayer, nbytes: int, make: Any) -> None:
    data = make(nbytes)
    third = nbytes // 3
    key = one.put(Frames([data[:third], data[third : 2 * third], data[2 * third :]]))
    found = one.get(key)
    stat = one.stat(key)

    assert found == Frames([data])
    assert stat is not None
    assert stat.nbytes == nbytes
    assert stored(one, key).nbytes <= nbytes + HEADER + 4 * (nbytes // CHUNK + 1)
    for offset, length in ((0, 10), (third, third), (CHUNK - 5, 10), (nbytes - 1, 100), (nbytes, 1), (0, nbytes)):
        if offset >= 0:
            assert one.get_range(key, offset, length) == Frames([data[offset : offset + length]])


def test_what_pays_shrinks_and_what_does_not_is_left_in_place(one: PackingLayer) -> None:
    small, large = one.put(Frames([text(5_000_000)])), one.put(Frames([plain(5_000_000)]))

    assert stored(one, small).nbytes < 2_500_000
    assert stored(one, large).nbytes == 5_000_000 + HEADER
    found = one.get(large)
    assert found is not None
    assert len(found) == 1
    assert found.join().readonly


def test_a_chunk_that_does_not_compress_is_stored_as_it_is(one: PackingLayer) -> None:
    data = text(3 * CHUNK) + plain(CHUNK) + text(CHUNK, 1)
    key = one.put(Frames([data]))
    form = parse(stored(one, key), stored(one, key).nbytes, one.name)

    assert form.chunks is not None
    assert [chunk.packed for chunk in form.chunks] == [True, True, True, False, True]
    assert one.get(key) == Frames([data])


def test_the_sample_looks_everywhere() -> None:
    looked = places(100 * CHUNK)

    assert (looked[0][0], sum(looked[-1])) == (0, 100 * CHUNK)
    assert len(looked) == 8
    assert places(1000) == [(0, 1000)]


def test_ranges_move_what_they_touch(one: PackingLayer) -> None:
    link = FaultyConnector(MemoryConnector())
    far = type(one)(link)
    data = text(10 * CHUNK)
    key = far.put(Frames([data]))
    assert far.get_range(key, 5 * CHUNK + 100, 1000) == Frames([data[5 * CHUNK + 100 :][:1000]])

    assert link.calls["get"] == 0
    assert link.nbytes["get_range"] < CHUNK + 3 * 4096


def test_an_object_that_is_replaced_between_two_reads_is_read_as_a_whole(one: PackingLayer) -> None:
    data, later = text(3 * CHUNK), text(4 * CHUNK, 5)
    key = one.put(Frames([data]), key=Key("k"))
    read, calls = one.child.get_range, []

    def replace_behind_the_first(key: Key, offset: int, length: int) -> Any:
        found = read(key, offset, length)
        if not calls:
            calls.append(1)
            one.put(Frames([later]), key=key, replace=True)
        return found

    one.child.get_range = replace_behind_the_first  # type: ignore[method-assign]

    assert one.get_range(key, CHUNK, 100) == Frames([later[CHUNK : CHUNK + 100]])


@pytest.mark.parametrize("data", [text(2 * CHUNK + 5), plain(1000)])
def test_whatever_is_damaged_is_an_error_or_the_bytes(one: PackingLayer, data: bytes) -> None:
    """The content has its own checksum inside, where it leaves memory; the form is checked here."""
    whole = stored(one, one.put(Frames([data]), key=Key("k"))).tobytes()
    rng = np.random.default_rng(1)
    for number in [*range(HEADER + 12), *rng.integers(HEADER + 12, len(whole), 30).tolist()]:
        broken = bytearray(whole)
        broken[number] ^= 1 << int(rng.integers(8))
        one.child.put(Frames([broken]), key=Key("k"), replace=True)
        try:
            found = one.get(Key("k"))
        except IntegrityError:
            pass
        else:
            assert number >= HEADER
            assert found is not None
            assert found.nbytes == len(data)
    for length in (0, 1, HEADER - 1, HEADER, HEADER + 3, len(whole) - 1):
        one.child.put(Frames([whole[:length]]), key=Key("k"), replace=True)
        with pytest.raises(IntegrityError):
            one.get(Key("k"))


def test_a_bomb_is_refused_before_memory_is_taken(one: PackingLayer) -> None:
    honest = one.put(Frames([bytes(20 * CHUNK)]))
    assert stored(one, honest).nbytes >= 20 * CHUNK // DENSEST
    assert one.get(honest) == Frames([bytes(20 * CHUNK)])

    count = 1 << 20  # a terabyte, as its table says
    table = struct.pack(f"<{count}I", *[1] * count)
    body = packed._FIELDS.pack(b"PFPK", 1, 1, 0, count * CHUNK, CHUNK, count, 0, one.name.encode())
    bomb = body + packed._CRC.pack(packed.crc32(table, packed.crc32(body))) + table + bytes(count)
    one.child.put(Frames([bomb]), key=Key("bomb"))
    with pytest.raises(IntegrityError, match="declares"):
        one.get(Key("bomb"))


@given(head=strategies.binary(max_size=300), packed_by=strategies.sampled_from(["lz4", "zstd", "other"]))
def test_any_bytes_parse_or_are_refused(head: bytes, packed_by: str) -> None:
    for data in (head, b"PFPK" + head, b"PFPK\x01\x01\0\0" + head):
        frames = Frames([data[:50], data[50:]])
        layer_of(frames)
        with pytest.raises(IntegrityError):
            parse(frames, len(data), packed_by)


def test_who_reads_without_the_layer_is_told_its_name(tmp_path: Path) -> None:
    url = f"file://{tmp_path}?ns=x"
    with Store(f"lz4+{url}") as packing, Store(url) as bare, Store(f"zstd+{url}") as other:
        array = np.arange(100_000) % 50
        key, unpacked = packing.put(array), bare.put(array)

        np.testing.assert_array_equal(packing.get(key), array)
        with pytest.raises(IntegrityError, match=r"lz4\+"):
            bare.get(key)
        with pytest.raises(IntegrityError, match=r"lz4\+"):
            other.get(key)
        with pytest.raises(IntegrityError, match=r"lz4\+"):
            packing.get(unpacked)
        assert packing.clear() == 2


def test_layers_stack_and_travel(tmp_path: Path) -> None:
    with open_connector(f"lz4+zstd+file://{tmp_path}", name="x") as one:  # type: ignore[attr-defined]
        key = one.put(Frames([text(100_000)]))
        with open_connector(one.spec) as again:  # type: ignore[attr-defined]
            assert one.spec == again.spec == f"lz4+zstd+file://{tmp_path}?ns=x"
            assert again.get(key) == Frames([text(100_000)])
            assert again.clear() == 1


def test_a_checksum_is_kept(tmp_path: Path) -> None:
    assert [type_(FileConnector(tmp_path)).checksums for type_ in LAYERS] == [True, True]
    assert [type_(MemoryConnector()).checksums for type_ in LAYERS] == [False, False]


def test_a_level_travels_with_the_connector() -> None:
    import pickle

    one = ZstdLayer(MemoryConnector(), level=9)

    assert pickle.loads(pickle.dumps(one)).level == 9


def test_a_child_that_cannot_list_is_no_lister() -> None:
    class Bare(BaseConnector):
        scheme = "bare"

    assert not hasattr(type(Lz4Layer(Bare())), "scan") or Lz4Layer(Bare()).scan is None
