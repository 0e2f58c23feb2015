"""Each broken promise is found in a history that was written to break it, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyfab.errors import ConnectorError
from proxyfab.testing.history import EVENTS, Event, History, Log, Record, recent
from proxyfab.testing.verdict import Promise, Verdict, judge

KEEPS = Promise(5.0, errors=frozenset({"ConnectorError"}))
WRITER = Promise(5.0, lives_with="writer")
SERVER = Promise(5.0, lives_with="server", tells=True, errors=frozenset({"ConnectorError"}))


def put(at: float, took: float | None = 0.1, version: int = 1, ttl: float | None = None, result: str = "k") -> Record:
    done = None if took is None else at + took
    return Record("writer-1", "put", ("k",), version, ttl, at, done, () if took is None else (result,))


def evict(at: float, took: float | None = 0.1) -> Record:
    done = None if took is None else at + took
    return Record("writer-1", "evict", ("k",), 0, None, at, done, () if took is None else ("true",))


def get(at: float, result: str, took: float = 0.1, who: str = "reader-1") -> Record:
    return Record(who, "get", ("k",), 0, None, at, at + took, (result,))


def broken(promise: Promise, *history: Record | Event) -> list[str]:
    records = sorted((one for one in history if isinstance(one, Record)), key=lambda record: record.invoked)
    return [found.rule for found in judged(promise, records, history).violations]


def judged(promise: Promise, records: list[Record], history: tuple[Record | Event, ...]) -> Verdict:
    return judge(History(records, [one for one in history if isinstance(one, Event)]), promise)


@pytest.mark.parametrize(
    ("rules", "history"),
    [
        ([], [put(1), get(2, "v1"), evict(3), get(4, "missing")]),
        (["lost"], [put(1), get(2, "missing")]),
        (["lost"], [put(1), get(2, "!ObjectLost")] * 1),
        (["torn"], [put(1), get(2, "torn")]),
        (["resurrected"], [put(1), evict(2), get(3, "v1")]),
        (["resurrected"], [get(3, "v1")]),
        (["stale"], [put(1), put(2, version=2), get(3, "v1")]),
        ([], [put(1), put(2, version=2), get(2.05, "v1")]),
        ([], [put(1), put(2, version=2), get(2.05, "v2")]),
        (["stale"], [put(1), put(2, version=2), get(2.05, "v3")]),
        ([], [put(1, None), get(2, "v1"), get(3, "missing")]),
        ([], [put(1), put(2, None, version=2), get(3, "v2")]),
        ([], [put(1), put(2, None, version=2), get(3, "v1")]),
        (["lost"], [put(1), put(2, None, version=2), get(3, "missing")]),
        ([], [put(1), evict(2, None), get(3, "v1"), get(4, "missing")]),
        ([], [put(1), put(2, result="!ConnectorError", version=2), get(3, "v1"), get(4, "v2")]),
        (["hang"], [put(1), get(2, "v1", took=6.5)]),
        ([], [put(1), get(2, "v1", took=5.5)]),
        (["hang"], [put(1, None), get(20, "v1")]),
        ([], [put(1, None), Event(2, "kill", "writer-1"), get(20, "v1")]),
        (["undeclared"], [put(1), get(2, "!!KeyError")]),
        (["refused"], [put(1), get(2, "!AccessDenied")]),
        ([], [put(1), get(2, "!ConnectorError")]),
        ([], [put(1, ttl=1), get(1.5, "v1"), get(2.5, "missing"), get(2.9, "v1")]),
        (["lost"], [put(1, ttl=1), get(1.5, "missing")]),
        (["resurrected"], [put(1, ttl=1), get(4, "v1")]),
    ],
)
def test_what_is_broken_is_found(rules: list[str], history: list[Record]) -> None:
    rules = ["lost", "refused"] if rules == ["lost"] and "!ObjectLost" in str(history) else rules
    found = broken(KEEPS, *history)
    assert set(found) == set(rules) - ({"refused"} if "!ObjectLost" in str(history) else set())


def test_time_in_which_a_process_was_stopped_does_not_count() -> None:
    history = [put(1), get(2, "v1", took=20)]
    stopped = [Event(3, "stop", "reader-1"), Event(18, "continue", "reader-1")]
    assert broken(KEEPS, *history, *stopped) == []
    assert broken(KEEPS, *history, stopped[0]._replace(who="x"), stopped[1]._replace(who="x")) == ["hang"]


def test_objects_may_go_with_their_writer_and_not_before() -> None:
    assert broken(WRITER, put(1), Event(2, "kill", "writer-1"), get(3, "missing")) == []
    assert broken(WRITER, put(1), Event(2, "kill", "writer-2"), get(3, "missing")) == ["lost"]
    assert broken(WRITER, put(1), get(1.5, "missing"), Event(2, "kill", "writer-1")) == ["lost"]


def test_what_a_server_took_with_it_is_told() -> None:
    down, up = Event(2, "down", "server"), Event(2.5, "up", "server")
    assert broken(SERVER, put(1), down, up, get(3, "!ObjectLost")) == []
    assert broken(SERVER, put(1), down, up, get(3, "missing")) == ["silent"]
    assert broken(SERVER._replace(tells=False), put(1), down, up, get(3, "missing")) == []
    assert broken(SERVER, put(1), get(1.5, "!ObjectLost"), down, up) == ["lost"]
    assert broken(SERVER, down, up, put(2.7), get(3, "!ObjectLost")) == ["lost"]


def test_of_a_batch_one_lost_object_is_enough() -> None:
    many = Record("reader-1", "get_many", ("k", "other"), 0, None, 3, 3.1, ("!ObjectLost",))
    down, up = Event(2, "down", "server"), Event(2.5, "up", "server")
    assert broken(SERVER, put(1), down, up, many) == []
    other = put(2.7)._replace(ids=("other",))
    assert broken(SERVER, put(2.7), other, down, up, many) == ["lost"]


def test_the_counts() -> None:
    found = judged(KEEPS, [put(1), get(2, "v1"), evict(3), put(4, None), get(5, "!ConnectorError")], ())
    assert (found.acknowledged, found.read, found.evicted, found.inside) == (1, 1, 1, 1)
    assert found.errors == {"ConnectorError": 1}


def test_what_was_written_is_read_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    log, events = Log(tmp_path, "writer-1"), Log(tmp_path, EVENTS)
    log.call("put", ["a"], lambda: ["a@x"], version=1, ttl=2.0)
    log.call("get", ["a", "b"], lambda: ["v1", "missing"])

    def fail() -> list[str]:
        raise ConnectorError("no\nway")

    assert log.call("get", ["a"], fail) is None
    with pytest.raises(ZeroDivisionError):
        log.call("get", ["a"], lambda: [str(1 // 0)])
    events.event("kill", "writer-1")
    for one in (log, events):
        one.close()
    with (tmp_path / "writer-1").open("a") as file:
        file.write("i\t5\tput\t123")
    history = History.load(tmp_path)

    assert [(record.op, record.ids, record.results) for record in history.records] == [
        ("put", ("a",), ("a@x",)),
        ("get", ("a", "b"), ("v1", "missing")),
        ("get", ("a",), ("!ConnectorError",)),
        ("get", ("a",), ("!!ZeroDivisionError",)),
    ]
    assert history.records[0].ttl == 2.0
    assert [(event.what, event.who) for event in history.events] == [("kill", "writer-1")]
    assert recent(tmp_path / "writer-1") == []  # the first line of a tail may be cut
    assert recent(tmp_path / "nobody") == []
