"""`proxyfab top` at brokers: topics, groups, producers, dead letters and triggers; once, as lines, JSON and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from proxyfab.cli import main
from proxyfab.cli.top_broker import BrokerWatch, is_broker
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST
from proxyfab.patterns.stream import Consumer, Producer
from proxyfab.patterns.trigger import Trigger, statistics
from proxyfab.testing.processes import until
from tests.events.emptied import emptied


@pytest.fixture(params=["memory", "redis", "nats"])
def broker(request: pytest.FixtureRequest, redis_server, nats_server) -> Iterator[Broker]:
    urls = {"memory": "memory://top", "redis": redis_server.database(), "nats": f"{nats_server.url}?ns=top"}
    with emptied(urls[request.param]) as broker:
        yield broker


@pytest.fixture
def frames(broker: Broker) -> Broker:
    """Three frames of two producers, one of which has ended; a group that has one, holds none, and rejected one."""
    with Producer(broker, "frames", name="one", groups=["late"]) as one, Producer(broker, "frames", name="two") as two:
        one.send(b"x" * 1000).result(20)
        two.send(b"y" * 1000).result(20)
        one.end()
    with Consumer(broker, "frames", group="strict") as strict:
        first, second = (strict.fetch(1, 20) or pytest.fail("nothing came") for _ in range(2))
        first[0].ack()
        second[0].reject("too dark")
    return broker


def run(broker: Broker, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["top", broker.url, "--broker", *arguments])


def test_once_as_json(frames: Broker) -> None:
    done = run(frames, "--once", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert list(found["topics"]) == ["frames"], "dead letters are told of with their topic"
    topic = found["topics"]["frames"]
    assert (topic["frames"], topic["written"], topic["dead_letters"]) == (3, 3, 1)
    assert topic["nbytes"] > 2000
    assert (topic["producers"], topic["ended"], topic["open"]) == (2, 1, 1)
    assert topic["groups"]["late"]["lag"] == 3
    assert topic["groups"]["strict"]["lag"] <= 1
    assert topic["rate"] is None


def test_once_as_a_table(frames: Broker) -> None:
    shown = run(frames, "--once").output
    assert "1 topics, 3 frames" in shown
    assert re.search(r"frames +1 +3 +\d+\.\d KiB +- +- +2 +1 +1", shown), shown
    assert re.search(r"late +frames +3 +0 +-", shown), shown


def test_rates_are_from_two_looks(frames: Broker) -> None:
    watch = BrokerWatch(frames.url)
    first = watch.look(None)
    with Producer(frames, "frames") as out:
        for _ in range(4):
            out.send(b"z" * 1000).result(20)
    with Consumer(frames, "frames", group="late") as late:
        for _ in range(2):
            for item in late.fetch(1, 20):
                item.ack()
        late.flush()
    second = watch.look(first)
    passed, topic = second.seconds - first.seconds, second.topics["frames"]
    assert topic.rate is not None
    assert topic.byte_rate is not None
    assert topic.rate * passed == pytest.approx(4, rel=0.01)
    assert topic.byte_rate * passed > 2000
    acknowledged = first.topics["frames"].groups["late"].lag + 4 - topic.groups["late"].lag
    assert topic.groups["late"].rate == pytest.approx(acknowledged / passed, rel=0.01)
    assert f"frames.frames={topic.frames}" in watch.line(second)
    assert "frames.in/s=" in watch.line(second)
    frames.delete("frames")
    assert watch.look(second).topics.get("frames") is None


def test_metrics_are_printed(frames: Broker) -> None:
    shown = run(frames, "--prometheus", "-").output
    place = f'place="{frames.url}"'
    assert f"proxyfab_up{{{place}}} 1.0" in shown
    assert f'proxyfab_topic_frames{{{place},topic="frames"}} 3.0' in shown
    assert f'proxyfab_topic_written_total{{{place},topic="frames"}} 3.0' in shown
    assert f'proxyfab_topic_producers_ended{{{place},topic="frames"}} 1.0' in shown
    assert f'proxyfab_topic_dead_letters{{{place},topic="frames"}} 1.0' in shown
    assert f'proxyfab_group_lag{{group="late",{place},topic="frames"}} 3.0' in shown


def test_triggers_are_told_of(broker: Broker) -> None:
    with Trigger(broker, "frames", print, group="printed", start=EARLIEST):
        with Producer(broker, "frames") as out:
            out.send("one")
        assert until(lambda: statistics(broker, "printed").succeeded == 1)
    found = json.loads(run(broker, "--once", "--json").output)["triggers"]["printed"]
    assert found == {"topic": "frames", "enabled": True, "fired": 1, "succeeded": 1, "failed": 0, "buried": 0}
    assert "printed" in run(broker, "--once").output
    assert 'trigger="printed"} 1.0' in run(broker, "--prometheus", "-").output


def test_a_broker_that_is_not_there() -> None:
    done = CliRunner().invoke(main, ["top", "redis://127.0.0.1:1?timeout=1", "--broker", "--once"])
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    (up,) = BrokerWatch("redis://127.0.0.1:1?timeout=1").collector().collect()
    assert [sample.value for sample in up.samples] == [0]


@pytest.mark.parametrize(
    ("url", "said", "broker"),
    [
        ("nats://host", False, True),
        ("kafka://host", False, True),
        ("redis://host", False, False),
        ("redis://host", True, True),
        ("shm://", False, False),
        ("lz4+file:///place#seal=encrypt:lab", False, False),
    ],
)
def test_which_urls_are_brokers(url: str, said: bool, broker: bool) -> None:
    assert is_broker(url, said) is broker
