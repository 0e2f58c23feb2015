"""Topics in memory, step by step and with a clock of the test's own, against a model that is slow and simple."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxyfab.errors import BackPressureError, CapacityError, ConfigurationError, Conflict, TopicNotFound
from proxyfab.events import engine
from proxyfab.events.cursor import NEVER
from proxyfab.events.engine import Log
from proxyfab.events.model import (
    EARLIEST,
    LATEST,
    Extent,
    Position,
    Record,
    Topic,
    check_group,
    check_name,
    check_topic,
)
from proxyfab.events.partition import Partition
from proxyfab.events.plain import info_in, info_out, start_in, start_out, topic_in, topic_out
from proxyfab.events.values import Values

ALL = frozenset({0, 1, 2})


class Clock:
    """Both clocks in one, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    @property
    def time(self) -> Callable[[], float]:
        return lambda: self.now

    @property
    def monotonic(self) -> Callable[[], float]:
        return lambda: self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class LogMachine(RuleBasedStateMachine):
    """Two groups at one topic; deadlines pass, members leave, records grow old."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.sent: dict[tuple[int, int], tuple[bytes, float]] = {}
        self.cursors: dict[str, dict[int, int]] = {}
        self.owed: dict[str, dict[tuple[int, int], list]] = {"a": {}, "b": {}}
        self.due: dict[str, dict[tuple[int, int], list]] = {"a": {}, "b": {}}

    @initialize(retention=strategies.none() | strategies.floats(1, 100))
    def begin(self, retention: float | None) -> None:
        self.retention = retention
        self.log = Log(Topic("t", partitions=3, retention=retention, groups=("a", "b")), self.clock)
        for group in "ab":
            self.cursors[group] = {0: 1, 1: 1, 2: 1}
        self.last = [0, 0, 0]

    def alive(self, spot: tuple[int, int]) -> bool:
        return self.retention is None or self.sent[spot][1] >= self.clock.now - self.retention

    @rule(partition=strategies.integers(0, 2), count=strategies.integers(1, 4))
    def publish(self, partition: int, count: int) -> None:
        records = [Record(b"%d" % (len(self.sent) + n), partition=partition) for n in range(count)]
        for record, where in zip(records, self.log.publish(records), strict=True):
            self.last[partition] += 1
            assert where == Position("t", partition, self.last[partition])
            self.sent[partition, where.offset] = record.body, self.clock.now

    @rule(seconds=strategies.sampled_from([0.1, 1.0, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(
        group=strategies.sampled_from("ab"),
        member=strategies.integers(1, 3),
        most=strategies.integers(1, 5),
        ack_wait=strategies.sampled_from([2.0, 10.0]),
        partitions=strategies.sampled_from([ALL, frozenset({1}), frozenset({0, 2})]),
    )
    def fetch(self, group: str, member: int, most: int, ack_wait: float, partitions: frozenset[int]) -> None:
        self._expire(group)
        found = self.log.fetch(group, member, most, ack_wait, partitions)
        assert len(found) <= most
        due, owed, now = self.due[group], self.owed[group], self.clock.now
        for each in found:
            spot = each.position.partition, each.position.offset
            assert spot[0] in partitions
            assert (each.body, each.time) == self.sent[spot]
            assert self.alive(spot)
            if spot in due:
                when, attempt, note = due.pop(spot)
                assert when <= now
                assert (each.attempt, each.note) == (attempt + 1, note)
                owed[spot] = [member, now + ack_wait, attempt + 1, note]
            else:
                expected = self.cursors[group][spot[0]]
                while not self.alive((spot[0], expected)):
                    expected += 1
                assert spot[1] == expected
                assert (each.attempt, each.note) == (1, b"")
                self.cursors[group][spot[0]] = expected + 1
                owed[spot] = [member, now + ack_wait, 1, b""]
        if len(found) < most:  # nothing was left over
            assert not [s for s, (when, *_) in due.items() if when <= now and s[0] in partitions and self.alive(s)]
            for partition in partitions:
                left = range(self.cursors[group][partition], self.last[partition] + 1)
                assert not [offset for offset in left if self.alive((partition, offset))]
            for spot in [s for s, (when, *_) in due.items() if when <= now and s[0] in partitions]:
                del due[spot]  # retention took them, which was noticed

    def _expire(self, group: str) -> None:
        for spot, (_, deadline, attempt, note) in list(self.owed[group].items()):
            if deadline <= self.clock.now:
                del self.owed[group][spot]
                self.due[group][spot] = [self.clock.now, attempt, note]

    def _some(self, group: str, choices: list[int]) -> list[tuple[int, int]]:
        every = sorted(self.owed[group])
        return [every[choice % len(every)] for choice in choices] if every else []

    @rule(group=strategies.sampled_from("ab"), choices=strategies.lists(strategies.integers(0, 20), max_size=4))
    def ack(self, group: str, choices: list[int]) -> None:
        spots = self._some(group, choices)
        self.log.ack(group, [*spots, (2, 1 << 40)])
        for spot in spots:
            self.owed[group].pop(spot, None)

    @rule(
        group=strategies.sampled_from("ab"),
        choices=strategies.lists(strategies.integers(0, 20), max_size=4),
        delay=strategies.sampled_from([0.0, 3.0]),
        note=strategies.sampled_from([b"", b"note"]),
    )
    def nack(self, group: str, choices: list[int], delay: float, note: bytes) -> None:
        for spot in dict.fromkeys(self._some(group, choices)):
            member, _, attempt, _ = self.owed[group].pop(spot)
            self.log.nack(group, member + 1, [spot], delay, b"not mine")
            self.log.nack(group, member, [spot], delay, note)
            self.due[group][spot] = [self.clock.now + delay, attempt, note]

    @rule(group=strategies.sampled_from("ab"), choices=strategies.lists(strategies.integers(0, 20), max_size=4))
    def extend(self, group: str, choices: list[int]) -> None:
        self._expire(group)
        self.log.fetch(group, 9, 0, 1.0, frozenset())  # so that both sides know what is over
        for spot in self._some(group, choices):
            known = self.owed[group][spot]
            self.log.extend(group, known[0], [spot], 20.0)
            known[1] = self.clock.now + 20.0

    @rule(group=strategies.sampled_from("ab"), member=strategies.integers(1, 3))
    def leave(self, group: str, member: int) -> None:
        self.log.leave(group, member)
        for spot, (owner, _, attempt, note) in list(self.owed[group].items()):
            if owner == member:
                del self.owed[group][spot]
                self.due[group][spot] = [self.clock.now, attempt, note]

    @rule(group=strategies.sampled_from("ab"), latest=strategies.booleans())
    def seek(self, group: str, latest: bool) -> None:
        self.log.seek_group(group, LATEST if latest else EARLIEST)
        self.cursors[group] = {number: self.last[number] + 1 if latest else 1 for number in range(3)}
        self.owed[group].clear()
        self.due[group].clear()

    @precondition(lambda self: self.last != [0, 0, 0])
    @rule(partition=strategies.integers(0, 2))
    def read(self, partition: int) -> None:
        cursors = {partition: 1}
        found = self.log.read(cursors, 1 << 30)
        expected = [offset for (part, offset) in self.sent if part == partition]
        assert [each.position.offset for each in found][-len(expected) :] == expected[len(expected) - len(found) :]
        assert cursors == {partition: self.last[partition] + 1}

    @invariant()
    def it_knows_how_far_groups_are(self) -> None:
        if not self.cursors:
            return
        for group in "ab":
            info = self.log.info(group)
            undone = [*self.owed[group], *self.due[group]]
            assert info.pending == len(undone)
            for partition in range(3):
                mine = [offset for part, offset in undone if part == partition]
                cursor = self.cursors[group][partition]
                assert min([cursor - 1, *[offset - 1 for offset in mine]]) <= info.floor[partition]
                assert info.floor[partition] <= min([self.last[partition], *[offset - 1 for offset in mine]])

    @invariant()
    def it_knows_when_to_look_again(self) -> None:
        for group in "ab" if self.cursors else "":
            ends = [deadline for _, deadline, *_ in self.owed[group].values()]
            later = [when for when, *_ in self.due[group].values() if when > self.clock.now]
            look = self.log.next_change(group)
            if not [when for when, *_ in self.due[group].values() if when <= self.clock.now]:
                assert look <= min([*ends, *later, NEVER])


LogMachine.TestCase.settings = settings(deadline=None)
TestLog = LogMachine.TestCase


# -- one by one ------------------------------------------------------------------------------------------------------


def test_a_partition_keeps_its_offsets_when_it_is_cut() -> None:
    partition = Partition()
    for number in range(5000):
        assert partition.append(Record(b"%d" % number), float(number)) == number + 1
    for number in range(4000):
        assert partition.oldest is not None
        assert partition.oldest.time == number
        assert partition.drop() == len(b"%d" % number)
    assert (partition.base, partition.last, len(partition)) == (4001, 5000, 1000)
    assert partition.get(4000) is None
    assert partition.get(5001) is None
    assert partition.get(4001) == (Record(b"4000"), 4000.0)
    assert partition.since(4500.0) == 4501
    assert partition.since(0.0) == 4001
    assert partition.since(1e9) == 5001
    assert partition.nbytes == 4000


def test_what_is_done_goes_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "HISTORY", 20_000)
    log = Log(Topic("t", groups=("g",)))
    for number in range(100):
        log.publish([Record(bytes(1000))])
        if number < 50:
            (found,) = log.fetch("g", 1, 1, 10.0, frozenset({0}))
            log.ack("g", [(0, found.position.offset)])
    assert log.describe().extents[0] == Extent(51, 100)  # nothing goes that is not done


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    log = Log(Topic("t", max_bytes=2500))
    log.publish([Record(bytes(1000), "a")])
    with pytest.raises(BackPressureError):
        log.publish([Record(bytes(1000), "b"), Record(bytes(1000), "c")])
    assert log.describe().records == 1
    assert [each.offset for each in log.publish([Record(bytes(1000), "a"), Record(bytes(1000), "b")])] == [1, 2]
    with pytest.raises(TopicNotFound, match="partition 1"):
        log.publish([Record(b"x"), Record(b"x", partition=1)])
    assert log.describe().records == 2


def test_what_is_larger_than_all_of_it_drops_nothing() -> None:
    log = Log(Topic("t", max_bytes=2500, full="drop_oldest"))
    log.publish([Record(bytes(1000))])
    with pytest.raises(BackPressureError):
        log.publish([Record(bytes(3000))])
    assert log.describe().records == 1


def test_a_note_stays_with_its_record_when_who_had_it_dies(clock: Clock) -> None:
    log = Log(Topic("t", groups=("g",)), clock)
    log.publish([Record(b"x")])
    log.fetch("g", 1, 1, 10.0, ALL)
    log.nack("g", 1, [(0, 1)], 0.0, b"half")
    for member, attempt in ((2, 2), (3, 3)):
        (found,) = log.fetch("g", member, 1, 10.0, ALL)
        assert (found.note, found.attempt) == (b"half", attempt)
        log.leave("g", member)
    log.fetch("g", 4, 1, 10.0, ALL)
    clock.now += 10.0
    (found,) = log.fetch("g", 4, 1, 10.0, ALL)
    assert (found.note, found.attempt) == (b"half", 5)


def test_partitions_take_turns() -> None:
    log = Log(Topic("t", partitions=3, groups=("g",)))
    for partition in range(3):
        log.publish([Record(b"x", partition=partition)] * 10)
    first = [log.fetch("g", 1, 1, 10.0, ALL)[0].position.partition for _ in range(6)]
    assert sorted(first) == [0, 0, 1, 1, 2, 2]
    cursors = {0: 1, 1: 1, 2: 1}
    read = [log.read(cursors, 1)[0].position.partition for _ in range(6)]
    assert sorted(read) == [0, 0, 1, 1, 2, 2]


def test_room_ends_a_fetch() -> None:
    log = Log(Topic("t", groups=("g",)))
    log.publish([Record(bytes(1000))] * 10)
    assert len(log.fetch("g", 1, 10, 10.0, ALL, room=2500)) == 3
    assert len(log.read({0: 1}, 10, room=1)) == 1


def test_times_to_live(clock: Clock) -> None:
    values = Values(clock)
    first = values.put("k", b"1", None, 10.0)
    assert values.next_end({"k": 0, "other": 0}) == 1010.0
    clock.now += 10.0
    assert values.changed({"k": first}) == {"k": None}
    assert values.items("") == {}
    with pytest.raises(Conflict):
        values.put("k", b"2", first, None)
    assert values.nbytes == 0
    for number in range(1000):
        values.put(f"short/{number}", bytes(100), None, 1.0)
        clock.now += 1.0
    assert values.nbytes < 300 * 120  # what nobody asks for goes, too
    with pytest.raises(CapacityError):
        values.put("k", bytes((512 << 10) + 1), None, None)


@pytest.mark.parametrize("text", ["frames/0@1234", "a.b-c/7@1.63"])
def test_a_position_as_text(text: str) -> None:
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize("text", ["", "t", "t/0", "t/0@", "t/x@1", "t@1", "t/0@1.", "t/0@-1", "/0@1"])
def test_no_position(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Position.parse(text)


def test_topics_and_starts_as_plain_things() -> None:
    topic = Topic("t", 3, 1.5, 10, "drop_oldest", 5.0, "never", ("a",), {"k": [1, {"m": None}]})
    assert topic_in(topic_out(topic)) == topic
    for start in (EARLIEST, LATEST, 12.5, {0: 3, 7: 1}):
        assert start_in(start_out(start)) == start
    with pytest.raises(ConfigurationError, match="plain"):
        topic_out(Topic("t", options={"f": object()}))
    log = Log(topic)
    assert info_in(info_out(log.info("a"))) == log.info("a")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Topic("a b"),
        lambda: Topic("t", partitions=0),
        lambda: Topic("t", partitions=1025),
        lambda: Topic("t", full="block"),
        lambda: Topic("t", release="soon"),
        lambda: Topic("t", groups=("a b",)),
        lambda: check_topic("x" * 129),
        lambda: check_group(""),
        lambda: check_name("/.."),
    ],
)
def test_what_makes_no_sense(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()
