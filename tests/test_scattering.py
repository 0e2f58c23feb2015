"""Shards at several children and back: every loss that can be borne, every fault, and nothing left behind."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import Options
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.erasure.locator import Locator, Lying
from proxyfab.erasure.shard import Shape
from proxyfab.errors import CapabilityError, CapacityError, ConfigurationError, ConnectorError, IntegrityError
from proxyfab.keys import Key
from proxyfab.scattering import sending
from proxyfab.scattering.members import Pace
from proxyfab.scattering.upkeep import Upkeep
from proxyfab.testing import FaultyConnector, until

DATA = Frames([b"what must not be lost, ", bytes(range(256)) * 9])


def scattered(children: list[Any], k: int, m: int, **how: Any) -> ErasureConnector:
    return ErasureConnector(children, Options(k=k, m=m, small=0, **how))


def in_memory(count: int) -> list[FaultyConnector]:
    return [FaultyConnector(MemoryConnector()) for _ in range(count)]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[FaultyConnector]]:
    """Children whose calls take threads of their own, as those of any place that may hang."""
    children = [FaultyConnector(FileConnector(tmp_path / str(number))) for number in range(4)]
    yield children
    for child in children:
        child.mend()
        child.clear()
        child.close()


def holds(child: FaultyConnector) -> int:
    return len([*child.child.scan()])


def warned(caplog: pytest.LogCaptureFixture) -> int:
    return len([record for record in caplog.records if record.name == "proxyfab.erasure"])


def contents(child: FaultyConnector) -> list[Frames]:
    return [child.child.get(stat.key) for stat in child.child.scan()]


def shard_of(child: FaultyConnector, key: Key) -> Key:
    return next(stat.key for stat in child.child.scan() if stat.key.id == key.id)


def shards_of(key: Key) -> list[Lying]:
    return [lying for lying in Locator.parse(key.where).shards if lying.child]


def flipped(raw: bytes) -> bytes:
    return raw[:70] + bytes([raw[70] ^ 1]) + raw[71:]


@pytest.mark.parametrize(("k", "m"), [(2, 1), (4, 2), (6, 3)])
def test_every_loss_that_can_be_borne_is_and_one_more_is_an_error(k: int, m: int) -> None:
    children = in_memory(k + m)
    one = scattered(children, k, m)
    key = one.put(DATA)
    assert [holds(child) for child in children] == [1] * (k + m)
    assert one.get(key) == DATA
    for lost in combinations(children, m):
        for child in lost:
            child.cut()
        assert one.get(key) == DATA
        assert one.exists(key)
        for child in lost:
            child.mend()
    for lost in [*combinations(children, m + 1)][:10]:
        for child in lost:
            child.cut()
        with pytest.raises(ConnectorError, match=rf"only {k - 1} shards can be read, and {k} are needed: .*cannot be"):
            one.get(key)
        with pytest.raises(ConnectorError, match="cannot be told"):
            one.exists(key)
        for child in lost:
            child.mend()


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-1], flipped, lambda raw: b"", lambda raw: raw + b"x"])
def test_a_spoilt_shard_is_a_missing_one(spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture) -> None:
    children = in_memory(6)
    one = scattered(children, 4, 2)
    key = one.put(DATA)
    for count, child in enumerate(children, 1):
        inner = shard_of(child, key)
        child.child.put(Frames([spoil(child.child.get(inner).tobytes())]), key=inner, replace=True)
        caplog.clear()
        if count <= 2:
            assert one.get(key) == DATA
            assert warned(caplog) <= count
        else:
            with pytest.raises(IntegrityError, match="shards can be read, and 4 are needed"):
                one.get(key)


def test_the_right_bytes_of_another_object_are_wrong() -> None:
    children = in_memory(3)
    one = scattered(children, 2, 1)
    key, other = one.put(DATA), one.put(Frames([bytes(DATA.nbytes)]))
    for child in children[:2]:
        raw = child.child.get(shard_of(child, other))
        child.child.put(raw, key=shard_of(child, key), replace=True)
        if child is children[0]:
            assert one.get(key) == DATA
    with pytest.raises(IntegrityError, match="a shard of another object, or another shard"):
        one.get(key)
    assert one.get(other) == Frames([bytes(DATA.nbytes)])


def test_missing_is_missing() -> None:
    one = scattered(in_memory(4), 2, 1)
    key, other = one.put(DATA), one.put(Frames())
    assert one.evict(key)
    assert (one.get(key), one.exists(key), one.evict(key)) == (None, False, False)
    assert one.get(other) == Frames()
    assert sum(holds(child) for child in one.children) == 3


def test_a_spare_takes_the_place_of_who_fails(caplog: pytest.LogCaptureFixture) -> None:
    children = in_memory(4)
    one = scattered(children, 2, 1)
    for broken in children:
        broken.fail("put")
        caplog.clear()
        key = one.put(DATA)
        broken.mend()
        assert warned(caplog) <= 1
        assert all(lying.child for lying in Locator.parse(key.where).shards)
        assert one.get(key) == DATA
        one.evict(key)
    assert until(lambda: not any(holds(child) for child in children), 10)


def test_a_quorum_is_enough_and_what_may_lie_there_all_the_same_goes_with_the_object() -> None:
    children = in_memory(6)
    one = scattered(children, 4, 2)
    children[2].fail("put", done=True)
    key = one.put(DATA)
    assert sum(bool(lying.child) for lying in Locator.parse(key.where).shards) == 5
    assert one.scattering.means.flush(10)
    assert holds(children[2]) == 1, "who evicted it now might evict what a repair has put there"
    children[3].cut()
    assert one.get(key) == DATA
    children[3].mend()
    assert one.evict(key)
    assert until(lambda: not any(holds(child) for child in children), 10)


def test_what_is_put_in_place_of_a_shard_that_was_not_stored_stays() -> None:
    """By whoever repairs, in whichever process, before the one who put it can make up for that."""
    children = in_memory(5)
    one, other = scattered(children, 2, 2), scattered(children, 2, 2)
    children[0].fail("put")
    gate = children[0].hold("evict_many")
    while not children[0].calls["put"]:
        key = one.put(DATA)
    children[1].cut()
    Upkeep(other.scattering, other.registers).scrub(repair=True)
    there = holds(children[0])
    assert there > 0
    gate.set()
    assert one.scattering.means.flush(10)
    assert holds(children[0]) == there
    assert one.get(key) == DATA


@pytest.mark.parametrize(
    ("error", "kind"),
    [(lambda: CapacityError("It is full."), CapacityError), (lambda: ConnectorError("It is away."), ConnectorError)],
)
def test_short_of_the_quorum_nothing_stays(error: Callable[[], Exception], kind: type[Exception]) -> None:
    children = in_memory(6)
    one = scattered(children, 4, 2)
    for child in children[:3]:
        child.fail("put", error, times=2)
    with pytest.raises(kind, match=r"only 3 of 6 children can be used, and 4 are needed: .*It is (full|away)\.;"):
        one.put(DATA)
    assert until(lambda: not any(holds(child) for child in children), 10)


def test_with_fewer_children_the_code_is_narrower_and_not_weaker() -> None:
    children = in_memory(6)
    one = scattered(children, 4, 2)
    for child in children[:2]:
        child.cut()
    key = one.put(DATA)
    shape = Locator.parse(key.where).shape
    assert (shape.k, shape.m) == (2, 2)
    assert [holds(child) for child in children] == [0, 0, 1, 1, 1, 1]
    for child in children[2:4]:
        child.cut()
    assert one.get(key) == DATA


def test_a_put_that_is_interrupted_leaves_nothing() -> None:
    for at in range(4):
        children = in_memory(4)
        one = scattered(children, 3, 1)
        children[at].fail("put", KeyboardInterrupt, done=bool(at % 2))
        with pytest.raises(KeyboardInterrupt):
            one.put(DATA)
        assert until(lambda children=children: not any(holds(child) for child in children), 10)


def test_who_hangs_is_passed_over(files: list[FaultyConnector]) -> None:
    one = scattered(files, 2, 2, patience=2.0, hedge=0.05)
    gate = files[0].hold("put")
    key = one.put(DATA)
    assert [bool(lying.child) for lying in Locator.parse(key.where).shards].count(True) == 3
    gate.set()
    assert until(lambda: holds(files[0]) == 1, 10), "it came too late, and goes with the object"

    files[1].hold("get")
    assert one.get(key) == DATA
    files[0].hold("get")
    files[2].hold("get")
    with pytest.raises(ConnectorError, match="only 1 shards can be read, and 2 are needed: .*No answer came within"):
        one.get(key)


def test_large_pieces_are_stored_as_small_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data are on their way before there is parity: the same bytes come to lie in the same places."""
    shape, stored, locators = Shape(bytes(range(16)), 1, 0, DATA.nbytes), [], []
    for split in (1 << 20, 1):
        monkeypatch.setattr(sending, "_SPLIT", split)
        children = in_memory(7)
        children[4].fail("put")
        locator = scattered(children, 4, 2).scattering._sending.send(DATA, shape, None)
        stored.append([[found.tobytes() for found in contents(child)] for child in children])
        locators.append([(lying.digest, bool(lying.child)) for lying in locator.shards] + [locator.digest])
    assert stored[0] == stored[1]
    assert locators[0] == locators[1]


def test_large_pieces_that_are_interrupted_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_SPLIT", 1)
    for at in range(4):
        children = in_memory(4)
        children[at].fail("put", KeyboardInterrupt, done=bool(at % 2))
        with pytest.raises(KeyboardInterrupt):
            scattered(children, 3, 1).put(DATA)
        assert until(lambda children=children: not any(holds(child) for child in children), 10)


def test_data_are_asked_for_first() -> None:
    children = in_memory(6)
    one = scattered(children, 4, 2)
    key = one.put(DATA)
    one.get(key)
    assert sum(child.calls["get"] for child in children) == 4
    labels = [lying.child for lying in Locator.parse(key.where).shards]
    mine = [member.label for member in one.members.all]
    assert [child.calls["get"] for child in children] == [int(labels.index(label) < 4) for label in mine]


def test_a_put_is_one_call_of_each_child(files: list[FaultyConnector]) -> None:
    """Side by side, so that it takes as long as the slowest child."""
    one = scattered(files, 2, 2)
    for child in files:
        child.delay = 0.3
    began = time.monotonic()
    key = one.put(DATA)
    assert time.monotonic() - began < 1.1, "four delays are 1.2 s"
    assert [{what: count for what, count in child.calls.items() if what != "reserve"} for child in files] == [
        {"put": 1}
    ] * 4
    for child in files:
        child.delay = 0.0
    assert one.get(key) == DATA


def test_evict_says_when_it_did_not(caplog: pytest.LogCaptureFixture) -> None:
    children = in_memory(3)
    one = scattered(children, 2, 1)
    key = one.put(DATA)
    children[0].cut()
    assert one.evict(key)
    assert warned(caplog) == 1
    children[0].mend()
    assert until(lambda: holds(children[0]) == 0, 10)

    key = one.put(DATA)
    children[0].cut()
    children[1].cut()
    with pytest.raises(ConnectorError, match="may still be read"):
        one.evict(key)


def test_drawn_keys_need_nobody_who_compares() -> None:
    class Bare(MemoryConnector):
        compare_and_set = None  # type: ignore[assignment]

    one = scattered([MemoryConnector(), Bare(), MemoryConnector()], 2, 1)
    key = one.put(DATA)
    assert (one.get(key), one.exists(key), one.renew(key, None)) == (DATA, True, True)
    assert one.evict(key)
    assert (one.get(key), one.exists(key), one.evict(key), one.renew(key, 9.0)) == (None, False, False, False)
    with pytest.raises(CapabilityError, match="let keys be drawn"):
        one.put(DATA, key=Key("named"))


def test_a_drained_member_takes_no_meaning_along() -> None:
    """Two of five are drained and taken away; one of those who agreed on a name is left, and the others were told."""
    children = in_memory(5)
    one = scattered(children, 2, 1)
    for child in children[3:]:
        child.cut()
    one.put(DATA, key=Key("named"))
    for child in children[3:]:
        child.mend()
    one.members[3].failures = one.members[4].failures = 0
    Upkeep(one.scattering, one.registers).drain(0)
    rest = scattered(children[1:], 2, 1)
    Upkeep(rest.scattering, rest.registers).drain(0)
    assert scattered(children[2:], 2, 1).get(Key("named")) == DATA
    one.close()


@pytest.mark.parametrize("how", ["get", "repair"])
def test_what_was_evicted_while_one_was_away_is_not_restored(how: str) -> None:
    """The process that evicts ends before the one who was away is back; he has one of the copies."""
    children = in_memory(3)
    one = ErasureConnector(children, Options(k=2, m=1))
    key = one.put(DATA)
    first, last = (number for number in map(one.members.by_label.get, map(attrgetter("child"), shards_of(key))))
    children[last if how == "get" else first].cut()
    assert one.evict(key)
    one.scattering.means.closed = True  # what it owes is owed by nobody any more
    other = ErasureConnector([MemoryConnector(child.spec.partition("//")[2]) for child in children], Options(k=2, m=1))
    if how == "get":
        assert other.get(key) is None
    else:
        assert list(other.scan()) == []
        report = Upkeep(other.scattering, other.registers).scrub(repair=True)
        assert (report.restored, report.strays, report.lost) == (0, 1, ())
    assert other.scattering.means.flush(10)
    assert other.get(key) is None
    assert [stat.key.id for child in children for stat in child.child.scan() if stat.key.id == key.id] == []


def test_a_list_leads_to_nothing_but_its_own_segments() -> None:
    """Whoever made the key: cut lists, other objects' segments, one of them thousands of times."""
    one = scattered([MemoryConnector() for _ in range(3)], 2, 1, segment=1000)
    data = Frames([bytes(range(250)) * 20])
    strange = one.put(data)
    mine = one.scattering._segments(Locator.parse(strange.where)) or []

    def text(segments: list[Locator]) -> bytes:
        return b"".join(struct.pack("<I", len(str(part))) + str(part).encode() for part in segments)

    cut = [b"\1\2\3", bytes(4), struct.pack("<I", 4) + b"\xff\xfe\0\0", struct.pack("<I", 2**32 - 1) + b"abc"]
    for number, raw in enumerate([*cut, text(mine), text(mine[:1] * 50), text([Locator.parse(strange.where)])]):
        shape = Shape(bytes([number]) * 16, 1, 0, len(raw), total=5000)
        locator = one.scattering._sending.send(Frames([raw]), shape, None)
        key = Key(shape.id.hex(), str(locator))
        for look in (one.get, lambda key: one.get_range(key, 1500, 20)):
            with pytest.raises(IntegrityError, match="the list of its segments is none"):
                look(key)
        assert one.evict(key)
        assert not one.exists(key)
    assert one.get(strange) == data


def test_keys_of_other_places_and_codes() -> None:
    children = in_memory(3)
    one = scattered(children, 2, 1)
    key = one.put(DATA)
    assert len(str(key)) < 300
    with pytest.raises(ConnectorError, match="does not lie in"):
        scattered(in_memory(3), 2, 1).get(key)
    assert scattered([*children, *in_memory(1)], 2, 2).get(key) == DATA, "a key says its code itself"
    with pytest.raises(ConnectorError, match="does not lie in"):
        one.get(Key("f" * 32, key.where))
    assert one.get(Key(key.id)) == DATA, "its children are searched"


@pytest.mark.parametrize("how", [{"count": 2}, {"quorum": 1}, {"quorum": 4}])
def test_what_cannot_be(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"k=2(,| and) m=1"):
        scattered(in_memory(how.pop("count", 3)), 2, 1, **how)
    child = MemoryConnector()
    with pytest.raises(ConfigurationError, match="different children"):
        scattered([child] * 3, 2, 1)


def test_what_is_late_is_told_while_other_threads_have_answers() -> None:
    class Answered(float):
        def __lt__(self, other: float) -> bool:
            pace.add(100, 0.1)
            return super().__lt__(other)

    pace = Pace(0.5)
    for _ in range(16):
        pace.add(100, Answered(0.1))
    assert pace.late(100) == pytest.approx(0.1)
