"""Kill -9 at a stream: nothing acknowledged lost, nothing relayed twice, keys in order, every object reclaimed.

The short form of what `make kills ARGS="--plane events"` does. A seed is printed with every failure.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from proxyfab.brokers import open_broker
from proxyfab.errors import ProxyfabError, TopicNotFound
from proxyfab.events.model import Topic
from proxyfab.patterns import Consumer, Producer
from proxyfab.testing.campaign import one_stream_run
from proxyfab.testing.events import EventServer
from proxyfab.testing.history import Event, History, Record
from proxyfab.testing.nursery import Nursery
from proxyfab.testing.processes import until
from proxyfab.testing.streamkills.judging import Verdict, judge
from proxyfab.testing.streamkills.looking import look
from proxyfab.testing.streamkills.places import kinds, names, place
from proxyfab.testing.streamkills.running import Report, live
from proxyfab.testing.streamkills.work import Job, consume

SEED = 20261121
RUNS = [(place, struck) for place in names() for struck in kinds(place)]
GROUPS = ("plain", "ordered", "relay")


# What NATS delivered to the dead comes again after seconds, what Kafka did after a minute.
SLOW = ("nats", "kafka")


@pytest.mark.parametrize(
    "place", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names()]
)
def test_some_kills(place: str) -> None:
    report, _ = one_stream_run(place, "everybody", 4, SEED)

    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("place", "struck"), RUNS)
def test_many_kills(place: str, struck: str) -> None:
    report, _ = one_stream_run(place, struck, 200, SEED + 1)  # type: ignore[arg-type]  # it is one of them

    assert report.ok, str(report)


def send(number: int, at: float, result: str | None = "t/0@1", who: str = "producer-a-1") -> Record:
    done = None if result is None else at + 0.1
    return Record(who, "send", (f"{who}:{number}",), 0, None, at, done, () if result is None else (result,))


def take(group: str, number: int, at: float, result: str = "whole") -> Record:
    return Record(f"{group}-a-3", "take", (f"producer-a-1:{number}",), 0, None, at, at + 0.1, (result,))


def judged(*records: Record, output: tuple[int, ...] = (0, 3), kills: tuple[Event, ...] = ()) -> Verdict:
    """Of a stream of two events, and what went wrong with it."""
    ordinary = [send(0, 0.0), send(3, 1.0), *[take(group, n, 2.0 + n) for group in GROUPS for n in (0, 3)]]
    given = {(record.who, record.ids) for record in records}
    kept = [record for record in ordinary if (record.who, record.ids) not in given]
    history = History(sorted([*kept, *records], key=lambda record: record.invoked), list(kills))
    ids = [f"producer-a-1:{number}" for number in output]
    return judge(history, ids, deadline=10.0, errors=frozenset({"ConnectorError"}))


def test_an_ordinary_stream_breaks_nothing() -> None:
    found = judged(send(4, 5.0, "!ConnectorError"), send(7, 6.0, None), take("plain", 0, 9.0))

    assert found.violations == []
    assert (found.acknowledged, found.inside, found.taken, found.relayed) == (2, 1, 6, 2)


@pytest.mark.parametrize(
    ("rule", "records", "output"),
    [
        ("lost", (send(6, 1.5),), (0, 3, 6)),
        ("lost", (), (0,)),
        ("duplicate", (), (0, 3, 0)),
        ("invented", (), (0, 3, 9)),
        ("disorder", (), (3, 0)),
        ("disorder", (take("ordered", 0, 8.0), take("ordered", 3, 7.0)), (0, 3)),
        ("torn", (take("plain", 0, 2.0), take("plain", 0, 3.0, "torn")), (0, 3)),
        ("released", (take("plain", 0, 2.0, "!ObjectReleased"),), (0, 3)),
        ("refused", (send(4, 5.0, "!CapacityError"),), (0, 3)),
        ("undeclared", (send(4, 5.0, "!!ValueError"),), (0, 3)),
    ],
)
def test_each_broken_promise_is_found(rule: str, records: tuple[Record, ...], output: tuple[int, ...]) -> None:
    assert rule in {violation.rule for violation in judged(*records, output=output).violations}


def test_an_answer_that_does_not_come_is_a_hang() -> None:
    found = judged(send(4, 5.0, None), kills=(Event(50.0, "kill", "producer-a-1"),))

    assert [violation.rule for violation in found.violations] == ["hang"]


def test_a_run_without_faults_or_work_shows_nothing() -> None:
    report = Report("redis", "producers", SEED)

    assert not report.ok
    assert len(report.void) == 4


def test_a_broker_that_keeps_nothing_says_what_is_lost() -> None:
    with EventServer() as server, open_broker(server.url) as broker:
        broker.ensure(Topic("t", groups=("g",)))
        consumer = Consumer(broker, "t", group="g", patience=10.0)
        out = Producer(broker, "t", timeout=10.0)
        try:
            out.send(1).result(10)
            (item,) = consumer.fetch(1, 10.0)
            server.restart()

            with pytest.raises(TopicNotFound):
                out.send(2).result(30)
            with pytest.raises(TopicNotFound):
                consumer.fetch(1, 10.0)
            item.ack()  # of what is gone: nothing, and no error
        finally:
            with contextlib.suppress(ProxyfabError):
                out.abort()
            with contextlib.suppress(ProxyfabError):
                consumer.close()


@pytest.mark.slow
def test_who_does_not_see_the_end_is_looked_at(tmp_path: Path) -> None:
    """Stacks, tasks and subscriptions of the process, its connections, and what its broker says."""
    with place("nats", tmp_path) as at, Nursery(["redis"], [consume.__module__, "proxyfab.brokers.nats"]) as nursery:
        with open_broker(at.url) as broker:
            broker.ensure(Topic("t"))
            seen = tmp_path / "seen"
            seen.mkdir()
            job = Job(tmp_path, tmp_path / "over", "c", "plain", "1", at.url, "t", "o", at.store, 2.0, 20.0, 0.1)
            pid = nursery.start(live, consume, job, seen / "c")
            assert until(lambda: (seen / "c").exists(), 20)

            def looked() -> bool:
                look(seen, {"c": pid}, at, ("t",))
                return "here._intake: _Consumers" in (seen / "c").read_text()  # it has begun by then

            assert until(looked, 20)

            os.kill(pid, signal.SIGKILL)
            nursery.reap(pid)
    mine, theirs = (seen / "c").read_text(), (seen / "broker").read_text()
    assert "in _consume" in mine
    assert "wait_for=" in mine
    assert "GroupInfo(" in theirs
    assert "established" in theirs
    assert "ack_floor" in theirs
