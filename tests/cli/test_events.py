"""`proxyfab events`: topics, lag, the last events, publishing, dead letters and triggers, as a user calls it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner, Result

from proxyfab import Store
from proxyfab.brokers import memory, open_broker
from proxyfab.cli import main
from proxyfab.cli.events import _caught_up
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Delivery
from proxyfab.patterns.stream import Consumer, Producer
from proxyfab.patterns.trigger import Trigger, statistics
from proxyfab.testing.processes import until
from tests.events.emptied import emptied

URL = "memory://cli"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with emptied(URL) as broker:
        yield broker


@pytest.fixture
def frames(broker: Broker) -> Iterator[Broker]:
    with Store("memory://cli") as store, Producer(broker, "frames", store=store, name="beam") as out:
        out.send(np.zeros(10_000), key="run-1", exposure=0.2)
        out.send("text", exposure=0.05)
        out.send(None)
        out.end()
        yield broker
        store.clear()


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["events", *arguments, "--broker", URL], input=given)


def lines(*arguments: str) -> list[dict[str, object]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_topics(frames: Broker) -> None:
    frames.ensure_group("frames", "g")
    (found,) = json.loads(run("topics", "--json").output)
    assert (found["topic"], found["partitions"], found["groups"], found["lag"]) == ("frames", 1, ["g"], found["frames"])
    assert "frames" in run("topics", "fr*").output
    assert json.loads(run("topics", "other*", "--json").output) == []


def test_a_broker_in_place_of_a_pattern_is_no_empty_list(frames: Broker) -> None:
    refused = run("topics", "redis://127.0.0.1")
    assert refused.exit_code
    assert "--broker" in refused.output


def test_lag(frames: Broker) -> None:
    with Consumer(frames, "frames", group="g") as consumer:
        for item in consumer:
            item.ack()
    found = json.loads(run("lag", "frames", "--json").output)
    assert found["groups"][0]["lag"] == 0
    assert found["producers"] == [{"producer": "beam", "epoch": 0, "ended": True}]
    assert "1 producers, 0 of them not ended; 0 dead letters" in run("lag", "frames").output


def test_tail_finds_the_last_events_behind_what_else_was_sent(frames: Broker) -> None:
    for number in range(6):
        with Producer(frames, "frames", name=f"late-{number}") as out:
            out.end()
    assert len(lines("tail", "frames", "-n", "2")) == 2


def test_tail_shows_what_is_said_of_events(frames: Broker) -> None:
    found = lines("tail", "frames")
    assert [each["type"] for each in found] == ["numpy:ndarray", "str", "NoneType"]
    assert found[0]["key"] == "run-1"
    assert found[0]["metadata"] == {"exposure": 0.2}
    assert found[0]["store"] == "memory://cli"
    text = run("tail", "frames", "-n", "2").output
    assert len(text.splitlines()) == 2
    assert "exposure=0.05" in text
    assert [each["type"] for each in lines("tail", "frames", "--where", "exposure > `0.1`")] == ["numpy:ndarray"]
    assert len(lines("tail", "frames", "--since", "5min")) == 3
    assert len(lines("tail", "frames", "--since", "5min", "-n", "1")) == 1
    assert run("tail", "frames", "-n", "0").output == ""
    assert frames.groups("frames") == {}, "nobody's position changes"


def test_tail_of_a_broker_that_is_far_away(frames: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers take half a second."""
    fetch = memory._Reader.fetch

    def late(self: memory._Reader, most: int, timeout: float) -> list[Delivery]:
        time.sleep(min(timeout, 0.5))
        return fetch(self, most, 0) if timeout > 0.5 else []

    monkeypatch.setattr(memory._Reader, "fetch", late)
    assert len(lines("tail", "frames")) == 3


def test_tail_that_begins_with_nothing_of_before_takes_nothing_that_it_does_not_show(frames: Broker) -> None:
    with Consumer(frames, "frames", observe=True) as reader:
        assert not _caught_up(reader, 0, 5.0, 1.0)
        assert [item.get() for item in reader.fetch(3, 5.0)][1:] == ["text", None]


def test_tail_follows_until_the_producers_have_ended(frames: Broker) -> None:
    assert len(lines("tail", "frames", "--follow", "-n", "100")) == 3


def test_what_is_published_arrives(broker: Broker) -> None:
    assert run("publish", "notes", "one", "two", "--key", "k", "-m", "n=7", "-m", "who=me").exit_code == 0
    assert run("publish", "notes", "--end", given="three\nfour\n").exit_code == 0
    with Consumer(broker, "notes") as consumer:
        items = consumer.fetch(10, 5)
        assert [item.get() for item in items] == ["one", "two", "three", "four"]
        assert items[0].metadata == {"n": 7, "who": "me"}
        assert items[0].key == "k"


def test_who_publishes_without_an_end_keeps_no_stream_open(frames: Broker) -> None:
    assert run("publish", "frames", "late").exit_code == 0
    assert len(lines("tail", "frames", "--follow", "-n", "100")) == 4
    assert "1 producers, 0 of them not ended" in run("lag", "frames").output


def test_dead_letters(frames: Broker) -> None:
    with Consumer(frames, "frames", group="g") as consumer:
        for item in consumer:
            item.reject("it makes no sense")
    (first, *_) = json.loads(run("dlq", "list", "frames", "--json").output)
    assert first["cause"] == "it makes no sense"
    assert first["position"] == "frames/0@1"
    assert "no sense" in run("dlq", "list", "frames").output
    assert json.loads(run("dlq", "list", "frames", "--where", "other", "--json").output) == []
    assert "1 events sent to frames once more" in run("dlq", "replay", "frames", "-n", "1").output
    assert "2 dead letters of frames deleted" in run("dlq", "purge", "frames").output
    assert json.loads(run("dlq", "list", "frames", "--json").output) == []


def test_a_topic_is_forwarded_once(frames: Broker) -> None:
    way = ("forward", "frames", "memory://cli-other", "--to", "copies", "--copy-into", "memory://cli-far", "--json")
    with open_broker("memory://cli-other") as other:
        assert json.loads(run(*way).output)["events"] >= 3
        assert json.loads(run(*way).output)["events"] == 0
        with Consumer(other, "copies") as consumer:
            assert len([item.ack() for item in consumer]) == 3
    assert "release" in run("forward", "frames", "memory://cli-other", "--name", "again").output, (
        "objects would be lost"
    )


def test_a_topic_is_deleted_with_its_objects(frames: Broker) -> None:
    with Store("memory://cli") as store:
        with Consumer(frames, "frames", group="slow"):
            pass
        assert "0 objects" in run("sweep", "frames", "--dry-run").output, "the group has to read it"
        assert "1 objects" in run("delete", "frames", "--yes").output
        assert frames.topics() == []
        assert store.clear() == 0


def test_triggers(broker: Broker) -> None:
    called = threading.Event()

    def react(_event: object) -> None:
        called.set()

    with Trigger(broker, "frames", react, start=EARLIEST), Producer(broker, "frames") as out:
        out.send(1)
        assert called.wait(10)
        assert until(lambda: statistics(broker, "react").succeeded == 1, 10)
        (found,) = json.loads(run("triggers", "--json").output)
        assert (found["trigger"], found["enabled"], found["succeeded"]) == ("react", True, 1)
        (found,) = json.loads(run("triggers", "react", "--disable", "--json").output)
        assert found["enabled"] is False
        assert "succeeded" in run("triggers", "react", "--log", "5").output
        assert "True" in run("triggers", "react", "--enable").output
    assert run("triggers", "nobody").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("lag", "nothing"), 1, "nothing"),
        (("tail", "nothing"), 1, "nothing"),
        (("dlq", "list", "nothing"), 1, "nothing"),
        (("tail", "no topic"), 2, "cannot name a topic"),
        (("publish", "notes", "x", "-m", "meta"), 2, "name=value"),
        (("triggers", "--enable"), 2, "which trigger"),
        (("triggers", "nobody"), 2, "it has: none"),
        (("triggers", "nobody", "--log", "-1"), 2, "--log"),
        (("tail", "nothing", "-n", "-3"), 2, "'-n'"),
        (("dlq", "purge", "nothing", "-n", "-1"), 2, "'-n'"),
    ],
)
def test_what_makes_no_sense_is_told(broker: Broker, arguments: tuple[str, ...], status: int, says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == status
    assert says in result.output


def test_a_moment_that_is_none(frames: Broker) -> None:
    assert "no moment" in run("tail", "frames", "--since", "yesterday").output
